"""A COCO json and its folder of pictures as checked, immutable records.

    data.json: images, annotations, categories
        -> CocoDataset(images=(ImageRecord(instances=(Instance, ...)), ...), class_names, faults)

Category ids, which may have gaps, become labels 0 ... K-1. Every item is checked once, here, before
training starts, so that what comes after can rely on it.
"""

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from kmaskrcnn.data.entries import (
    entry_int,
    entry_value,
    is_number,
    read_box,
    read_crowd,
    read_keypoints,
    read_segmentation,
)
from kmaskrcnn.data.faults import DatasetError, Fault, Rejected
from kmaskrcnn.data.json_files import read_coco_json
from kmaskrcnn.data.keypoints import KeypointNames, read_keypoint_names
from kmaskrcnn.data.pictures import check_header, read_picture

__all__ = ["CocoDataset", "DatasetError", "Fault", "ImageRecord", "Instance", "load_coco"]

logger = logging.getLogger(__name__)

NOT_IN_JSON = -1  # the category id of a class that a model knows and a json does not
PICTURE_CHECKS = {True: check_header, "header": check_header, "decode": read_picture}
SKIP_HINT = (
    "To leave these items out and keep all others: on_error='skip' "
    "(commands: --on-error skip, those that train: --set data.on_error=skip)."
)


@dataclass(frozen=True)
class Instance:
    """One object of a picture.

    Args:
        annotation_id: int.
        box: `(x1, y1, x2, y2)` floats, pixels of the original picture, cut to it.
        label: int, 0 ... K-1.
        is_crowd: bool, a group whose members are not told apart.
        segmentation: list of polygons, RLE `dict`, or `None`.
        area: float, square pixels of the mask as the json states it, or else of the box.
        keypoints: `((x, y, visibility), ...)` floats, or `None`.
    """

    annotation_id: int
    box: tuple
    label: int
    is_crowd: bool = False
    segmentation: list | dict | None = None
    area: float = 0.0
    keypoints: tuple | None = None


@dataclass(frozen=True)
class ImageRecord:
    """One picture and its objects; there may be none.

    Args:
        image_id: int.
        path: str, the picture's file.
        height: int, pixels.
        width: int, pixels.
        instances: tuple of `Instance`.
        void: RLE `dict` of the pixels that Cityscapes judges nobody by, or `None`.
        negative_labels: tuple of int, the classes that LVIS knows to be absent.
        not_exhaustive_labels: tuple of int, those of which LVIS says that objects may be unmarked.
    """

    image_id: int
    path: str
    height: int
    width: int
    instances: tuple = ()
    void: dict | None = None
    negative_labels: tuple = ()
    not_exhaustive_labels: tuple = ()


@dataclass(frozen=True)
class CocoDataset:
    """A dataset in which every item is sound.

    Args:
        images: tuple of `ImageRecord`, in the json's order.
        class_names: tuple of str; `class_names[label]` is a class's name.
        category_ids: tuple of int; `category_ids[label]` is its id in the json, -1 where the
            json has no such category.
        faults: tuple of `Fault`, the items that were left out.
        json_path: str, the file or folder that it was read from.
        keypoints: `KeypointNames`, or `None`.
        rules: `"coco"`, `"lvis"` or `"cityscapes"`: by whose rules its AP is reckoned.
        frequencies: tuple of `"r"`, `"c"` or `"f"` by label: LVIS's rare, common and frequent.
    """

    images: tuple
    class_names: tuple
    category_ids: tuple
    faults: tuple = field(default=())
    json_path: str = ""
    keypoints: KeypointNames | None = None
    rules: str = "coco"
    frequencies: tuple = ()


def load_coco(json_path, image_dir, *, class_names=None, on_error="raise", check_images=True):
    """Reads a dataset in COCO's format and checks every item of it.

    Args:
        json_path: path of the json with `images`, `annotations` and `categories`.
        image_dir: path of the folder that the images' `file_name` are relative to.
        class_names: sequence of str, the classes of a trained model: labels follow its order and
            categories are found by their names. By default labels follow the category ids.
        on_error: `"raise"` raises all faults at once; `"skip"` leaves the faulty items out and
            lists them in `.faults`. What belongs to a picture or category that is left out goes
            with it and is not listed again; nothing else is lost.
        check_images: `True` or `"header"` looks at each file's header and end, which finds missing
            and truncated files in about 0.1 ms each; `"decode"` decodes all; `False` checks none.

    Returns:
        `CocoDataset`.

    Raises:
        DatasetError: with every fault, each with its file, image id and annotation id; with
            `on_error="skip"` only if the json or the folder itself cannot be read.
        ValueError: if `on_error` or `check_images` is none of the above.

    Example:
        >>> records = load_coco("instances_train2017.json", "train2017/", on_error="skip")
        >>> len(records.images), records.class_names[0], records.category_ids[0]
        (118287, 'person', 1)
    """
    document = read_coco_json(json_path)
    options = {"class_names": class_names, "on_error": on_error, "check_images": check_images}
    return check_document(document, json_path, image_dir, **options)


