"""Encoded pictures of every kind that a service meets, and broken ones."""

import io

import cv2
import numpy as np
from PIL import Image

ORIENTATION = 0x0112


def photo(height=48, width=64, seed=0):
    """A smooth picture with a different look in every corner, `(H, W, 3)` uint8."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3)).astype("uint8")
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(picture, kind="PNG", **options):
    """The bytes of a picture: an array or a Pillow image."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def oriented(picture, kind, orientation, byte_order="MM"):
    """A file that says in its EXIF data how it is to be turned."""
    if byte_order == "MM":
        exif = Image.Exif()
        exif[0x010F] = "a maker"  # a tag before the one that counts
        exif[ORIENTATION] = orientation
        return encode(picture, kind, exif=exif)
    tiff = (
        b"II*\0\x08\0\0\0" + b"\x01\0" + b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0])
    )
    return encode(picture, kind, exif=(b"Exif\0\0" if kind == "JPEG" else b"") + tiff + bytes(4))


def sound_files():
    """`{kind: bytes}` of files that must be read."""
    rgb = photo()
    image = Image.fromarray(rgb)
    alpha = np.dstack([rgb, np.arange(48 * 64).reshape(48, 64) % 256]).astype("uint8")
    deep = (rgb.astype("uint16") * 257) ^ 0x55
    return {
        "jpeg": encode(rgb, "JPEG"),
        "progressive jpeg": encode(rgb, "JPEG", progressive=True),
        "gray jpeg": encode(image.convert("L"), "JPEG"),
        "cmyk jpeg": encode(image.convert("CMYK"), "JPEG"),
        "png": encode(rgb),
        "gray png": encode(image.convert("L")),
        "gray png with alpha": encode(Image.fromarray(alpha[..., [0, 3]], "LA")),
        "rgba png": encode(alpha),
        "palette png": encode(image.quantize(16)),
        "palette png with transparency": encode(image.quantize(16), transparency=3),
        "1-bit png": encode(image.convert("1")),
        "16-bit png": cv2.imencode(".png", deep[..., ::-1])[1].tobytes(),
        "16-bit gray png": cv2.imencode(".png", deep[..., 0])[1].tobytes(),
        "1x1 png": encode(rgb[:1, :1]),
        "turned jpeg": oriented(rgb, "JPEG", 6),
        "turned png": oriented(rgb, "PNG", 8),
    }


def broken_files():
    """`{kind: (bytes, a word of the error)}`."""
    jpeg, png = encode(photo(), "JPEG"), encode(photo())
    return {
        "nothing": (b"", "not a JPEG"),
        "text": (b"hello", "not a JPEG"),
        "gif": (encode(photo(), "GIF"), "not a JPEG"),
        "half a jpeg": (jpeg[: len(jpeg) // 2], "damaged"),
        "jpeg without end": (jpeg[:-2], "damaged"),
        "start of a jpeg": (jpeg[:3], "damaged"),
        "half a png": (png[: len(png) // 2], "damaged"),
        "png signature": (png[:8], "damaged"),
        "png with a wrong checksum": (png[:60] + bytes([png[60] ^ 1]) + png[61:], "damaged"),
        "png that claims 4 gigapixels": (png[:16] + b"\0\1\0\0" * 2 + png[24:], "65536 x 65536"),
    }
