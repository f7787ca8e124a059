"""Others' weight files, read as names and arrays. None of them can run code, whatever it holds.

| File | Written by | Read here by |
|---|---|---|
| `.pth`, `.pt` | PyTorch: a zip since 1.6, one stream before | `torch_pickle.py` |
| `.pkl` | Detectron2, Caffe2's Detectron | `torch_pickle.py` |
| `.h5` | Keras, matterport's Mask R-CNN | `hdf5.py` |
| `.npz` | NumPy | `read_npz` |
| `.safetensors` | Hugging Face and others | `read_safetensors` |

`pickle_machine.py` runs a pickle's harmless instructions, `pickled_arrays.py` is the table of names
that it may ask for, `limits.py` keeps the memory that a file may take.
"""

import json
import re
import zipfile

import numpy as np

from kmaskrcnn.weights.hdf5 import read_hdf5
from kmaskrcnn.weights.limits import BFLOAT16, MAX_BYTES, WeightsFile, WeightsFileError
from kmaskrcnn.weights.torch_pickle import (
    LEGACY_START,
    read_pickle,
    read_torch_legacy,
    read_torch_zip,
)
from kmaskrcnn.weights.zip_members import list_members, read_member

__all__ = ["WeightsFileError", "read_weights"]

MOST_HEADER = 16 * 2**20

SAFETENSORS_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}

# The header that NumPy writes, and no more of Python's syntax than that.
NPY_HEADER = re.compile(
    r"\{'descr': '([<>|=][biuf][1248])', 'fortran_order': (True|False), "
    r"'shape': \(([\d, L]*)\), *\}\s*"
)


def read_weights(path, max_bytes=MAX_BYTES):
    """Reads weights made by PyTorch, Detectron2, Keras, NumPy or safetensors, running nothing.

    What a file is, is told from its first bytes, not from its name. Files are read as data: a
    pickle that asks for any other function than the few that rebuild arrays is refused, as is a
    file that reaches for other files, or that declares more than it holds. A state dict may lie
    under "model", "state_dict" or "blobs"; entries beside the arrays (an epoch's number, an
    optimizer) are left out.

    Args:
        path: the file.
        max_bytes: the most bytes that the file may have, and that its arrays may take in memory.

    Returns:
        {name: array} in the file's order. Arrays are in C order; float16 and bfloat16 become
        float32, every other dtype stays. Of an `.h5` file the name is the dataset's path,
        "group/dataset".

    Raises:
        WeightsFileError: the file is damaged, foreign, hostile or too large; the message names it
            and what was found.
        FileNotFoundError: nothing is at `path`.

    Example:
        >>> read_weights("resnet50-0676ba61.pth")["conv1.weight"].shape
        (64, 3, 7, 7)
    """
    with WeightsFile(path, max_bytes) as source:
        kind, reader = _recognise(source)
        with source.explained(kind):
            arrays = reader(source)
            if not arrays or not all(type(name) is str and name for name in arrays):
                raise source.error(f"is a {kind} without named arrays")
    return arrays


def _recognise(source):
    """Returns (what the file is, its reader), told from its first bytes."""
    head = source.read(16)
    source.stream.seek(0)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5 file", read_hdf5
    if head.startswith(b"PK\x03\x04"):
        return "zip archive", _read_zip
    if head.startswith(LEGACY_START):
        return "PyTorch file", read_torch_legacy
    if head[8:9] == b"{":
        return "safetensors file", read_safetensors
    if head.startswith(b"\x80"):
        return "pickle", read_pickle
    raise source.error(
        f"begins with {head[:8]!r}, as no file of PyTorch, Detectron2, HDF5, NumPy (.npz) or "
        "safetensors does"
    )


def _read_zip(source):
    """Both PyTorch and NumPy write zip archives; their members tell which."""
    members = list_members(source)
    if sum(name.endswith("/data.pkl") for name in members) == 1:
        return read_torch_zip(source, members)
    if all(name.endswith(".npy") for name in members):
        return read_npz(source, members)
    shown = [name[:50] for name in members][:5]
    raise source.error(f"is a zip archive of neither PyTorch nor NumPy: {shown}")


def read_npz(source, members):
    """Returns the arrays of NumPy's `.npz`; arrays of objects, which are pickles, are refused."""
    with zipfile.ZipFile(source.stream) as archive:
        return {
            name.removesuffix(".npy"): _npy(source, read_member(source, archive, info), name)
            for name, info in members.items()
        }


def _npy(source, data, name):
    """Returns the array of an `.npy` file: magic, version, the header's length, header, numbers."""
    length_bytes = 2 if data[6:7] == b"\x01" else 4
    begin = 8 + length_bytes
    end = begin + int.from_bytes(data[8:begin], "little")
    header = NPY_HEADER.fullmatch(data[begin:end].decode("latin1")) if end < 2**16 else None
    if not data.startswith(b"\x93NUMPY") or header is None:
        raise source.error(f"'{name}' is no plain array of numbers: {data[begin : begin + 80]!r}")
    dtype, is_fortran, axes = header.groups()
    shape = tuple(int(axis.strip(" L")) for axis in axes.split(",") if axis.strip())
    order = "F" if is_fortran == "True" else "C"
    return source.own(source.view(memoryview(data)[end:], dtype, shape, name, order), name)


def read_safetensors(source):
    """Returns the arrays of a safetensors file: a header's length, a JSON header, the numbers.

    The format's own rule is held: the tensors cover the bytes behind the header without gap or
    overlap.
    """
    length = int.from_bytes(source.read(8), "little")
    if length > min(MOST_HEADER, source.size - 8):
        raise source.error(f"declares a header of {length} bytes, not there or over {MOST_HEADER}")
    header = source.read(length)
    entries = json.loads(header, object_pairs_hook=lambda pairs: _without_doubles(source, pairs))
    entries.pop("__metadata__", None)
    arrays, position = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        if begin != position:
            raise source.error(f"tensor '{name[:100]}' begins at {begin}, where {position} is next")
        data = source.read_range(8 + length + begin, 8 + length + end, name)
        view = source.view(data, SAFETENSORS_DTYPES[entry["dtype"]], tuple(entry["shape"]), name)
        arrays[name], position = source.own(view, name), end
    if 8 + length + position != source.size:
        raise source.error(f"has numbers behind byte {position} that belong to no tensor")
    return {name: arrays[name] for name in entries}


def _without_doubles(source, pairs):
    """JSON allows a key twice, and readers differ in which they take."""
    if len(dict(pairs)) != len(pairs):
        raise source.error("has a header with the same key twice")
    return dict(pairs)
