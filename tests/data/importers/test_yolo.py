"""YOLO's text: outlines and boxes in pixels, classes in the yaml's order, and faults by name."""

import pytest
from import_checks import NOTCHED, all_instances, check_round_trip, inside, mask_of, write_picture

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset

OUTLINE = "1 " + " ".join(f"{x / 30!r} {y / 20!r}" for x, y in NOTCHED)


def write(folder, lines, yaml="names: [cat, dog]\ntrain: images/train\n"):
    root = folder / "yolo"
    for name in ("a.jpg", "empty.png"):
        write_picture(root / "images" / "train" / name)
    (root / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (root / "labels" / "train" / "a.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(yaml)
    return root / "data.yaml"


@pytest.mark.parametrize(
    "yaml",
    [
        "names: [cat, dog]\ntrain: images/train\n",
        "names: {0: cat, 1: dog}\npath: .\ntrain: images/train\n",
        "names: [cat, dog]\ntrain: ../images/train\nnc: 2\n",
    ],
)
def test_outlines(tmp_path, yaml):
    source = write(tmp_path, [OUTLINE, ""], yaml)
    images = source.parent / "images" / "train"
    records = check_round_trip(source, images, tmp_path)
    assert records.class_names == ("cat", "dog") and records.category_ids == (0, 1)
    assert load_dataset(source).images == records.images
    first, second = records.images
    assert (first.path, second.instances) == (str(images / "a.jpg"), ())
    (notched,) = first.instances
    assert (mask_of(notched) == inside(NOTCHED)).all() and notched.label == 1


def test_five_numbers_are_a_box(tmp_path):
    (found,) = all_instances(load_dataset(write(tmp_path, ["0 0.5 0.5 0.2 0.1"])))
    assert found.box == pytest.approx((12, 9, 18, 11)) and found.segmentation is None


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("2 0.1 0.1 0.2 0.2 0.3 0.1", "unknown class", "the yaml has no class 2"),
        ("1.5 0.1 0.1 0.2 0.2 0.3 0.1", "unknown class", "no class 1.5"),
        ("1 0.1 0.1 0.2", "malformed line", "got 3 numbers"),
        ("1 0.1 0.1 0.2 0.2 0.3 0.1 0.4", "malformed line", "got 7 numbers"),
        ("cat 0.1 0.1 0.2 0.2", "malformed line", "numbers are wanted"),
        ("1 2.1 2.1 2.2 2.2 2.3 2.1", "polygon outside", "outside"),
        ("1 nan 0.1 0.2 0.2 0.3 0.1", "bad polygon", "finite"),
        ("1 inf 0.1 0.2 0.2", "bad box", "finite"),
    ],
)
def test_a_faulty_line_is_named_and_left_out_alone(tmp_path, line, kind, message):
    source = write(tmp_path, [OUTLINE, line, OUTLINE])
    with pytest.raises(DatasetError, match=message) as error:
        load_dataset(source)
    (fault,) = error.value.faults
    assert (fault.kind, fault.image_id, fault.annotation_id) == (kind, 1, 2)
    assert fault.file.endswith("labels/train/a.txt") and "line 2" in fault.message
    assert len(all_instances(load_dataset(source, on_error="skip"))) == 2


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: [cat", "the yaml cannot be read"),
        ("cat", "must hold keys and values"),
        ("train: images/train", "'names' must be a list"),
        ("names: {a: cat}\ntrain: images/train", "'names' must be a list"),
        ("names: [cat, cat]\ntrain: images/train", "'names' must be different"),
        ("names: [cat, dog]", "'train' must name a folder"),
        ("names: [cat]\ntrain: images/train\nkpt_shape: [2, 3]", "labels of poses .'kpt_shape'."),
    ],
)
def test_a_faulty_yaml_is_named(tmp_path, yaml, message):
    with pytest.raises(DatasetError, match=f"{message}.*data.yaml"):
        load_dataset(write(tmp_path, [OUTLINE], yaml))


def test_a_missing_folder_is_named(tmp_path):
    source = write(tmp_path, [OUTLINE], "names: [cat, dog]\ntrain: nowhere")
    with pytest.raises(DatasetError, match="no such folder of pictures.*yolo/nowhere"):
        load_dataset(source, on_error="skip")
    (source.parent / "nowhere").mkdir()
    with pytest.raises(DatasetError, match="it names no picture"):
        load_dataset(source)


def test_pictures_without_one_label_file_are_no_dataset(tmp_path):
    source = write(tmp_path, [OUTLINE])
    labels = source.parent / "labels"
    labels.rename(source.parent / "texts")
    with pytest.raises(DatasetError, match="no label file, such as .*labels/train/a.txt"):
        load_dataset(source, on_error="skip")
