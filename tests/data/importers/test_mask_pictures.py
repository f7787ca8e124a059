"""Masks as pictures: every pixel in its object, and faults by name."""

import numpy as np
import pytest
from import_checks import all_instances, check_round_trip, mask_of, write_picture
from PIL import Image

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset

IDS = np.zeros((20, 30), np.uint16)
IDS[2:9, 3:12] = 7
IDS[6:15, 8:20] = 300
IDS[4, 4] = 0  # a hole
IDS[18:, 27:] = 7  # a part of its own


def write_folders(folder):
    write_picture(folder / "nuclei" / "one" / "images" / "one.png")
    masks = folder / "nuclei" / "one" / "masks"
    masks.mkdir(parents=True)
    for value in (7, 300):
        Image.fromarray(((IDS == value) * 255).astype(np.uint8)).save(masks / f"{value}.png")
    return folder / "nuclei"


def write_ids(folder, mode):
    write_picture(folder / "images" / "sub" / "a.jpg")
    (folder / "ids" / "sub").mkdir(parents=True)
    picture = Image.fromarray(IDS if mode == "I;16" else (IDS % 251).astype(np.uint8))
    if mode == "P":
        picture.putpalette([7] * 768)  # the colours do not matter
    picture.save(folder / "ids" / "sub" / "a.png")
    return folder / "ids", folder / "images"


def check(records, values=(7, 300)):
    found = sorted(all_instances(records), key=lambda instance: instance.area)
    for instance, value in zip(found, values, strict=True):
        assert (mask_of(instance) == (IDS == value)).all()
        assert instance.area == (IDS == value).sum()


def test_a_folder_a_picture(tmp_path):
    source = write_folders(tmp_path)
    records = check_round_trip(source, source, tmp_path, reader_options={"class_name": "nucleus"})
    assert records.class_names == ("nucleus",)
    assert records.images[0].path == str(source / "one" / "images" / "one.png")
    check(records)
    assert load_dataset(source).class_names == ("object",)


@pytest.mark.parametrize("mode", ["I;16", "L", "P"])
def test_pictures_of_ids(tmp_path, mode):
    source, images = write_ids(tmp_path, mode)
    records = check_round_trip(source, images, tmp_path, format="instance_images")
    assert records.images[0].path == str(images / "sub" / "a.jpg")
    check(records)
    with pytest.raises(ValueError, match="a folder of pictures must be given"):
        load_dataset(source, format="instance_images")


def test_faults_are_named(tmp_path):
    source = write_folders(tmp_path)
    masks = source / "one" / "masks"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(masks / "empty.png")
    Image.fromarray(np.ones((9, 9), np.uint8)).save(masks / "small.png")
    Image.fromarray(np.ones((20, 30, 3), np.uint8)).save(masks / "zcolours.png")
    (masks / "cut.png").write_bytes((masks / "7.png").read_bytes()[:40])
    (source / "two" / "images").mkdir(parents=True)
    with pytest.raises(DatasetError) as error:
        load_dataset(source)
    found = {(f.kind, f.annotation_id, f.message.split(":")[0]) for f in error.value.faults}
    assert found == {
        ("truncated file", 3, "cut.png"),
        ("bad box", 4, "annotations[2]"),
        ("size mismatch", 5, "small.png"),
        ("not a picture", 6, "zcolours.png"),
        ("missing file", None, "one picture in images/ is wanted, got 0"),
    }
    check(load_dataset(source, on_error="skip"))


def test_what_desktops_leave_is_no_mask(tmp_path):
    source = write_folders(tmp_path)
    for name in (".DS_Store", "Thumbs.db"):
        (source / "one" / "masks" / name).write_bytes(b"\0\0\0\1Bud1")
    check(load_dataset(source))


def test_pictures_of_ids_without_a_picture_are_named(tmp_path):
    source, images = write_ids(tmp_path, "L")
    write_picture(images / "sub" / "a.png")
    with pytest.raises(DatasetError, match=r"one picture sub.a.* is wanted, got 2.*image id 1"):
        load_dataset(source, images, format="instance_images")
    with pytest.raises(DatasetError, match="it names no picture"):
        load_dataset(images / "none", images, format="instance_images")
