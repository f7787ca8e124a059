"""Pascal VOC: boxes in XML, and masks as pictures of objects and of classes.

    Annotations/2007_000032.xml          boxes and class names; xmin ... ymax count pixels from 1
    JPEGImages/2007_000032.jpg
    SegmentationObject/2007_000032.png   n: object n of the picture, 0: nothing, 255: void, an outline
    SegmentationClass/2007_000032.png    the class of each pixel, by its place among VOC's 20

Where there are masks, only pictures with masks are read, as VOC's lists for segmentation do. A mask
takes the name of the box that it overlaps most, or else of its class picture. Objects that are
"difficult" are crowds: they are neither to be found nor wrong to find; so are their boxes where they
have no mask.

Reference:
    Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge" (2010).
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.data.importers.assembly import (
    SourceObject,
    SourcePicture,
    assemble,
    read_each,
    read_pictures,
)
from kmaskrcnn.data.importers.masks import find_picture
from kmaskrcnn.data.index_pictures import read_indices
from kmaskrcnn.data.pictures import picture_size
from kmaskrcnn.geometry.instance_images import mask_to_rle
from kmaskrcnn.geometry.outlines import rectangle

NAMES = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike "
    "person pottedplant sheep sofa train tvmonitor"
).split()
VOID = 255
LEAST_OVERLAP = 0.5  # IoU of a mask's box and the box that names it; outlines are void, so not 1


@dataclass(frozen=True)
class _Box:
    """An object of the XML.

    Args:
        name: str.
        box: `(x1, y1, x2, y2)` in continuous pixels.
        is_difficult: bool.
    """

    name: str
    box: tuple
    is_difficult: bool


def read_voc(source, image_dir=None):
    """Reads a folder in Pascal VOC's layout.

    Args:
        source: path of the folder of `Annotations`, such as `VOCdevkit/VOC2012`.
        image_dir: path of the folder of pictures; by default `JPEGImages` in it.

    Returns:
        `Document`.
    """
    source = Path(source)
    image_dir = Path(image_dir or source / "JPEGImages")
    paths = sorted((source / "SegmentationObject").glob("*.png"))
    paths = paths or sorted((source / "Annotations").glob("*.xml"))
    read = partial(_read_picture, source=source, image_dir=image_dir)
    return assemble(read_pictures([(path, path.stem) for path in paths], read), source)


def _read_picture(path, stem, source, image_dir):
    file_name = find_picture(image_dir, Path(stem))
    size = picture_size(image_dir / file_name)
    xml = source / "Annotations" / f"{stem}.xml"
    boxes = _read_boxes(xml) if xml.is_file() else ()
    faulty = tuple(box for box in boxes if isinstance(box, Rejected))
    boxes = [box for box in boxes if not isinstance(box, Rejected)]
    if path.suffix == ".xml":
        objects = tuple(_boxed(box) for box in boxes)
    else:
        objects = _read_masks(path, source / "SegmentationClass" / path.name, boxes, size)
    return SourcePicture(file_name, *size, (*objects, *faulty), str(path))


def _read_boxes(path):
    data = path.read_bytes()
    if b"<!ENTITY" in data:  # can grow to gigabytes; VOC has none
        raise Rejected("malformed XML", f"{path.name} declares entities")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise Rejected("malformed XML", f"{path.name}: {error}") from error
    entries = {f"object[{place}]": entry for place, entry in enumerate(root.iter("object"))}
    return read_each(entries, _read_box)


def _read_box(entry):
    name = (entry.findtext("name") or "").strip()
    if not name:
        raise Rejected("malformed entry", "<name> is missing")
    try:
        x1, y1, x2, y2 = (
            float(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
    except (TypeError, ValueError) as error:
        raise Rejected("bad box", "<bndbox> must hold xmin, ymin, xmax, ymax") from error
    difficult = (entry.findtext("difficult") or "0").strip() == "1"
    return _Box(name, (x1 - 1, y1 - 1, x2, y2), difficult)


def _boxed(box):
    """An object without a mask; a difficult one is the whole of its box."""
    outline = [rectangle(*box.box)] if box.is_difficult else None
    return SourceObject(box.name, outline, box.box, box.is_difficult)


def _read_masks(path, class_path, boxes, size):
    ids = read_indices(path, size)
    classes = read_indices(class_path, size) if class_path.is_file() else None
    values = [value for value in np.unique(ids).tolist() if value not in (0, VOID)]
    masks = {value: ids == value for value in values}
    named = _match({value: _box_of(mask) for value, mask in masks.items()}, boxes)

    def read(value):
        mask, box = masks[value], named.get(value)
        name = _class_of(mask, box, classes)
        return SourceObject(name, mask_to_rle(mask), is_crowd=bool(box and box.is_difficult))

    found = read_each({f"object {value} of {path.name}": value for value in values}, read)
    left = [box for box in boxes if box not in named.values()]
    return (*found, *(_left_over(box) for box in left))


def _left_over(box):
    if box.is_difficult:
        return _boxed(box)
    return Rejected("no mask", f"the {box.name!r} at {box.box} has a box and no mask")


def _box_of(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


def _match(mask_boxes, boxes):
    """`{value: _Box}`: each mask with at most one box, the best overlaps first."""
    pairs = [
        (_iou(own, box.box), value, place)
        for value, own in mask_boxes.items()
        for place, box in enumerate(boxes)
    ]
    named, taken = {}, set()
    for overlap, value, place in sorted(pairs, reverse=True):
        if overlap >= LEAST_OVERLAP and value not in named and place not in taken:
            named[value] = boxes[place]
            taken.add(place)
    return named


def _iou(first, second):
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = np.prod(np.maximum(high - low, 0))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (first, second)]
    return shared / max(sum(areas) - shared, 1e-9)


def _class_of(mask, box, classes):
    """The class's name; the XML's and the class picture's must not contradict each other."""
    named = None
    if classes is not None:
        values, counts = np.unique(classes[mask], return_counts=True)
        most = int(values[counts.argmax()])
        named = NAMES[most - 1] if 1 <= most <= len(NAMES) else None
    if box is None and named is None:
        raise Rejected("no class", "no box overlaps the mask, and no class picture names it")
    if box and named and box.name in NAMES and box.name != named:
        message = f"the box says {box.name!r}, the class picture says {named!r}"
        raise Rejected("contradiction", message)
    return box.name if box else named
