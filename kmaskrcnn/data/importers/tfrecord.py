"""TFRecord files as the TensorFlow Object Detection API writes them, read without it.

    image/encoded, image/filename, image/height, image/width
    image/object/bbox/xmin ... ymax     parts of width and height
    image/object/class/text, .../label  names, numbers
    image/object/mask                   a PNG of the whole picture an object
    image/object/is_crowd

The pictures stand in the records; records of ours name files. So each picture is written to the folder
of pictures, unless the same is there already. The API looks at no EXIF orientation, so boxes and masks
lie on the pixels as they are stored: a picture that says that it be turned is written without saying so.
Where a record has a height and width, they are those of its picture.

Reference:
    `object_detection/core/standard_fields.py`, `TfExampleFields`, in TensorFlow's model garden.
"""

import re
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError

from kmaskrcnn.data.faults import DatasetError, Fault, Rejected
from kmaskrcnn.data.importers.assembly import SourceObject, SourcePicture, assemble, read_each
from kmaskrcnn.data.index_pictures import decode_indices
from kmaskrcnn.data.pictures import decode_picture, without_orientation
from kmaskrcnn.geometry.instance_images import mask_to_rle

SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PN": ".png"}
SIDES = ("xmin", "ymin", "xmax", "ymax")


def is_tfrecord(name):
    """Whether a file's name says so: `a.tfrecord`, `a.tfrec`, `a.record-00000-of-00010`."""
    return re.search(r"\.(tf)?rec(ord)?s?(-\d+-of-\d+)?$", name) is not None


def read_tfrecord(source, image_dir):
    """Reads a TFRecord file, or all of a folder.

    Args:
        source: path of the file or folder.
        image_dir: path of the folder that the pictures are written to, made if need be.

    Returns:
        `Document`.

    Raises:
        DatasetError: if a file is missing or damaged.
    """
    source, image_dir = Path(source), Path(image_dir)
    image_dir.mkdir(parents=True, exist_ok=True)
    files = (
        sorted(p for p in source.iterdir() if is_tfrecord(p.name)) if source.is_dir() else [source]
    )
    return assemble((_read_example(*one, image_dir) for one in _examples(files)), source)


def _examples(files):
    """`(place, features)` of each record."""
    for path in files:
        try:
            for number, record in enumerate(tf.data.TFRecordDataset(str(path))):
                yield f"{path}, record {number}", _features(record.numpy())
        except tf.errors.OpError as error:
            reason = f"the records cannot be read: {error.message}"
            raise DatasetError([Fault("damaged file", reason, str(path))]) from error


def _features(record):
    """`{name: list of values}`, or `Rejected`."""
    try:
        example = tf.train.Example.FromString(record)
    except DecodeError as error:
        return Rejected("malformed record", f"it is no tf.train.Example: {error}")
    kinds = ("bytes_list", "float_list", "int64_list")
    return {
        name: [value for kind in kinds for value in getattr(feature, kind).value]
        for name, feature in example.features.feature.items()
    }


def _read_example(place, features, image_dir):
    try:
        if isinstance(features, Rejected):
            raise features
        return _read_picture(place, features, image_dir)
    except Rejected as rejected:
        return Fault(rejected.kind, str(rejected), place)


def _read_picture(place, features, image_dir):
    encoded, (height, width) = _picture_as_labelled(features)
    file_name = _file_name(features, encoded)
    _write_once(image_dir / file_name, encoded)
    columns = {side: features.get(f"image/object/bbox/{side}", []) for side in SIDES}
    counts = {side: len(values) for side, values in columns.items()}
    if len(set(counts.values())) > 1:
        raise Rejected("malformed record", f"boxes need as many of each side, got {counts}")
    count = counts["xmin"]
    scale = dict(zip(SIDES, (width, height) * 2))

    def read(number):
        box = tuple(columns[side][number] * scale[side] for side in SIDES)
        masks = _column(features, "image/object/mask", count)
        rle = (
            None
            if masks is None
            else mask_to_rle(decode_indices(masks[number], (height, width)) != 0)
        )
        crowds = _column(features, "image/object/is_crowd", count)
        return SourceObject(
            _class_name(features, number, count), rle, box, bool(crowds and crowds[number])
        )

    objects = read_each({f"object {number}": number for number in range(count)}, read)
    return SourcePicture(file_name, height, width, objects, place)


def _picture_as_labelled(features):
    """`(encoded, (height, width))`, of a picture that is read as its boxes and masks lie on it."""
    encoded = _first(features, "image/encoded", bytes)
    stored = without_orientation(encoded)
    size = decode_picture(stored).shape[:2]
    declared = tuple((features.get(f"image/{side}") or [None])[0] for side in ("height", "width"))
    if None in declared or declared == size:
        return stored, size
    decode_picture(encoded, declared)  # labelled upright, or else refused
    return encoded, declared


def _column(features, key, count):
    """The values of all objects, `None` where the record has none."""
    values = features.get(key) or None
    if values is not None and len(values) != count:
        raise Rejected("malformed record", f"{key!r} needs {count} values, got {len(values)}")
    return values


def _class_name(features, number, count):
    names = _column(features, "image/object/class/text", count)
    if names is not None:
        return names[number].decode("utf-8", "replace")
    labels = _column(features, "image/object/class/label", count)
    if labels is None:
        raise Rejected("no class", "neither 'image/object/class/text' nor '.../label' is there")
    return f"class {labels[number]}"


def _first(features, key, kind):
    values = features.get(key) or [None]
    if not isinstance(values[0], kind):
        raise Rejected("malformed record", f"{key!r} is missing")
    return values[0]


def _file_name(features, encoded):
    """The last part of the name that the record gives, so that no file leaves the folder."""
    name = Path(_first(features, "image/filename", bytes).decode("utf-8", "replace")).name
    if not name:
        raise Rejected("malformed record", "'image/filename' names no file")
    return name if Path(name).suffix else name + SUFFIXES.get(encoded[:3], ".png")


def _write_once(path, encoded):
    if not path.exists():
        path.write_bytes(encoded)
    elif path.read_bytes() != encoded:
        raise Rejected("duplicate picture", f"{path} is there and is another picture")
