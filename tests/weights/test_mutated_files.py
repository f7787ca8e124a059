"""Good files with some bytes changed are read, or refused; no other error, and no hang."""

import io
import pathlib
import pickle
import zipfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmaskrcnn.weights.readers import WeightsFileError, read_weights

RECORDED = pathlib.Path(__file__).parents[1] / "fixtures" / "torch_files"
ARRAYS = {"conv/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "conv/bias": np.ones(3)}


def written(save):
    """Returns the bytes that `save` writes into a buffer."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def hdf5():
    """A file of Keras's kind, in memory."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["layer_names"] = [b"conv"]
        for name, array in ARRAYS.items():
            file[name] = array
    return buffer.getvalue()


def rezipped(data):
    """The archive with this as its pickle: a changed member fails its checksum otherwise."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(RECORDED / "views_zip.pth") as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name.endswith("/data.pkl") else old.read(name))
    return buffer.getvalue()


def pickle_of_zip():
    """The pickle in the recorded archive."""
    with zipfile.ZipFile(RECORDED / "views_zip.pth") as archive:
        return archive.read("views_zip/data.pkl")


def rezipped_array(data):
    """An `.npz` with this as its member."""
    return written(lambda buffer: zipfile.ZipFile(buffer, "w").writestr("a.npy", data))


FILES = {
    "torch_zip": (RECORDED / "views_zip.pth").read_bytes,
    "torch_legacy": (RECORDED / "views_legacy.pth").read_bytes,
    "safetensors": (RECORDED / "dtypes.safetensors").read_bytes,
    "detectron2": lambda: pickle.dumps({"model": ARRAYS, "__author__": "x"}, 2),
    "pickle_5": lambda: pickle.dumps(ARRAYS, 5),
    "npz": lambda: written(lambda buffer: np.savez_compressed(buffer, **ARRAYS)),
    "hdf5": hdf5,
}
MEMBERS = {
    "pickle_in_zip": (pickle_of_zip, rezipped),
    "array_in_npz": (lambda: written(lambda buffer: np.save(buffer, np.ones(3))), rezipped_array),
}
KINDS = {name: (make, bytes) for name, make in FILES.items()} | MEMBERS

# Single bytes, and the counts and addresses that break a careless reader.
PATCHES = st.one_of(
    st.binary(min_size=1, max_size=1),
    st.sampled_from([b"\xff" * 4, b"\xff" * 8, bytes(4), bytes(8), b"\xff\xff\xff\x7f", b"-1"]),
    st.binary(min_size=1, max_size=8),
)
EDITS = st.lists(st.tuples(st.floats(0, 1), PATCHES, st.booleans()), min_size=1, max_size=6)


def mutated(data, edits, keep):
    """Returns `data` with each patch written over or inserted at its place, then cut off."""
    for place, patch, is_inserted in edits:
        start = int(place * len(data))
        data = data[:start] + patch + data[start + (0 if is_inserted else len(patch)) :]
    return data[: int(keep * len(data)) + 1]


def reads_or_refuses(kind, path, edits, keep):
    """What this file is about."""
    make, wrap = KINDS[kind]
    path.write_bytes(wrap(mutated(make(), edits, keep)))
    try:
        arrays = read_weights(path)
    except WeightsFileError as refusal:
        assert str(path) in str(refusal)
    else:
        assert all(isinstance(array, np.ndarray) for array in arrays.values())
        assert sum(array.nbytes for array in arrays.values()) < 2**27


KEEP = st.one_of(st.just(1.0), st.floats(0, 1))
QUIET = [HealthCheck.function_scoped_fixture]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=5000, suppress_health_check=QUIET)
@given(edits=EDITS, keep=KEEP)
def test_a_mutated_file_is_read_or_refused(tmp_path, kind, edits, keep):
    reads_or_refuses(kind, tmp_path / "weights", edits, keep)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5000, deadline=5000, suppress_health_check=QUIET)
@given(edits=EDITS, keep=KEEP)
def test_thousands_of_mutated_files(tmp_path, kind, edits, keep):
    reads_or_refuses(kind, tmp_path / "weights", edits, keep)


@pytest.mark.parametrize("kind", KINDS)
def test_the_unchanged_file_is_read(tmp_path, kind):
    make, wrap = KINDS[kind]
    (tmp_path / "weights").write_bytes(wrap(make()))
    assert read_weights(tmp_path / "weights")