def check_document(
    document,
    source,
    image_dir,
    *,
    class_names=None,
    on_error="raise",
    check_images=True,
    faults=(),
):
    """Checks every item of a COCO json's content, wherever it comes from.

    Args:
        document: dict with the lists `images`, `annotations` and `categories`; it is emptied.
        source: path of the file or folder that it was read from, for the faults.
        image_dir, class_names, on_error, check_images: as for `load_coco`.
        faults: the `Fault`s that were found while it was read.

    Returns:
        `CocoDataset`.

    Raises:
        DatasetError, ValueError: as `load_coco`.
    """
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    if check_images and check_images not in PICTURE_CHECKS:
        accepted = "True, 'header', 'decode' or False"
        raise ValueError(f"check_images must be {accepted}, got {check_images!r}")
    if not Path(image_dir).is_dir():
        fault = Fault("missing folder", "image_dir must be a folder", str(image_dir))
        raise DatasetError([fault, *faults])
    reader = _Reader(document, str(source), Path(image_dir), faults)
    keypoints = reader.read_keypoints()
    names, category_ids, labels = reader.read_categories(class_names)
    images = reader.check_pictures(reader.read_images(), PICTURE_CHECKS.get(check_images))
    images = reader.read_instances(images, labels)
    if reader.faults and on_error == "raise":
        raise DatasetError(reader.faults, SKIP_HINT)
    if reader.faults:
        kinds = Counter(fault.kind for fault in reader.faults)
        logger.warning("%s: left out %d faulty items: %s", source, kinds.total(), dict(kinds))
    return CocoDataset(images, names, category_ids, tuple(reader.faults), str(source), keypoints)


