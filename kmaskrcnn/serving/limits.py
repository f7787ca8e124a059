"""What a server grants a request: bytes, pixels, time, and a place among those that it works on."""

import asyncio
import contextlib
import dataclasses
import struct

import tensorflow as tf

from kmaskrcnn.export.decode import JPEG_START, PNG_START
from kmaskrcnn.serving.protocol import RequestError

# Of a PNG: signature, length and type of the first chunk, width, height.
HEADER = struct.Struct(">8x8x2I")


@dataclasses.dataclass(frozen=True)
class Limits:
    """A request that goes beyond one of these gets an error for an answer.

    Args:
        max_body_bytes: of a request; 413 beyond it.
        max_pixels: of a picture, read from its header before memory is taken for it, and of all masks together that
            `predict_single` pastes into a picture; 400 or the item's own error beyond it.
        max_instances: of one request; 400 beyond it.
        concurrency: requests that are read, wait or are worked on at the same time; 503 beyond it.
        timeout: seconds from a request's first byte to its answer; 504 beyond it, 408 where the body is late.
        max_batch: pictures, of one request or several, that the network gets in one call.
        batch_wait_ms: milliseconds that a picture waits for others to join it.

    Raises:
        ValueError: a limit that grants nothing.
    """

    max_body_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_instances: int = 128
    concurrency: int = 16
    timeout: float = 60.0
    max_batch: int = 8
    batch_wait_ms: float = 5.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (value >= 0 if field.name == "batch_wait_ms" else value > 0):
                raise ValueError(f"{field.name}: a number above 0 wanted, got {value}")


class Places:
    """The requests that a server works on at the same time.

    Args:
        count: how many of them.

    Attributes:
        taken: how many there are now.
    """

    def __init__(self, count):
        self.count, self.taken = count, 0

    @contextlib.contextmanager
    def one(self):
        """Hold a place while the block runs.

        Raises:
            RequestError: status 503, all are taken.
        """
        if self.taken >= self.count:
            raise RequestError(503, f"The queue is full: {self.count} requests are being worked on")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def read_body(request, max_bytes, timeout):
    """The body of a request, of which no more than `max_bytes` are ever held.

    Args:
        request: of Starlette.
        max_bytes: what its header states, or else what comes, may not be more.
        timeout: seconds.

    Returns:
        bytes.

    Raises:
        RequestError: status 413 or 408.
    """
    stated = request.headers.get("content-length", "0")
    too_large = RequestError(413, f"The request's body is larger than {max_bytes} bytes")
    if not stated.isdecimal() or int(stated) > max_bytes:
        raise too_large

    async def read():
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise too_large
        return bytes(body)

    try:
        return await asyncio.wait_for(read(), timeout)
    except asyncio.TimeoutError as error:
        raise RequestError(408, f"The body did not arrive within {timeout} seconds") from error


def check_pixels(data, max_pixels):
    """Why a picture is refused by its header, before anything is decoded.

    Args:
        data: bytes, a JPEG or PNG file.
        max_pixels: the most it may have.

    Returns:
        str; empty where the decoder may go on, also with a file that it will find damaged.
    """
    height, width = stored_size(data)
    if height * width <= max_pixels:
        return ""
    return f"the picture has {width} x {height} pixels, more than the limit of {max_pixels}"


def stored_size(data):
    """`(height, width)` by the header of a JPEG or PNG file; zeros where it has none that can be read."""
    if data.startswith(PNG_START) and len(data) >= HEADER.size:
        return HEADER.unpack_from(data)[::-1]
    if data.startswith(JPEG_START):
        try:
            # The same reader as the decoder's: no two opinions on a crafted header.
            height, width, _ = tf.image.extract_jpeg_shape(data).numpy().tolist()
        except tf.errors.InvalidArgumentError:
            return 0, 0
        return height, width
    return 0, 0
