"""Cityscapes: polygons in json or instance-id pictures, in the folders that its archives unpack to.

    gtFine/train/<city>/<city>_000000_000019_gtFine_instanceIds.png    16 bits: class * 1000 + number
    gtFine/train/<city>/<city>_000000_000019_gtFine_polygons.json
    leftImg8bit/train/<city>/<city>_000000_000019_leftImg8bit.png

Polygons hide what stands before them in the list, so they are painted one over the other, and both
kinds of file end in the same pixels. A value under 1000 is a class as a whole: for the 8 classes with
instances, a group whose members are not told apart.

Reference:
    Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding" (2016).
"""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from kmaskrcnn.data.entries import check_polygon, entry_int, entry_value
from kmaskrcnn.data.faults import DatasetError, Fault, Rejected
from kmaskrcnn.data.importers.assembly import SourceObject, SourcePicture, assemble
from kmaskrcnn.data.index_pictures import read_indices
from kmaskrcnn.data.json_files import read_json
from kmaskrcnn.data.records import check_document
from kmaskrcnn.geometry.instance_images import mask_to_rle, split_instances

# The classes that are evaluated, and all others that labels may name; -1 is never painted.
CLASS_IDS = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
OTHER_IDS = {
    "unlabeled": 0,
    "ego vehicle": 1,
    "rectification border": 2,
    "out of roi": 3,
    "static": 4,
    "dynamic": 5,
    "ground": 6,
    "road": 7,
    "sidewalk": 8,
    "parking": 9,
    "rail track": 10,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "guard rail": 14,
    "bridge": 15,
    "tunnel": 16,
    "pole": 17,
    "polegroup": 18,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "caravan": 29,
    "trailer": 30,
    "license plate": -1,
}
LABEL_IDS = CLASS_IDS | OTHER_IDS
WITH_INSTANCES = {*CLASS_IDS.values(), 29, 30}
VOID_VALUES = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)  # single caravans are no void
GROUPS_BELOW = 1000
MOST_PIXELS = 2**28  # more than any camera's: a slip of the pen that would cost gigabytes

_LABEL_FILE = re.compile(r"(.+)_(gtFine|gtCoarse)_(instanceIds\.png|polygons\.json)")


def load_cityscapes(
    label_dir, image_dir=None, *, class_names=None, on_error="raise", check_images=True
):
    """Reads a part of Cityscapes and checks every item of it.

    Of a picture with both kinds of labels the instance-id picture is read. Objects are masks of what
    is visible; one that others hide whole is none. Groups are crowds. AP of these records is
    reckoned by Cityscapes' rules.

    Args:
        label_dir: path of the folder of a part's cities, such as `gtFine/train`.
        image_dir: path of that part's pictures; by default `leftImg8bit` in the place of `gtFine`.
        class_names, on_error, check_images: as for `load_coco`.

    Returns:
        `CocoDataset` of 8 classes, `category_ids` 24 to 33 as Cityscapes has them.

    Raises:
        DatasetError, ValueError: as `load_coco`.

    Example:
        >>> records = load_cityscapes("gtFine/train", "leftImg8bit/train")
        >>> len(records.images), records.class_names[:3]
        (2975, ('person', 'rider', 'car'))
    """
    labels = find_labels(label_dir)
    image_dir = Path(image_dir or default_image_dir(label_dir))
    with ThreadPoolExecutor() as threads:
        read = list(threads.map(_read_labels, labels, labels.values()))
    document = assemble((picture for picture, _ in read), label_dir, CLASS_IDS)
    records = check_document(
        document.to_coco(),
        label_dir,
        image_dir,
        class_names=class_names,
        on_error=on_error,
        check_images=check_images,
        faults=document.faults,
    )
    voids = {number: void for number, (_, void) in enumerate(read, start=1)}
    images = tuple(replace(record, void=voids[record.image_id]) for record in records.images)
    return replace(records, images=images, rules="cityscapes")


def find_labels(label_dir):
    """`{picture's file name: path of its labels}`, sorted; instance-id pictures before polygons.

    Raises:
        DatasetError: if there are none.
    """
    labels = {}
    for path in sorted(Path(label_dir).rglob("*_gt*_*.*")):  # ...instanceIds before ...polygons
        match = _LABEL_FILE.fullmatch(path.name)
        if match:
            city = path.parent.relative_to(label_dir)
            labels.setdefault((city / f"{match[1]}_leftImg8bit.png").as_posix(), path)
    if not labels:
        wanted = "*_gtFine_instanceIds.png or *_gtFine_polygons.json"
        raise DatasetError([Fault("empty dataset", f"there are no {wanted}", str(label_dir))])
    return labels


def default_image_dir(label_dir):
    """`leftImg8bit/train` beside `gtFine/train`."""
    parts = Path(label_dir).absolute().parts
    return Path(*("leftImg8bit" if part in ("gtFine", "gtCoarse") else part for part in parts))


def _read_labels(file_name, path):
    """`(SourcePicture or Fault, RLE of the void pixels)`."""
    try:
        ids, faulty = (read_indices(path), []) if path.suffix == ".png" else _paint_file(path)
    except Rejected as rejected:
        return Fault(rejected.kind, str(rejected), str(path)), None
    except DatasetError as error:
        return error.faults[0], None
    names = {label_id: name for name, label_id in CLASS_IDS.items()}
    objects = [
        SourceObject(names[_label_id(value)], rle, is_crowd=value < GROUPS_BELOW)
        for value, rle in split_instances(ids, _ignored(ids)).items()
    ]
    picture = SourcePicture(file_name, *ids.shape, (*objects, *faulty), str(path))
    return picture, mask_to_rle(np.isin(ids, VOID_VALUES))


def _label_id(value):
    return value if value < GROUPS_BELOW else value // 1000


def _ignored(ids):
    """The values of pixels that belong to no object of the 8 classes."""
    classes = set(CLASS_IDS.values())
    return [value for value in np.unique(ids).tolist() if _label_id(value) not in classes]


def _paint_file(path):
    """`(ids, faulty)`: the picture of ids that a file's polygons make, and those it leaves out."""
    document = read_json(path)
    height, width = entry_int(document, "imgHeight", 1), entry_int(document, "imgWidth", 1)
    if height * width > MOST_PIXELS:
        raise Rejected("malformed json", f"{height} x {width} pixels are more than {MOST_PIXELS}")
    canvas, faulty, counts = Image.new("I", (width, height)), [], {}
    brush = ImageDraw.Draw(canvas)
    for place, entry in enumerate(entry_value(document, "objects", list, "a list")):
        try:
            _paint(brush, entry, counts, (height, width))
        except Rejected as rejected:
            faulty.append(Rejected(rejected.kind, f"objects[{place}]: {rejected}"))
    return np.array(canvas), faulty


def _paint(brush, entry, counts, size):
    label = entry_value(entry, "label", str, "a string")
    if entry.get("deleted"):
        return
    value, is_group = LABEL_IDS.get(label), False
    if value is None:
        value, is_group = LABEL_IDS.get(label.removesuffix("group")), True
    if value is None:
        raise Rejected("unknown class", f"Cityscapes has no label {label!r}")
    if value in WITH_INSTANCES and not is_group:
        counts[value] = counts.get(value, -1) + 1
        value = value * 1000 + counts[value]
    points = entry_value(entry, "polygon", list, "a list of points [x, y]")
    if value >= 0:
        brush.polygon(_checked_points(points, size), fill=value)


def _checked_points(points, size):
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise Rejected("bad polygon", "'polygon' must be a list of points [x, y]")
    flat = [number for point in points for number in point]
    check_polygon(flat, *size)
    return flat
