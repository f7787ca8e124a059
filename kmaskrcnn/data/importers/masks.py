"""Masks as pictures: a file for each object, or one file whose values number the objects.

    mask folders        <name>/images/<name>.png, <name>/masks/*.png      not 0: the object
    instance pictures   <name>.png, of the same name as its picture        0: nothing, n: object n

The first layout is that of the 2018 Data Science Bowl. Neither knows classes: all objects are of one.
"""

from functools import partial
from pathlib import Path

from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.data.importers.assembly import (
    SourceObject,
    SourcePicture,
    assemble,
    read_each,
    read_pictures,
)
from kmaskrcnn.data.index_pictures import read_indices
from kmaskrcnn.data.pictures import picture_size
from kmaskrcnn.geometry.instance_images import mask_to_rle, split_instances

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def read_mask_folders(source, image_dir, class_name="object"):
    """Reads a folder that has a folder a picture, with `images/` and `masks/` in it.

    Args:
        source: path of the folder.
        image_dir: the same path, since pictures stand beside their masks.
        class_name: str, the objects' class.

    Returns:
        `Document`.
    """
    folders = [(path.parent, None) for path in sorted(Path(source).glob("*/images"))]
    read = partial(_read_folder, image_dir=Path(image_dir), class_name=class_name)
    return assemble(read_pictures(folders, read), source, {class_name: 1})


def read_instance_images(source, image_dir, class_name="object"):
    """Reads a folder of pictures of ids, each of the name of the picture that it belongs to.

    Args:
        source: path of the folder; its folders are read too.
        image_dir: path of the folder of pictures, laid out alike; suffixes may differ.
        class_name: str, the objects' class.

    Returns:
        `Document`.
    """
    paths = [
        (path, path.relative_to(source).with_suffix(""))
        for path in sorted(Path(source).rglob("*"))
        if path.suffix.lower() in PICTURE_SUFFIXES
    ]
    read = partial(_read_ids, image_dir=Path(image_dir), class_name=class_name)
    return assemble(read_pictures(paths, read), source, {class_name: 1})


def find_picture(image_dir, name):
    """The path, relative to `image_dir`, of the one picture called `name` but for its suffix."""
    folder = (image_dir / name).parent
    found = [
        path.relative_to(image_dir)
        for path in sorted(folder.glob(f"{_literal(name.name)}.*"))
        if path.suffix.lower() in PICTURE_SUFFIXES and path.stem == name.name
    ]
    if len(found) != 1:
        message = f"one picture {name}.* in {image_dir} is wanted, got {len(found)}"
        raise Rejected("missing file", message)
    return found[0].as_posix()


def _literal(name):
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _read_folder(folder, _, image_dir, class_name):
    pictures = _pictures_in(folder / "images")
    if len(pictures) != 1:
        raise Rejected("missing file", f"one picture in images/ is wanted, got {len(pictures)}")
    size = picture_size(pictures[0])
    masks = {path.name: path for path in _pictures_in(folder / "masks")}

    def read(path):
        return SourceObject(class_name, mask_to_rle(read_indices(path, size) != 0))

    file_name = pictures[0].absolute().relative_to(image_dir.absolute()).as_posix()
    return SourcePicture(file_name, *size, read_each(masks, read), str(folder))


def _pictures_in(folder):
    """Its pictures alone: desktops leave files of their own everywhere."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)


def _read_ids(path, name, image_dir, class_name):
    file_name = find_picture(image_dir, name)
    ids = read_indices(path, picture_size(image_dir / file_name))
    objects = tuple(SourceObject(class_name, rle) for rle in split_instances(ids).values())
    return SourcePicture(file_name, *ids.shape, objects, str(path))
