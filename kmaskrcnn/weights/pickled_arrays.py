"""The names that a pickle of weights may ask for, and what each stands for here.

Nothing is allocated while a pickle runs: a tensor is a note of where its numbers lie. `array` makes
it real, once its bounds are checked and only if somebody wants it (the optimizer's are left alone).
"""

import dataclasses

import numpy as np

from kmaskrcnn.weights.limits import BFLOAT16
from kmaskrcnn.weights.pickle_machine import Recipe, StandIn

BYTES_OF_PAIR = 100
NUMPY_CODES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}

STORAGES = {
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": BFLOAT16,
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}


def check(source, value, kind, what):
    """Returns `value`, which must be exactly of this type (a bool is no int here)."""
    if type(value) is not kind:
        found = type(value).__name__
        raise source.error(f"has a pickle whose {what} is of type {found}, not {kind.__name__}")
    return value


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of `count` numbers of one dtype, somewhere else in the file under `key`."""

    key: str
    dtype: np.dtype
    count: int

    @property
    def sort_key(self):
        """What brings tensors of one storage together."""
        return self.key, self.dtype.name, self.count


@dataclasses.dataclass(frozen=True)
class PickledTensor:
    """PyTorch's tensor: a storage, the first element's place, the step along each axis."""

    storage: Storage
    offset: int
    shape: tuple
    steps: tuple

    def array(self, source, data, name):
        """Returns the tensor as an array of its own, from its storage's bytes."""
        flat = source.view(data, self.storage.dtype, (self.storage.count,), name)
        size = source.count_elements(self.shape, name)
        natural = all(type(step) is int and step >= 0 for step in (self.offset, *self.steps))
        if not natural or len(self.steps) != len(self.shape):
            raise source.error(f"'{name}' has not one step of 0 or more for each axis")
        if not size:
            return source.own(np.empty(self.shape, flat.dtype), name)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.steps))
        if last >= len(flat):
            raise source.error(f"'{name}' reaches element {last} of a storage of {len(flat)}")
        strides = [step * flat.itemsize for step in self.steps]
        view = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides)
        return source.own(view, name)


class PickledDtype(StandIn):
    """NumPy's dtype, of numbers only: an array of objects is a pickle within a pickle."""

    def __init__(self, source, code):
        if check(source, code, str, "dtype") not in NUMPY_CODES:
            raise source.error(f"has an array of dtype {code[:100]!r}; numbers alone are accepted")
        self.dtype = np.dtype(code)

    def build(self, source, state):
        byte_order = check(source, state, tuple, "dtype's state")[1]
        if check(source, byte_order, str, "byte order") not in ("<", ">", "|", "="):
            raise source.error(f"has a dtype of byte order {byte_order[:100]!r}")
        self.dtype = self.dtype.newbyteorder(byte_order)


class PickledArray(StandIn):
    """NumPy's array, whose bytes stand in the pickle itself."""

    def build(self, source, state):
        _, shape, dtype, is_fortran, data = check(source, state, tuple, "array's state")
        self.fill(source, data, dtype, shape, "F" if is_fortran is True else "C")

    def fill(self, source, data, dtype, shape, order):
        """Notes what the array will be; Python 2 wrote bytes as text."""
        self.data = data if isinstance(data, (bytes, bytearray)) else encode_latin1(source, data)
        self.dtype = check(source, dtype, PickledDtype, "array's dtype").dtype
        self.shape = check(source, shape, tuple, "array's shape")
        self.order = order

    def array(self, source, name):
        """Returns the array; one that the pickle never filled is refused."""
        if not hasattr(self, "data"):
            raise source.error(f"'{name}' is an array without content")
        return source.own(source.view(self.data, self.dtype, self.shape, name, self.order), name)


def encode_latin1(source, text, encoding="latin1"):
    """Python 3 writes bytes as latin-1 text in a pickle of protocol 2, and this call around it."""
    check(source, text, str, "text to encode")
    if check(source, encoding, str, "encoding") not in ("latin1", "latin-1"):
        raise source.error(f"has a pickle with the encoding {encoding[:100]!r}")
    source.charge(len(text), "bytes as text")
    return text.encode("latin1")


def empty_bytes(source):
    """`bytes()`, which protocol 2 writes for an array without elements."""
    return b""


def rebuild_tensor(source, storage, offset, shape, steps, *ignored):
    """`torch._utils._rebuild_tensor_v2`; what follows the steps concerns gradients only."""
    check(source, storage, Storage, "tensor's storage")
    check(source, shape, tuple, "tensor's shape")
    check(source, steps, tuple, "tensor's steps")
    return PickledTensor(storage, check(source, offset, int, "tensor's offset"), shape, steps)


def rebuild_parameter(source, tensor, *ignored):
    """`torch._utils._rebuild_parameter`: a tensor with a flag."""
    return check(source, tensor, PickledTensor, "parameter")


def rebuild_array(source, *ignored):
    """`numpy.core.multiarray._reconstruct`: an empty array, whose state follows."""
    return PickledArray()


def rebuild_from_buffer(source, data, dtype, shape, order):
    """`numpy.core.numeric._frombuffer`, as protocol 5 writes arrays."""
    array = PickledArray()
    array.fill(source, data, dtype, shape, "F" if order == "F" else "C")
    return array


def rebuild_scalar(source, dtype, data):
    """`numpy.core.multiarray.scalar`: one number."""
    return rebuild_from_buffer(source, data, dtype, (), "C")


def rebuild_dict(source, pairs=()):
    """`collections.OrderedDict` and `Counter`: both are dicts here."""
    if isinstance(pairs, dict):
        return pairs  # not a copy: a short pickle could ask for thousands
    source.charge(BYTES_OF_PAIR * len(pairs), "a dict")
    items = {}
    for key, value in pairs:
        items[check(source, key, str, "dict key")] = value
    return items


def rebuild_size(source, axes):
    """`torch.Size`: a tuple."""
    return check(source, axes, tuple, "size")


NAMES = {
    **STORAGES,
    "torch._utils._rebuild_tensor": Recipe(rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": Recipe(rebuild_tensor),
    "torch._utils._rebuild_parameter": Recipe(rebuild_parameter),
    "torch.Size": Recipe(rebuild_size),
    "collections.OrderedDict": Recipe(rebuild_dict),
    "collections.Counter": Recipe(rebuild_dict),
    "_codecs.encode": Recipe(encode_latin1),
    "__builtin__.bytes": Recipe(empty_bytes),
    "numpy.ndarray": None,
    "numpy.dtype": Recipe(lambda source, code, *ignored: PickledDtype(source, code)),
    # NumPy 2 renamed `core`; files keep the name of the NumPy that wrote them.
    "numpy.core.multiarray._reconstruct": Recipe(rebuild_array),
    "numpy._core.multiarray._reconstruct": Recipe(rebuild_array),
    "numpy.core.multiarray.scalar": Recipe(rebuild_scalar),
    "numpy._core.multiarray.scalar": Recipe(rebuild_scalar),
    "numpy.core.numeric._frombuffer": Recipe(rebuild_from_buffer),
    "numpy._core.numeric._frombuffer": Recipe(rebuild_from_buffer),
}