class _Reader:
    """Reads a document's lists one after the other and gathers their faults."""

    def __init__(self, document, json_path, image_dir, faults):
        self.document, self.json_path, self.image_dir = document, json_path, image_dir
        self.faults = list(faults)

    def read_keypoints(self):
        """The categories' `KeypointNames`."""
        try:
            return read_keypoint_names(self.document["categories"])
        except Rejected as rejected:
            self.faults.append(Fault(rejected.kind, f"categories: {rejected}", self.json_path))
            return None

    def read_categories(self, class_names):
        """`(class_names, category_ids, {category id: label})`, `None` for a label left out."""
        names, declared = self._sift("categories", _read_name, lambda entry: {})
        names = dict(sorted(names.items()))
        names = self._without_duplicates(names) if class_names is None else names
        if class_names is None or list(names.values()) == list(class_names):
            labels = {category_id: label for label, category_id in enumerate(names)}
            class_names = names.values()
        else:
            label_of = {name: label for label, name in enumerate(class_names)}
            labels = {category_id: label_of.get(name) for category_id, name in names.items()}
            self._report_unknown_classes(names, labels, class_names)
        if not class_names:
            raise DatasetError([Fault("malformed json", "it has no categories", self.json_path)])
        id_of = {label: category_id for category_id, label in reversed(labels.items())}
        category_ids = tuple(id_of.get(label, NOT_IN_JSON) for label in range(len(class_names)))
        return tuple(class_names), category_ids, {**dict.fromkeys(declared), **labels}

    def _without_duplicates(self, names):
        """`{category id: name}`; of categories of one name the one with most objects is kept."""
        if len(set(names.values())) == len(names):
            return names
        objects = Counter(_id_or_none(e, "category_id") for e in self.document["annotations"])
        kept = {}
        for category_id in sorted(names, key=lambda number: -objects[number]):
            first = kept.setdefault(names[category_id], category_id)
            if first != category_id:
                message = (
                    f"category {names[category_id]!r} has the ids {first} and {category_id}, with "
                    f"{objects[first]} and {objects[category_id]} objects: rename one or leave it "
                    "out, as the format coco_export does with one that only names a group"
                )
                self.faults.append(Fault("duplicate class name", message, self.json_path))
        return {number: name for number, name in names.items() if kept[name] == number}

    def _report_unknown_classes(self, names, labels, class_names):
        for category_id, name in names.items():
            if labels[category_id] is None:
                message = (
                    f"category {name!r} (id {category_id}) is not one of the model's "
                    f"{len(class_names)} classes {list(class_names)[:10]}"
                )
                self.faults.append(Fault("unknown class", message, self.json_path))

    def read_images(self):
        """`{image id: ImageRecord}`, `None` for a picture left out."""

        def read(entry):
            name = entry_value(entry, "file_name", str, "a string")
            height, width = entry_int(entry, "height", 1), entry_int(entry, "width", 1)
            return ImageRecord(entry_int(entry, "id"), str(self.image_dir / name), height, width)

        images, declared = self._sift(
            "images", read, lambda entry: {"image_id": _id_or_none(entry, "id")}
        )
        return {**dict.fromkeys(declared), **images}

    def check_pictures(self, images, check):
        """The images, with `None` for those whose file does not pass `check`."""

        def fault(record):
            try:
                check(record.path, (record.height, record.width))
            except Rejected as rejected:
                return Fault(rejected.kind, str(rejected), record.path, record.image_id)
            return None

        records = [record for record in images.values() if record and check]
        with ThreadPoolExecutor() as threads:
            faults = [found for found in threads.map(fault, records) if found]
        self.faults += faults
        return {**images, **dict.fromkeys(found.image_id for found in faults)}

    def read_instances(self, images, labels):
        """The images that are left, in the json's order, with their objects."""
        instances = {image_id: [] for image_id in images}

        def read(entry):
            image_id, instance = _read_instance(entry, images, labels)
            instances[image_id].append(instance)

        self._sift("annotations", read, lambda entry: self._locate_annotation(entry, images))
        return tuple(
            replace(record, instances=tuple(filter(None, instances[image_id])))
            for image_id, record in images.items()
            if record
        )

    def _sift(self, kind, read, locate):
        """`({id: item}, ids)`: the entries that `read` accepts, and the ids of all; else faults."""
        kept, declared = {}, {}  # dictionaries keep the json's order
        for position, entry in enumerate(self.document[kind]):
            try:
                entry_id = entry_int(entry, "id")
                if entry_id in declared:
                    raise Rejected("duplicate id", f"the id {entry_id} in {kind!r} is taken")
                declared[entry_id] = None
                kept[entry_id] = read(entry)
            except Rejected as rejected:
                where = {"file": self.json_path, **locate(entry)}
                message = f"{kind}[{position}]: {rejected}"
                self.faults.append(Fault(rejected.kind, message, **where))
        del self.document[kind]  # the json of a large dataset takes gigabytes
        return kept, declared

    def _locate_annotation(self, entry, images):
        image_id = _id_or_none(entry, "image_id")
        record = images.get(image_id)
        found = {"image_id": image_id, "annotation_id": _id_or_none(entry, "id")}
        return {**found, "file": record.path} if record else found


def _id_or_none(entry, key):
    try:
        return entry_int(entry, key)
    except Rejected:
        return None


def _read_name(entry):
    return entry_value(entry, "name", str, "a string")


def _read_instance(entry, images, labels):
    """`(image id, Instance)`, the instance `None` where its picture or class was left out."""
    image_id, category_id = entry_int(entry, "image_id"), entry_int(entry, "category_id")
    if image_id not in images:
        raise Rejected("unknown image id", f"'images' has no id {image_id}")
    if category_id not in labels:
        raise Rejected("unknown category id", f"'categories' has no id {category_id}")
    record, label = images[image_id], labels[category_id]
    if record is None or label is None:
        return image_id, None
    x1, y1, x2, y2 = box = read_box(entry, record.height, record.width)
    area = entry.get("area")
    return image_id, Instance(
        annotation_id=entry_int(entry, "id"),
        box=box,
        label=label,
        is_crowd=read_crowd(entry),
        segmentation=read_segmentation(entry, record.height, record.width),
        area=float(area) if is_number(area) else (x2 - x1) * (y2 - y1),
        keypoints=read_keypoints(entry),
    )
