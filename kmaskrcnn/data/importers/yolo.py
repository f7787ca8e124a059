"""YOLO's text files for segmentation, as Ultralytics lays them out.

    data.yaml             names: [cat, dog] or {0: cat, 1: dog}; train: images/train
    images/train/a.jpg
    labels/train/a.txt    a line an object: class x1 y1 x2 y2 ..., in parts of width and height

A line of five numbers is a box: class, centre, width, height. A picture without a file has no objects.
Labels of poses look like outlines: a yaml with `kpt_shape` is refused.
"""

from functools import partial
from pathlib import Path

import yaml

from kmaskrcnn.data.faults import DatasetError, Fault, Rejected
from kmaskrcnn.data.importers.assembly import (
    SourceObject,
    SourcePicture,
    assemble,
    read_each,
    read_pictures,
)
from kmaskrcnn.data.importers.masks import PICTURE_SUFFIXES
from kmaskrcnn.data.pictures import picture_size


def read_yolo(source, image_dir=None):
    """Reads one part of a YOLO dataset.

    Args:
        source: path of `data.yaml`.
        image_dir: path of the part's pictures; by default what `train` names. Labels are sought
            where the path's last `images` is `labels`.

    Returns:
        `Document`, the classes in the yaml's order, ids from 0.

    Raises:
        DatasetError: if the yaml cannot be read, lacks what is needed or is of poses, or if there
            is no folder of pictures or not one file of labels for them.
    """
    content = _read_yaml(source)
    names = _read_names(content, source)
    if "kpt_shape" in content:
        raise _malformed("labels of poses ('kpt_shape') are not read", source)
    image_dir = Path(image_dir or default_image_dir(source, content))
    if not image_dir.is_dir():
        message = f"there is no such folder of pictures, of which {source} tells"
        raise DatasetError([Fault("missing folder", message, str(image_dir))])
    paths = [
        (path, path.relative_to(image_dir))
        for path in sorted(image_dir.rglob("*"))
        if path.suffix.lower() in PICTURE_SUFFIXES
    ]
    labels = _label_dir(image_dir)
    if paths and not any(_label_path(labels, name).is_file() for _, name in paths):
        message = f"it has no label file, such as {_label_path(labels, paths[0][1])}"
        raise DatasetError([Fault("missing labels", message, str(labels))])
    read = partial(_read_picture, labels=labels, names=names)
    class_ids = {name: number for number, name in names.items()}
    return assemble(read_pictures(paths, read), source, class_ids)


def default_image_dir(source, content=None):
    """The folder that `train` names, relative to `path` or to the yaml's folder."""
    content = content or _read_yaml(source)
    train = content.get("train")
    if not isinstance(train, str):
        raise _malformed("'train' must name a folder; give the folder of pictures instead", source)
    root = Path(source).parent / str(content.get("path") or "")
    # Some exports count from another folder than their own.
    places = [root / train, Path(source).parent / train.removeprefix("../")]
    return next((place for place in places if place.is_dir()), places[0])


def _read_yaml(source):
    try:
        content = yaml.safe_load(Path(source).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise _malformed(f"the yaml cannot be read: {reason}", source) from error
    if not isinstance(content, dict):
        raise _malformed("it must hold keys and values", source)
    return content


def _read_names(content, source):
    names = content.get("names")
    names = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(names, dict) or not all(type(number) is int for number in names):
        raise _malformed("'names' must be a list of names, or numbers with names", source)
    if len(set(map(str, names.values()))) < len(names):
        raise _malformed("'names' must be different", source)
    return {number: str(name) for number, name in sorted(names.items())}


def _malformed(message, source):
    return DatasetError([Fault("malformed yaml", message, str(source))])


def _label_dir(image_dir):
    parts = list(Path(image_dir).absolute().parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts)


def _label_path(labels, name):
    return (labels / name).with_suffix(".txt")


def _read_picture(path, name, labels, names):
    size = picture_size(path)
    label_path = _label_path(labels, name)
    lines = (
        label_path.read_text(encoding="utf-8", errors="replace").splitlines()
        if (label_path.is_file())
        else []
    )
    entries = {f"line {place}": line for place, line in enumerate(lines, start=1) if line.strip()}
    objects = read_each(entries, partial(_read_line, names=names, size=size))
    return SourcePicture(name.as_posix(), *size, objects, str(label_path))


def _read_line(line, names, size):
    try:
        number, *values = map(float, line.split())
    except ValueError as error:
        raise Rejected("malformed line", f"numbers are wanted: {error}") from error
    if number not in names:
        raise Rejected("unknown class", f"the yaml has no class {number:g}")
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        message = "4 numbers of a box or 3 and more points are wanted"
        raise Rejected("malformed line", f"{message}, got {len(values)} numbers")
    height, width = size
    pixels = [value * (height if place % 2 else width) for place, value in enumerate(values)]
    if len(values) > 4:
        return SourceObject(names[int(number)], [pixels])
    x, y, box_width, box_height = pixels
    box = x - box_width / 2, y - box_height / 2, x + box_width / 2, y + box_height / 2
    return SourceObject(names[int(number)], box=box)
