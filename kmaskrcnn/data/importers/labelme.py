"""LabelMe: a json beside each picture.

    {"imagePath": "a.jpg", "imageHeight": 480, "imageWidth": 640, "shapes": [SHAPE]}
    SHAPE: {"label": "cat", "shape_type": "polygon", "points": [[x, y], ...], "group_id": null}

Shapes of one label and one group id are the parts of one object. A "mask" is a PNG of its own box in
base64, whose upper left pixel stands at the first point.

Reference:
    Wada, "labelme: Image Polygonal Annotation with Python".
"""

import base64
import binascii
import math
import posixpath
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from kmaskrcnn.data.entries import check_polygon, entry_int, entry_value, is_number
from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.data.importers.assembly import (
    SourceObject,
    SourcePicture,
    assemble,
    read_each,
    read_pictures,
)
from kmaskrcnn.data.index_pictures import decode_indices
from kmaskrcnn.data.json_files import read_json
from kmaskrcnn.data.pictures import picture_size
from kmaskrcnn.geometry.outlines import circle, rectangle
from kmaskrcnn.geometry.run_lengths import windows_to_rles
from kmaskrcnn.geometry.segmentations import to_rle

NO_AREA = ("point", "points", "line", "linestrip")


def read_labelme(source, image_dir):
    """Reads a folder of LabelMe's json files, those of its folders too, or one such file.

    Args:
        source: path of the folder or file.
        image_dir: path of the folder of pictures, laid out as the json files are.

    Returns:
        `Document`.
    """
    source = Path(source)
    paths = sorted(source.rglob("*.json")) if source.is_dir() else [source]
    root = source if source.is_dir() else source.parent
    items = [(path, path.parent.relative_to(root)) for path in paths]
    return assemble(read_pictures(items, partial(_read_file, image_dir=Path(image_dir))), source)


def _read_file(path, folder, image_dir):
    document = read_json(path)
    name = entry_value(document, "imagePath", str, "a string").replace("\\", "/")
    file_name = posixpath.normpath((folder / name).as_posix())
    if not (image_dir / file_name).exists():  # moved since, as tools for a cleaner layout do
        file_name = (folder / Path(name).name).as_posix()
    if document.get("imageHeight") is None or document.get("imageWidth") is None:
        size = picture_size(image_dir / file_name)
    else:
        size = entry_int(document, "imageHeight", 1), entry_int(document, "imageWidth", 1)
    groups = _group(entry_value(document, "shapes", list, "a list"))
    return SourcePicture(file_name, *size, read_each(groups, partial(_join, size=size)), str(path))


def _group(shapes):
    """`{place: shapes of one object}`."""
    groups, places = {}, {}
    for position, shape in enumerate(shapes):
        place = f"shapes[{position}]"
        number = shape.get("group_id") if isinstance(shape, dict) else None
        if isinstance(number, (int, str)):
            place = places.setdefault((shape.get("label"), number), place)
        groups.setdefault(place, []).append(shape)
    return groups


def _join(shapes, size):
    """The object that shapes are parts of."""
    parts = [_outline(shape, size) for shape in shapes]
    label = entry_value(shapes[0], "label", str, "a string")
    if not any(isinstance(part, dict) for part in parts):
        return SourceObject(label, parts)
    if len(parts) == 1:
        return SourceObject(label, parts[0])
    for part in parts:
        if not isinstance(part, dict):
            check_polygon(part, *size)
    rles = [to_rle(part if isinstance(part, dict) else [part], *size) for part in parts]
    joined = coco_mask.merge(rles)
    return SourceObject(label, {"size": list(size), "counts": joined["counts"].decode("ascii")})


def _outline(shape, size):
    """A flat polygon, or the RLE of a mask."""
    points = entry_value(shape, "points", list, "a list of points [x, y]")
    kind = shape.get("shape_type") or "polygon"  # early versions knew no other
    if kind in NO_AREA:
        raise Rejected("unknown shape", f"a {kind!r} has no area to be a mask")
    is_points = all(isinstance(p, list) and len(p) == 2 and all(map(is_number, p)) for p in points)
    if not is_points:
        raise Rejected("bad polygon", "'points' must be a list of points [x, y] of finite numbers")
    if kind in ("polygon", "oriented_rectangle"):
        return [value for point in points for value in point]
    if kind not in ("rectangle", "circle", "mask"):
        raise Rejected("unknown shape", f"{kind!r} is not known")
    if len(points) != 2:
        raise Rejected("bad polygon", f"a {kind} has 2 points, got {len(points)}")
    if kind == "circle":
        radius = math.dist(*points)
        if not radius:
            raise Rejected("bad polygon", f"a circle must have a radius, got {points}")
        return circle(*points[0], radius)
    if kind == "mask":
        return _mask(shape, points, size)
    low, high = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
    return rectangle(*low, *high)


def _mask(shape, points, size):
    text = entry_value(shape, "mask", str, "a PNG in base64")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Rejected("bad mask", f"'mask' must be a PNG in base64: {error}") from error
    mask = decode_indices(data) != 0
    left, top = (math.floor(value) for value in points[0])
    bottom, right = top + mask.shape[0], left + mask.shape[1]
    if min(top, left) < 0 or bottom > size[0] or right > size[1]:
        place = f"({left}, {top}) to ({right}, {bottom})"
        raise Rejected("mask outside", f"the mask from {place} leaves the picture of {size}")
    return windows_to_rles([(mask, top, left)], size)[0]
