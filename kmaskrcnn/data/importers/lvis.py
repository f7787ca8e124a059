"""LVIS v1: COCO's json and pictures, with classes that are judged in some pictures only.

    images[i]["neg_category_ids"]             classes that were looked for and are not there
    images[i]["not_exhaustive_category_ids"]  classes of which not every object is marked
    images[i]["coco_url"]                     ".../train2017/000000391895.jpg", its folder and file
    categories[i]["frequency"]                "r" rare, "c" common, "f" frequent

Reference:
    Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (2019).
"""

from dataclasses import replace
from pathlib import Path

from kmaskrcnn.data.entries import entry_int, entry_value, is_number
from kmaskrcnn.data.faults import Fault, Rejected
from kmaskrcnn.data.json_files import read_coco_json
from kmaskrcnn.data.records import check_document

FREQUENCIES = ("r", "c", "f")
FEDERATION = ("neg_category_ids", "not_exhaustive_category_ids")


def load_lvis(json_path, image_dir, *, class_names=None, on_error="raise", check_images=True):
    """Reads a json of LVIS v1 and checks every item of it.

    AP of these records is reckoned by LVIS's rules.

    Args:
        json_path: path of the json.
        image_dir: path of the folder that holds COCO's `train2017/` and `val2017/` (LVIS's parts mix
            them), or of one folder with all pictures.
        class_names, on_error, check_images: as for `load_coco`.

    Returns:
        `CocoDataset` whose pictures have `negative_labels` and `not_exhaustive_labels`.

    Raises:
        DatasetError, ValueError: as `load_coco`.

    Example:
        >>> records = load_lvis("lvis_v1_train.json", "coco/")
        >>> len(records.class_names), records.frequencies.count("r")
        (1203, 337)
    """
    document = read_coco_json(json_path)
    _take_file_names(document["images"], Path(image_dir))
    federation, faults = _read_federation(document["images"], str(json_path))
    frequencies, more = _read_frequencies(document["categories"], str(json_path))
    records = check_document(
        document,
        json_path,
        image_dir,
        class_names=class_names,
        on_error=on_error,
        check_images=check_images,
        faults=[*faults, *more],
    )
    return _federate(records, federation, frequencies)


def _federate(records, federation, frequencies):
    labels = {category_id: label for label, category_id in enumerate(records.category_ids)}

    def of(record):
        negative, not_exhaustive = (
            tuple(sorted(labels[number] for number in numbers if number in labels))
            for numbers in federation[record.image_id]
        )
        return replace(record, negative_labels=negative, not_exhaustive_labels=not_exhaustive)

    images = tuple(of(record) for record in records.images if record.image_id in federation)
    named = tuple(frequencies.get(number, "") for number in records.category_ids)
    return replace(records, images=images, rules="lvis", frequencies=named)


def _take_file_names(images, image_dir):
    """Gives each picture that has none the `file_name` that its url ends with."""
    for entry in images:
        url = entry.get("coco_url") if isinstance(entry, dict) else None
        if isinstance(url, str) and "file_name" not in entry:
            folder, _, name = "/".join(url.split("/")[-2:]).rpartition("/")
            entry["file_name"] = f"{folder}/{name}" if (image_dir / folder).is_dir() else name


def _read_federation(images, json_path):
    """`({image id: (negative ids, not exhaustive ids)}, faults)`."""
    federation, faults = {}, []
    for position, image_id, entry in _numbered(images):
        try:
            federation[image_id] = tuple(_read_ids(entry, key) for key in FEDERATION)
        except Rejected as rejected:
            message = f"images[{position}]: {rejected}"
            faults.append(Fault(rejected.kind, message, json_path, image_id))
    return federation, faults


def _read_ids(entry, key):
    ids = entry_value(entry, key, list, "a list of category ids")
    if not all(is_number(number) for number in ids):
        raise Rejected("malformed entry", f"{key!r} must be a list of category ids")
    return {int(number) for number in ids}


def _read_frequencies(categories, json_path):
    """`({category id: "r", "c" or "f"}, faults)`."""
    frequencies, faults = {}, []
    for position, category_id, entry in _numbered(categories):
        if entry.get("frequency") in FREQUENCIES:
            frequencies[category_id] = entry["frequency"]
        else:
            found = f"'frequency' must be one of {FREQUENCIES}, got {entry.get('frequency')!r}"
            message = f"categories[{position}] (id {category_id}): {found}"
            faults.append(Fault("malformed entry", message, json_path))
    return frequencies, faults


def _numbered(entries):
    """`(position, id, entry)` of those that have an id; the others are complained of with the rest."""
    for position, entry in enumerate(entries):
        try:
            yield position, entry_int(entry, "id"), entry
        except Rejected:
            continue
