"""One call for every format of datasets: by its name, or by what the files look like."""

from pathlib import Path

from kmaskrcnn.data.faults import DatasetError, Fault
from kmaskrcnn.data.importers.cityscapes import load_cityscapes
from kmaskrcnn.data.importers.lvis import load_lvis
from kmaskrcnn.data.records import load_coco

LOADERS = {"coco": load_coco, "cityscapes": load_cityscapes, "lvis": load_lvis}
FORMATS = ("auto", *LOADERS)
LVIS_MARK = b'"not_exhaustive_category_ids"'


def load_dataset(source, image_dir, *, format="auto", **options):
    """Reads a dataset of any known format and checks every item of it.

    Args:
        source: path of the file or folder that holds the annotations; docs/data.md has one example
            a format.
        image_dir: path of the folder of pictures.
        format: `"coco"`, `"cityscapes"`, `"lvis"`, or `"auto"`, which looks at the source.
        **options: `class_names`, `on_error` and `check_images` as for `load_coco`.

    Returns:
        `CocoDataset`.

    Raises:
        DatasetError: as `load_coco`, or no format can be told from the source.
        ValueError: as `load_coco`, or the format is unknown.

    Example:
        >>> load_dataset("gtFine/val", "leftImg8bit/val").rules
        'cityscapes'
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {FORMATS}, got {format!r}")
    format = detect_format(source) if format == "auto" else format
    return LOADERS[format](source, image_dir, **options)


def detect_format(source):
    """The name of the format that a file or folder looks like.

    Raises:
        DatasetError: if it looks like none, or cannot be read.
    """
    source = Path(source)
    if not source.is_dir():
        return "lvis" if _holds(source, LVIS_MARK) else "coco"
    if any(source.rglob("*_gt*_polygons.json")) or any(source.rglob("*_instanceIds.png")):
        return "cityscapes"
    message = f"no format can be told from the folder; name one of {FORMATS[1:]}"
    raise DatasetError([Fault("unknown format", message, str(source))])


def _holds(path, mark):
    """Whether the bytes are somewhere in the file: to parse a large json takes many seconds."""
    try:
        return mark in path.read_bytes()
    except (OSError, ValueError) as error:
        reason = f"the file cannot be read: {getattr(error, 'strerror', None) or error}"
        raise DatasetError([Fault("missing file", reason, str(path))]) from error
