"""One call for every format of datasets: by its name, or by what the files look like."""

import inspect
import json
from pathlib import Path

from kmaskrcnn.coco_format import to_coco
from kmaskrcnn.data.faults import DatasetError, Fault
from kmaskrcnn.data.importers import (
    cityscapes,
    coco_export,
    labelme,
    lvis,
    masks,
    tfrecord,
    via,
    voc,
    yolo,
)
from kmaskrcnn.data.json_files import refuse_overwriting
from kmaskrcnn.data.records import check_document, load_coco

# Formats with rules of their own, and those that say no more than a COCO json can.
LOADERS = {"coco": load_coco, "cityscapes": cityscapes.load_cityscapes, "lvis": lvis.load_lvis}
READERS = {
    "coco_export": coco_export.read_coco_export,
    "via": via.read_via,
    "labelme": labelme.read_labelme,
    "voc": voc.read_voc,
    "mask_folders": masks.read_mask_folders,
    "instance_images": masks.read_instance_images,
    "yolo": yolo.read_yolo,
    "tfrecord": tfrecord.read_tfrecord,
}
FORMATS = ("auto", *LOADERS, *READERS)


def load_dataset(source, image_dir=None, *, format="auto", reader_options=None, **options):
    """Reads a dataset of any known format and checks every item of it.

    Args:
        source: path of the file or folder that holds the annotations; docs/data.md has one example
            a format.
        image_dir: path of the folder of pictures; by default where the format has them, see
            `default_image_dir`.
        format: one of `FORMATS`; `"auto"` looks at the source.
        reader_options: dict of what a format's reader takes beside paths: `class_attribute` of
            `"via"`, `class_name` of `"mask_folders"` and `"instance_images"`.
        **options: `class_names`, `on_error` and `check_images` as for `load_coco`.

    Returns:
        `CocoDataset`.

    Raises:
        DatasetError: as `load_coco`, or no format can be told from the source.
        ValueError: as `load_coco`, or the format or one of its reader's options is unknown.

    Example:
        >>> load_dataset("gtFine/val", "leftImg8bit/val").rules
        'cityscapes'
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    format = detect_format(source) if format == "auto" else format
    image_dir = image_dir or default_image_dir(source, format)
    reader_options = reader_options or {}
    parameters = inspect.signature(READERS[format]).parameters if format in READERS else ()
    known = set(parameters) - {"source", "image_dir"}
    if not set(reader_options) <= known:
        accepted = sorted(known) or "none"
        raise ValueError(
            f"reader_options: {format!r} takes {accepted}, got {sorted(reader_options)}"
        )
    if format in LOADERS:
        return LOADERS[format](source, image_dir, **options)
    document = READERS[format](source, image_dir, **reader_options)
    return check_document(document.to_coco(), source, image_dir, faults=document.faults, **options)


def convert_dataset(
    source, output, image_dir=None, *, format="auto", reader_options=None, on_error="raise"
):
    """Writes a dataset of any known format as a COCO json.

    Args:
        source, image_dir, format, reader_options, on_error: as for `load_dataset`; a COCO json that
            is not named otherwise is read as `"coco_export"`, which puts right what it can.
        output: path of the json to write; its `file_name`s are relative to the folder of pictures,
            but for those that name a place elsewhere.

    Returns:
        `CocoDataset`, what was written.

    Raises:
        DatasetError, ValueError: as `load_dataset`; also a `ValueError` if `output` is the source,
            or is there already within the source's folder.
    """
    refuse_overwriting(source, output)
    format = detect_format(source) if format == "auto" else format
    format = "coco_export" if format == "coco" else format
    image_dir = Path(image_dir or default_image_dir(source, format))
    records = load_dataset(
        source, image_dir, format=format, reader_options=reader_options, on_error=on_error
    )

    def name(record):
        path = Path(record.path)
        return (path.relative_to(image_dir) if path.is_relative_to(image_dir) else path).as_posix()

    content = to_coco(records, records.category_ids, name)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(json.dumps(content))
    return records


def detect_format(source):
    """The name of the format that a file or folder looks like.

    Raises:
        DatasetError: if it looks like none, or cannot be read.
    """
    source = Path(source)
    found = _format_of_folder(source) if source.is_dir() else _format_of_file(source)
    if found is None:
        message = f"no format can be told from the folder; name one: {', '.join(FORMATS[1:])}"
        raise DatasetError([Fault("unknown format", message, str(source))])
    return found


def default_image_dir(source, format):
    """Where a format has its pictures: beside the annotations, or in a folder of its layout.

    Raises:
        ValueError: if the format has no such place.
    """
    if format in ("instance_images", "tfrecord"):
        raise ValueError(f"image_dir: with {format!r} a folder of pictures must be given")
    if format == "cityscapes":
        return cityscapes.default_image_dir(source)
    if format == "voc":
        return Path(source) / "JPEGImages"
    if format == "yolo":
        return yolo.default_image_dir(source)
    return Path(source) if Path(source).is_dir() else Path(source).parent


def _format_of_folder(source):
    if any(source.rglob("*_gt*_polygons.json")) or any(source.rglob("*_instanceIds.png")):
        return "cityscapes"
    if (source / "Annotations").is_dir() or (source / "SegmentationObject").is_dir():
        return "voc"
    if any(source.glob("*/masks/*")):
        return "mask_folders"
    if any(tfrecord.is_tfrecord(path.name) for path in source.iterdir()):
        return "tfrecord"
    first = min(source.rglob("*.json"), default=None)
    return "labelme" if first and _format_of_file(first) == "labelme" else None


def _format_of_file(source):
    if source.suffix.lower() in (".yaml", ".yml"):
        return "yolo"
    if tfrecord.is_tfrecord(source.name):
        return "tfrecord"
    content = _read_bytes(source)  # to parse a large json takes many seconds
    if b'"annotations"' in content and b'"categories"' in content:
        return "lvis" if b'"not_exhaustive_category_ids"' in content else "coco"
    if b'"_via_img_metadata"' in content or b'"region_attributes"' in content:
        return "via"
    return "labelme" if b'"shapes"' in content and b'"imagePath"' in content else "coco"


def _read_bytes(path):
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DatasetError([Fault("missing file", reason, str(path))]) from error
