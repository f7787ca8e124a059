"""Every kind of picture file becomes RGB uint8, in the orientation that the dataset declares."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.data.pictures import check_header, is_whole, read_picture

COLOURS = np.array([[[250, 10, 20], [15, 240, 25]], [[5, 30, 235], [200, 180, 90]]], np.uint8)
PICTURE = np.kron(COLOURS, np.ones((12, 16, 1), np.uint8))  # 24 x 32, four flat quarters


def save(path, picture, **options):
    Image.fromarray(picture).save(path, **options)
    return path


def test_formats_keep_their_pixels(tmp_path):
    for name in ("a.png", "a.bmp", "a.tif", "a.webp"):
        path = save(tmp_path / name, PICTURE, **({"lossless": True} if "webp" in name else {}))
        np.testing.assert_array_equal(read_picture(path, (24, 32)), PICTURE)
        check_header(path, (24, 32))
    path = save(tmp_path / "a.jpg", PICTURE, quality=98, subsampling=0)
    assert np.abs(read_picture(path, (24, 32)).astype(int) - PICTURE).max() < 8
    check_header(path, (24, 32))


def test_modes_become_rgb(tmp_path):
    gray = PICTURE[..., 0]
    as_rgb = np.repeat(gray[..., None], 3, axis=2)
    transparent = np.dstack([PICTURE, np.full((24, 32), 7, np.uint8)])
    palette = Image.fromarray(PICTURE).quantize(4)
    expected = {
        save(tmp_path / "gray.png", gray): as_rgb,
        save(tmp_path / "alpha.png", transparent): PICTURE,
        save(tmp_path / "gray_alpha.png", np.dstack([gray, gray])): as_rgb,
        save(tmp_path / "gray16.png", gray.astype(np.uint16) * 256 + 99): as_rgb,
    }
    palette.save(tmp_path / "palette.png")
    expected[tmp_path / "palette.png"] = np.array(palette.convert("RGB"))
    cv2.imwrite(str(tmp_path / "rgb16.png"), PICTURE[..., ::-1].astype(np.uint16) * 256 + 99)
    expected[tmp_path / "rgb16.png"] = PICTURE
    for path, rgb in expected.items():
        picture = read_picture(path)
        assert picture.dtype == np.uint8, path.name
        np.testing.assert_array_equal(picture, rgb, err_msg=path.name)
        check_header(path, (24, 32))


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "cmyk.jpg"
    Image.fromarray(PICTURE).convert("CMYK").save(path, quality=98)
    assert np.abs(read_picture(path).astype(int) - PICTURE).max() < 12


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_follows_the_declared_size(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"turned.{kind}", PICTURE, exif=exif)
    stored = np.array(Image.open(path))
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]
    np.testing.assert_allclose(read_picture(path), upright, atol=3)
    np.testing.assert_allclose(read_picture(path, upright.shape[:2]), upright, atol=3)
    as_declared = read_picture(path, (24, 32))
    np.testing.assert_allclose(as_declared, upright if orientation < 5 else stored, atol=3)
    check_header(path, (24, 32))
    if orientation < 5:
        for check in (check_header, read_picture):
            with pytest.raises(Rejected, match="declares height 32 and width 24"):
                check(path, (32, 24))
    else:
        check_header(path, (32, 24))


def encoded(kind, **options):
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [encoded("JPEG"), encoded("JPEG", progressive=True), encoded("PNG")],
    ids=["jpeg", "progressive", "png"],
)
def test_a_file_cut_anywhere_is_found(tmp_path, data):
    assert is_whole(data) and is_whole(data + b"\0\0trailing")
    path = tmp_path / "cut"
    for length in np.linspace(0, len(data) - 1, 30).astype(int):
        path.write_bytes(data[:length])
        assert length < 20 or not is_whole(data[:length])
        for check in (check_header, read_picture):
            with pytest.raises(Rejected):
                check(path, (40, 40))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_picture():
    thumbnail = encoded("JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = encoded("JPEG")
    data = data[:2] + segment + data[2:]
    assert is_whole(data) and not is_whole(data[:-20])


@pytest.mark.parametrize("progressive", [False, True])
def test_markers_in_an_appended_film_are_not_the_pictures(tmp_path, progressive):
    data, film = encoded("JPEG", progressive=progressive), b"ftypmp42\xff\xda\xff\xda\0\0moov"
    path = tmp_path / "moving.jpg"
    path.write_bytes(data + film)
    assert read_picture(path, (40, 40)).shape == (40, 40, 3)
    check_header(path, (40, 40))
    assert not is_whole(data[:-20]) and not is_whole(data[: len(data) // 2] + film)


def test_bytes_that_fill_the_header_are_passed_over():
    data = encoded("JPEG")
    data = data[:2] + b"\xff\xff" + data[2:]
    Image.open(io.BytesIO(data)).load()
    assert is_whole(data) and not is_whole(data[:-20])


def test_trailing_bytes_do_no_harm(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG") + b"more")
    check_header(path, (40, 40))
    assert read_picture(path).shape == (40, 40, 3)
