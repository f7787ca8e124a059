"""What a format says of its pictures, put together as the content of a COCO json.

    a reader of a format -> SourcePicture(objects=(SourceObject | Rejected, ...)) | Fault, ...
        -> assemble -> (document, faults) -> records.check_document

A reader numbers nothing and checks no box or polygon: ids are given here, in the order of pictures
and objects, and every item is checked once.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from pycocotools import mask as coco_mask

from kmaskrcnn.data.entries import is_number, read_segmentation
from kmaskrcnn.data.faults import DatasetError, Fault, Rejected
from kmaskrcnn.geometry.segmentations import to_rle


@dataclass(frozen=True)
class SourceObject:
    """One object as a format describes it.

    Args:
        name: str, its class.
        segmentation: list of polygons, RLE `dict`, or `None` where it has a box alone.
        box: `(x1, y1, x2, y2)` in pixels; by default that of the segmentation.
        is_crowd: bool, a group whose members are not told apart.
        place: str, such as `"regions[3]"`, what a complaint begins with; `read_each` gives it.
    """

    name: str
    segmentation: list | dict | None = None
    box: tuple | None = None
    is_crowd: bool = False
    place: str = ""


@dataclass(frozen=True)
class SourcePicture:
    """One picture as a format describes it.

    Args:
        file_name: str, relative to the folder of pictures.
        height: int, pixels.
        width: int, pixels.
        objects: sequence of `SourceObject`, or of `Rejected` in the place of one that is faulty.
        source: str, the file that says so.
    """

    file_name: str
    height: int
    width: int
    objects: tuple = ()
    source: str = ""


@dataclass
class Document:
    """The content of a COCO json, and what was wrong with its source.

    Args:
        images, annotations, categories: the json's lists.
        faults: list of `Fault`.
    """

    images: list = field(default_factory=list)
    annotations: list = field(default_factory=list)
    categories: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def to_coco(self):
        """The dict that a COCO json holds."""
        names = ("images", "annotations", "categories")
        return {name: getattr(self, name) for name in names}


def read_each(entries, read):
    """What `read` makes of each entry, or the `Rejected` that it raised, in a tuple.

    Args:
        entries: `{place: entry}`; the place, such as `"regions[3]"`, is put before the complaint.
        read: function of an entry.
    """
    found = []
    for place, entry in entries.items():
        try:
            item = read(entry)
        except Rejected as rejected:
            item = Rejected(rejected.kind, f"{place}: {rejected}")
        found.append(replace(item, place=place) if isinstance(item, SourceObject) else item)
    return tuple(found)


def read_pictures(items, read):
    """What `read` makes of each file, or its `Fault`, in order; several at a time.

    Args:
        items: list of `(path, item)`; the path is the file that a fault names.
        read: function of a path and its item to `SourcePicture`; `Rejected` and `DatasetError`
            become faults.
    """

    def read_one(named):
        path, item = named
        try:
            return read(path, item)
        except Rejected as rejected:
            return Fault(rejected.kind, str(rejected), str(path))
        except DatasetError as error:
            return error.faults[0]

    with ThreadPoolExecutor() as threads:
        return list(threads.map(read_one, items))


def assemble(pictures, source, class_ids=None):
    """Numbers pictures and objects, checks the objects and names the classes.

    Args:
        pictures: iterable of `SourcePicture`, or of `Fault` in the place of one that is unreadable.
        source: path that the pictures were read from, for the faults.
        class_ids: `{name: category id}`, the classes in their order; by default all that occur, in
            the alphabet's order, from 1 on.

    Returns:
        `Document`.

    Raises:
        DatasetError: if there is no picture, or no class is named.
    """
    document, taken = Document(), set()
    number = 0
    for image_id, picture in enumerate(pictures, start=1):
        if not isinstance(picture, Fault) and picture.file_name in taken:
            message = f"the picture {picture.file_name!r} has objects elsewhere, too"
            picture = Fault("duplicate picture", message, picture.source or str(source))
        if isinstance(picture, Fault):
            document.faults.append(replace(picture, image_id=image_id))
            continue
        taken.add(picture.file_name)
        document.images.append(
            {
                "id": image_id,
                "file_name": picture.file_name,
                "height": picture.height,
                "width": picture.width,
            }
        )
        for item in picture.objects:
            number += 1
            try:
                document.annotations.append(_annotation(item, picture, image_id, number, class_ids))
            except Rejected as rejected:
                where = (picture.source or str(source), image_id, number)
                place = f"{item.place}: " if getattr(item, "place", "") else ""
                document.faults.append(Fault(rejected.kind, f"{place}{rejected}", *where))
    _name_classes(document, class_ids, source)
    return document


def _name_classes(document, class_ids, source):
    if class_ids is None:
        names = sorted({annotation["category_id"] for annotation in document.annotations})
        class_ids = {name: number for number, name in enumerate(names, start=1)}
    if not document.images or not class_ids:
        missing = "class" if document.images else "picture"
        fault = Fault("empty dataset", f"it names no {missing}", str(source))
        raise DatasetError([*document.faults, fault])
    document.categories += [{"id": number, "name": name} for name, number in class_ids.items()]
    for annotation in document.annotations:
        annotation["category_id"] = class_ids[annotation["category_id"]]


def _annotation(item, picture, image_id, number, class_ids):
    if isinstance(item, Rejected):
        raise item
    if class_ids is not None and item.name not in class_ids:
        known = list(class_ids)[:10]
        raise Rejected("unknown class", f"{item.name!r} is not one of the classes {known}")
    size = picture.height, picture.width
    segmentation = read_segmentation({"segmentation": item.segmentation}, *size)
    box, area = measure(segmentation, item.box, size)
    return {
        "id": number,
        "image_id": image_id,
        "category_id": item.name,
        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        "area": area,
        "iscrowd": int(item.is_crowd),
        **({} if segmentation is None else {"segmentation": segmentation}),
    }


def measure(segmentation, box, size):
    """The box and the area of an object.

    Args:
        segmentation: checked list of polygons, RLE `dict`, or `None`.
        box: `(x1, y1, x2, y2)`, or `None` for that of the segmentation.
        size: `(height, width)` of the picture.

    Returns:
        `(box, area)`, the area in pixels of the mask, or else of the box.
    """
    if box is not None:
        if not all(is_number(value) for value in box):
            raise Rejected("bad box", f"a box must be 4 finite numbers, got {box}")
        box = tuple(map(float, box))
    if segmentation is None:
        if box is None:
            raise Rejected("malformed entry", "an object must have a segmentation or a box")
        return box, (box[2] - box[0]) * (box[3] - box[1])
    rle = to_rle(segmentation, *size)
    if box is None and isinstance(segmentation, dict):
        x, y, width, height = coco_mask.toBbox(rle).tolist()
        box = x, y, x + width, y + height
    elif box is None:
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        box = (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    return box, float(coco_mask.area(rle))
