"""TFRecords of the Object Detection API: masks, boxes, names, pictures written once, and faults."""

import io

import numpy as np
import pytest
import tensorflow as tf
from import_checks import all_instances, check_round_trip, mask_of
from PIL import Image

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset
from kmaskrcnn.data.pictures import read_picture

MASKS = np.zeros((2, 20, 30), np.uint8)
MASKS[0, 2:9, 3:12] = 1
MASKS[1, 5:15, 8:20] = 255
KINDS = {"JPEG": {"quality": 98, "subsampling": 0}, "PNG": {}}
SIDES = {"xmin": (3, 8), "ymin": (2, 5), "xmax": (12, 20), "ymax": (9, 15)}


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def features(name=b"folder/a.png", **changes):
    picture = np.random.default_rng(len(name)).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    values = {
        "image/encoded": [png(picture)],
        "image/filename": [name],
        "image/object/class/text": [b"cat", b"dog"],
        "image/object/class/label": [1, 2],
        "image/object/mask": [png(mask) for mask in MASKS],
        "image/object/is_crowd": [0, 1],
    }
    for side, numbers in SIDES.items():
        values[f"image/object/bbox/{side}"] = [n / (30 if side[0] == "x" else 20) for n in numbers]
    return values | {f"image/{key}": value for key, value in changes.items()}


def turned(kind, size, orientation):
    """`(encoded, stored pixels)` of a picture whose EXIF says that it be turned."""
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    coarse = np.random.default_rng(3).integers(0, 256, (2, 3, 3)).astype(np.uint8)
    pixels = np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST))
    Image.fromarray(pixels).save(stream, kind, exif=exif, **KINDS[kind])
    return stream.getvalue(), np.array(Image.open(stream))


def write(folder, *examples, name="train.record-00000-of-00001"):
    (folder / "records").mkdir(exist_ok=True)
    path = folder / "records" / name
    with tf.io.TFRecordWriter(str(path)) as writer:
        for values in examples:
            writer.write(values if isinstance(values, bytes) else example(values))
    return path


def example(values):
    def feature(numbers):
        if isinstance(numbers[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=numbers))
        if isinstance(numbers[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=numbers))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=numbers))

    named = {key: feature(numbers) for key, numbers in values.items() if numbers}
    return tf.train.Example(features=tf.train.Features(feature=named)).SerializeToString()


def test_masks_and_pictures(tmp_path):
    write(tmp_path, features(), features(b"b"))
    images = tmp_path / "images"
    for source in (tmp_path / "records", tmp_path / "records" / "train.record-00000-of-00001"):
        records = check_round_trip(source, images, tmp_path)
    assert records.class_names == ("cat", "dog")
    assert sorted(path.name for path in images.iterdir()) == ["a.png", "b.png"]
    assert (images / "a.png").read_bytes() == features()["image/encoded"][0]
    cat, dog, *_ = all_instances(records)
    assert (mask_of(cat) == (MASKS[0] > 0)).all() and (mask_of(dog) == (MASKS[1] > 0)).all()
    assert cat.box == pytest.approx((3, 2, 12, 9), abs=1e-5)
    assert (cat.is_crowd, dog.is_crowd) == (False, True)


def test_boxes_alone_and_numbers_for_names(tmp_path):
    changes = {"object/mask": [], "object/class/text": [], "object/is_crowd": []}
    path = write(tmp_path, features(**changes), name="a.tfrecord")
    records = load_dataset(path, tmp_path / "images")
    assert records.class_names == ("class 1", "class 2")
    assert all(instance.segmentation is None for instance in all_instances(records))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("declared", [{}, {"height": [20], "width": [30]}])
def test_boxes_lie_on_the_pixels_as_they_are_stored(tmp_path, kind, orientation, declared):
    """The Object Detection API decodes with TensorFlow, which looks at no EXIF."""
    encoded, stored = turned(kind, (20, 30), orientation)
    # TensorFlow decodes JPEG fast and coarsely; turned, the picture would differ by 100 and more.
    np.testing.assert_allclose(tf.io.decode_image(encoded), stored, atol=20)
    path = write(tmp_path, features(b"a", encoded=[encoded], **declared))
    records = check_round_trip(path, tmp_path / "images", tmp_path)
    (record,) = records.images
    assert (record.height, record.width) == (20, 30)
    np.testing.assert_allclose(read_picture(record.path, (20, 30)), stored, atol=3)
    assert record.instances[0].box == pytest.approx((3, 2, 12, 9), abs=1e-5)
    assert (mask_of(record.instances[0]) == (MASKS[0] > 0)).all()


def test_a_record_may_declare_the_picture_upright(tmp_path):
    encoded, stored = turned("JPEG", (30, 20), 6)
    path = write(tmp_path, features(b"a.jpg", encoded=[encoded], height=[20], width=[30]))
    (record,) = load_dataset(path, tmp_path / "images").images
    pixels = read_picture(record.path, (record.height, record.width))
    np.testing.assert_allclose(pixels, np.rot90(stored, -1), atol=3)
    assert record.instances[0].box == pytest.approx((3, 2, 12, 9), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message", "left"),
    [
        ({"encoded": []}, "'image/encoded' is missing", 0),
        ({"encoded": [b"no picture"]}, "not a picture", 0),
        ({"height": [30], "width": [20]}, "size mismatch: the dataset declares height 30", 0),
        ({"filename": []}, "'image/filename' is missing", 0),
        ({"object/bbox/xmin": [0.1]}, "as many of each side", 0),
        ({"object/class/text": [b"cat"]}, "'image/object/class/text' needs 2 values, got 1", 0),
        ({"object/mask": [png(MASKS[0]), b""]}, "not a picture: object 1", 1),
        ({"object/mask": [png(MASKS[0]), png(MASKS[0, :9])]}, "size mismatch: object 1", 1),
        ({"object/bbox/xmax": [0.4, float("nan")]}, "bad box: object 1", 1),
    ],
)
def test_a_faulty_record_is_named_and_left_out_alone(tmp_path, changes, message, left):
    path = write(tmp_path, features(b"good.png"), features(**changes))
    with pytest.raises(DatasetError, match=f"{message}.*record 1, image id 2"):
        load_dataset(path, tmp_path / "images")
    records = load_dataset(path, tmp_path / "images", on_error="skip")
    assert len(all_instances(records)) == 2 + left


def test_no_picture_leaves_the_folder_or_is_overwritten(tmp_path):
    path = write(tmp_path, features(b"../../up.png"), features(b"/a.png"))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"mine")
    with pytest.raises(DatasetError, match="a.png is there and is another picture"):
        load_dataset(path, tmp_path / "images")
    assert (tmp_path / "images" / "up.png").exists() and not (tmp_path / "up.png").exists()
    assert (tmp_path / "images" / "a.png").read_bytes() == b"mine"


def test_damaged_files_are_named(tmp_path):
    path = write(tmp_path, features())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DatasetError, match="damaged file.*train.record"):
        load_dataset(path, tmp_path / "images")
    path = write(tmp_path, b"\xff\xff\xff")
    with pytest.raises(DatasetError, match="malformed record.*record 0, image id 1"):
        load_dataset(path, tmp_path / "images")
