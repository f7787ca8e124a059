"""Decoding in the graph against OpenCV, and against Pillow for the orientations."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
from pictures import broken_files, encode, oriented, photo, sound_files
from PIL import Image, ImageOps

from kmaskrcnn.export.decode import decode_picture
from kmaskrcnn.export.exif import jpeg_orientation, png_orientation, turn_upright

decode = tf.function(
    lambda data: decode_picture(data, 10**6), input_signature=[tf.TensorSpec((), tf.string)]
)


@pytest.mark.parametrize("kind", sound_files())
def test_sound_files_give_the_pixels_that_training_sees(kind):
    data = sound_files()[kind]
    picture, error = decode(data)
    wanted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert error == b""
    tolerance = 1 if "cmyk" in kind else 0  # the two round the removal of black differently
    assert picture.shape == wanted.shape
    np.testing.assert_allclose(picture.numpy().astype(int), wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", broken_files())
def test_broken_files_give_an_error_and_no_picture(kind):
    data, word = broken_files()[kind]
    picture, error = decode(data)
    assert word in error.numpy().decode() and picture.shape == (0, 0, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("byte_order", ["MM", "II"])
def test_every_orientation_is_undone(kind, byte_order):
    for orientation in range(1, 9):
        data = oriented(photo(), kind, orientation, byte_order)
        stored = Image.fromarray(decode(encode(photo(), kind))[0].numpy())
        stored.getexif()[0x0112] = orientation
        wanted = np.asarray(ImageOps.exif_transpose(stored))
        np.testing.assert_array_equal(decode(data)[0], wanted, err_msg=str(orientation))


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_does_not_exist_changes_nothing(value):
    data = oriented(photo(), "JPEG", value, "II")
    np.testing.assert_array_equal(decode(data)[0], decode(encode(photo(), "JPEG"))[0])


def test_damaged_exif_data_changes_nothing():
    data = oriented(photo(), "JPEG", 6)
    start = data.index(b"MM\0*")
    plain = decode(encode(photo(), "JPEG"))[0]
    for place, octets in ((4, b"\xff\xff\xff\xf0"), (8, b"\xff\xff"), (0, b"XX")):
        at = start + place
        broken = data[:at] + octets + data[at + len(octets) :]
        picture, error = decode(broken)
        assert error == b"" and picture.shape == plain.shape, place


ORIENTATIONS = {
    kind: tf.function(function, input_signature=[tf.TensorSpec((), tf.string)])
    for kind, function in (("JPEG", jpeg_orientation), ("PNG", png_orientation))
}
# The least part of each format, and where the first one may stand.
PARTS = {"JPEG": (2, b"\xff\xe2\0\2"), "PNG": (33, bytes(4) + b"teSt" + bytes(4))}


@pytest.mark.parametrize("kind", PARTS)
def test_the_search_for_exif_data_has_an_end(kind):
    data, (at, part) = oriented(photo(), kind, 6), PARTS[kind]

    def orientation(parts):
        return int(ORIENTATIONS[kind](data[:at] + part * parts + data[at:]))

    assert orientation(0) == orientation(3000) == 6
    assert (
        orientation(50_000) == 1
    )  # a second to look through; as many as a request may have, minutes


def test_turning_keeps_a_row_of_pixels_apart():
    picture = tf.reshape(tf.range(6), (2, 3, 1))
    assert turn_upright(picture, 6)[..., 0].numpy().tolist() == [[3, 0], [4, 1], [5, 2]]


@pytest.mark.slow
def test_mutated_files_never_fail_the_graph():
    """3,000 files with some bytes changed, cut off or doubled: a picture or an error, nothing else."""
    generator = np.random.default_rng(0)
    files = [*sound_files().values(), oriented(photo(), "JPEG", 6, "II")]
    outcomes = {True: 0, False: 0}
    for _ in range(3000):
        data = bytearray(files[generator.integers(len(files))])
        for _ in range(generator.integers(1, 6)):
            # Half of the changes in the headers, where they do most.
            limit = len(data) if generator.random() < 0.5 else min(120, len(data))
            data[generator.integers(limit)] = generator.integers(256)
        if generator.random() < 0.2:
            start = generator.integers(len(data))
            data = data[:start] if generator.random() < 0.5 else data + data[start:]
        picture, error = decode(bytes(data))
        assert (error == b"") == (tf.size(picture) > 0)
        outcomes[bool(error == b"")] += 1
    assert min(outcomes.values()) > 300
