"""What all readers of others' weights share: one error, one budget of memory, one way to arrays.

A file from the internet may lie about everything it holds. So a size that a file declares is first
held against the bytes that are there and against the budget, and only then is memory taken.
"""

import contextlib
import math
import pathlib
import stat
import struct
import zipfile
import zlib

import ml_dtypes
import numpy as np

MAX_BYTES = 16 * 2**30
# Weights hardly compress, and float16 unfolds to twice its bytes.
FREE_BYTES = 64 * 2**20
MOST_EXPANSION = 100
MOST_AXES = 16
MOST_ELEMENTS = 2**60
LONGEST_LINE = 4096

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
HALVES = (np.dtype(np.float16), BFLOAT16)

# What the standard library and h5py raise on damaged input; anything else is a fault of ours.
DAMAGE = (
    ValueError,
    LookupError,
    TypeError,
    OSError,
    EOFError,
    RuntimeError,  # RecursionError and NotImplementedError among them
    ArithmeticError,
    MemoryError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


class WeightsFileError(ValueError):
    """A damaged, foreign or hostile weights file; the message names it and what was found."""


class WeightsFile:
    """An open file that nobody vouches for, and the bytes that it may still unfold into memory.

    Args:
        path: the file; a link to a file will do, a directory, pipe or device will not.
        max_bytes: the most bytes that the file may have, and that its arrays may take in memory.

    Raises:
        WeightsFileError: the path is no regular file, is empty, or is larger than `max_bytes`.
        FileNotFoundError: nothing is there.
    """

    def __init__(self, path, max_bytes=MAX_BYTES):
        self.path = pathlib.Path(path)
        status = self.path.stat()
        self.size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise self.error("is not a regular file")
        if not 0 < self.size <= max_bytes:
            raise self.error(f"has {self.size} bytes; 1 to {max_bytes} are accepted")
        self.budget = min(max_bytes, FREE_BYTES + MOST_EXPANSION * self.size)
        self.stream = open(self.path, "rb")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.stream.close()

    def error(self, problem):
        """Returns a `WeightsFileError` that names this file, for the caller to raise."""
        return WeightsFileError(f"{self.path}: {problem}")

    @contextlib.contextmanager
    def explained(self, kind):
        """Turns what libraries raise on damaged input into a `WeightsFileError`."""
        try:
            yield
        except WeightsFileError:
            raise
        except DAMAGE as fault:
            reason = f"{type(fault).__name__}: {fault}"[:300]
            raise self.error(f"is not a readable {kind} ({reason})") from fault

    def read(self, count):
        """Returns at most `count` bytes, and never allocates more than the file has left."""
        return self.stream.read(min(count, self.size - self.stream.tell()))

    def readline(self):
        """Returns the bytes up to a newline, at most `LONGEST_LINE` of them."""
        return self.stream.readline(LONGEST_LINE)

    def tell(self):
        """Returns the position in the file, in bytes."""
        return self.stream.tell()

    def read_range(self, begin, end, name):
        """Returns the bytes `begin ... end - 1`, which must all be there."""
        if not 0 <= begin <= end <= self.size:
            raise self.error(f"'{name}' lies at bytes {begin} to {end} of a file of {self.size}")
        self.stream.seek(begin)
        return self.stream.read(end - begin)

    def allow(self, count, name):
        """Raises if the budget has no `count` bytes; for memory that is given back at once."""
        if count > self.budget:
            raise self.error(
                f"'{name}' unfolds to {count} bytes where {self.budget} are left of what a file of "
                f"{self.size} bytes may take; is it a bomb? (else raise max_bytes)"
            )

    def charge(self, count, name):
        """Takes `count` bytes from the budget, before they are allocated."""
        self.allow(count, name)
        self.budget -= count

    def count_elements(self, shape, name):
        """Returns how many elements a declared shape has, if an array can have it."""
        if len(shape) > MOST_AXES or not all(type(axis) is int for axis in shape):
            # What is no number is never shown: tuples within tuples may print without end.
            raise self.error(f"'{name}' declares {len(shape)} axes, or axes that are no integers")
        if min(shape, default=0) < 0 or math.prod(max(axis, 1) for axis in shape) > MOST_ELEMENTS:
            raise self.error(f"'{name}' declares the impossible shape {shape}")
        return math.prod(shape)

    def view(self, data, dtype, shape, name, order="C"):
        """Returns bytes as an array, not copied; the declared shape must need exactly these."""
        needed = self.count_elements(shape, name) * np.dtype(dtype).itemsize
        if needed != len(data):
            raise self.error(
                f"'{name}' declares shape {tuple(shape)} of {np.dtype(dtype).name}, "
                f"which is {needed} bytes, and holds {len(data)}"
            )
        return np.frombuffer(data, dtype).reshape(shape, order=order)

    def own(self, view, name):
        """Returns a copy in C order and native byte order; half precision becomes float32."""
        native = view.dtype.newbyteorder("=")
        dtype = np.dtype(np.float32) if native in HALVES else native
        self.charge(view.size * dtype.itemsize, name)
        return np.array(view, dtype=dtype, order="C")
