"""COCO json as other tools write it: FiftyOne, Roboflow and their like.

What is put right: ids that are text or fractions ("7", 7.0); a class that only names the group of the
others (Roboflow's number 0); boxes that are missing where there is a mask; lists of polygons with
empty ones among them; RLEs whose size is not of whole numbers. All else is checked as COCO's.
"""

import itertools

from kmaskrcnn.data.entries import is_number, read_segmentation
from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.data.importers.assembly import Document, measure
from kmaskrcnn.data.json_files import read_coco_json

ID_KEYS = (  # each row numbers one kind of thing
    (("images", "id"), ("annotations", "image_id")),
    (("categories", "id"), ("annotations", "category_id")),
    (("annotations", "id"),),
)
CROWDS = {None: 0, "0": 0, "1": 1}


def read_coco_export(source, image_dir=None):
    """Reads a COCO json and puts right what its writers are known to do.

    Args:
        source: path of the json.
        image_dir: not needed.

    Returns:
        `Document`; what it cannot put right is left for the check that follows.

    Raises:
        DatasetError: as `read_coco_json`.
    """
    content = read_coco_json(source)
    kinds = ("images", "annotations", "categories")
    sound = {kind: [e for e in content[kind] if isinstance(e, dict)] for kind in kinds}
    _number_annotations(sound["annotations"])
    for keys in ID_KEYS:
        _renumber([(entry, key) for kind, key in keys for entry in sound[kind]])
    sizes = {
        image.get("id"): (image.get("height"), image.get("width")) for image in sound["images"]
    }
    for annotation in sound["annotations"]:
        _mend(annotation, sizes.get(annotation.get("image_id")))
    categories = _without_group(content["categories"], sound)
    return Document(content["images"], content["annotations"], categories)


def _number_annotations(annotations):
    if not any("id" in annotation for annotation in annotations):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number


def _renumber(places):
    """Text becomes the number that it spells; other text the next number that is free."""
    values = {entry[key]: None for entry, key in places if isinstance(entry.get(key), (str, int))}
    texts = [value for value in values if isinstance(value, str)]
    numbers = {text: int(text) for text in texts if text.strip().isdecimal()}
    taken = {*numbers.values(), *(value for value in values if isinstance(value, int))}
    free = (number for number in itertools.count(1) if number not in taken)
    numbers |= {text: next(free) for text in texts if text not in numbers}
    for entry, key in places:
        if isinstance(entry.get(key), str):
            entry[key] = numbers[entry[key]]


def _without_group(categories, sound):
    """The categories but for one that is no class: nobody's own, and named as others' group or a class."""
    used = {str(annotation.get("category_id")) for annotation in sound["annotations"]}
    groups = {str(category.get("supercategory")) for category in sound["categories"]}
    groups |= {str(c.get("name")) for c in sound["categories"] if str(c.get("id")) in used}
    return [
        category
        for category in categories
        if not isinstance(category, dict)
        or str(category.get("id")) in used
        or category.get("supercategory") not in (None, "", "none")
        or str(category.get("name")) not in groups
    ]


def _mend(annotation, size):
    if "iscrowd" in annotation and annotation["iscrowd"] in CROWDS.keys():
        annotation["iscrowd"] = CROWDS[annotation["iscrowd"]]
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        annotation["segmentation"] = [polygon for polygon in segmentation if polygon != []]
    elif isinstance(segmentation, dict) and isinstance(segmentation.get("size"), list):
        sides = segmentation["size"]
        whole = [int(v) if is_number(v) and v == int(v) else v for v in sides]
        annotation["segmentation"] = {**segmentation, "size": whole}
    if annotation.get("bbox") in (None, []) and size is not None:
        try:
            segmentation = read_segmentation(annotation, *size)
            (x1, y1, x2, y2), area = measure(segmentation, None, size)
        except (Rejected, TypeError, ValueError):
            return  # the check that follows names what is wrong
        annotation |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area}
