"""Every hostile file is refused: without effect, at once, in little memory."""

import os
import pickle
import sys
import time
import tracemalloc

import hostile_files
import pytest
from hostile_pickles import payloads, pickled

from kmaskrcnn.weights.readers import WeightsFileError, read_weights

MEGABYTE = 2**20


@pytest.mark.parametrize("name", hostile_files.MAKERS)
def test_hostile_file_is_refused_without_effect(tmp_path, name):
    path, marker = tmp_path / "weights", tmp_path / "marker"
    hostile_files.MAKERS[name](path, marker)
    before, modules = sorted(os.listdir(tmp_path)), set(sys.modules)
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(WeightsFileError) as refusal:
        read_weights(path)
    seconds, (_, peak) = time.monotonic() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(refusal.value).startswith(f"{path}: ") and len(str(refusal.value)) < 800
    assert sorted(os.listdir(tmp_path)) == before
    assert set(sys.modules) - modules <= {"numpy.lib.stride_tricks"}
    # 64 MiB, and a hundred times its size, may be unfolded from a file before it is called a bomb.
    assert peak < 100 * MEGABYTE
    assert seconds < 20


@pytest.mark.parametrize(
    "name", ["os_system", "posix_system", "subprocess", "eval", "exec", "python2_eval"]
)
def test_the_payloads_are_live(tmp_path, name):
    """The other side: Python's own unpickler runs what is refused above."""
    marker = tmp_path / "marker"
    pickle.loads(pickled(payloads(marker)[name]))
    assert marker.exists()


@pytest.mark.parametrize(
    "name, found",
    [
        ("os_system_in_pkl", "asks for 'os.system'"),
        ("eval_in_zip", "asks for 'builtins.eval'"),
        ("inst_in_legacy", "instruction INST"),
        ("object_dtype_in_pkl", "dtype 'O8'"),
        ("broadcast_bomb_in_zip", "'weight' unfolds to 4398046511104 bytes"),
        ("negative_step_in_zip", "not one step of 0 or more"),
        ("codec_bomb", "'bytes as text' unfolds to"),
        ("dict_bomb", "'a dict' unfolds to"),
        ("many_instructions", "over 500000 instructions"),
        ("endless_text_of_shape_in_pkl", "axes that are no integers"),
        ("deep_tuple_as_key", "a dict key of type tuple"),
        ("zip_declares_more", "declares two sizes"),
        ("zip_slip", "leave its folder: 'a/../../../tmp/evil'"),
        ("zip_bomb", "'a.npy' unfolds to"),
        ("hdf5_external_link", "ExternalLink 'weights'"),
        ("hdf5_external_storage", "'weights' keeps its numbers in another file"),
        ("hdf5_inflating_chunk", "'weights' is compressed"),
        ("safetensors_giant_header", "declares a header of 9223372036854775808 bytes"),
        ("npz_short", "which is 16 bytes, and holds 4"),
        ("legacy_key_twice", "lists other storages"),
        ("legacy_truncated", "lies at bytes"),
        ("hdf5_virtual", "'weights' keeps its numbers in another file"),
        ("safetensors_overlap", "tensor 'b' begins at 8, where 16 is next"),
        ("safetensors_double", "the same key twice"),
        ("gzip", "begins with b'\\x1f\\x8b"),
    ],
)
def test_the_error_says_what_was_found(tmp_path, name, found):
    hostile_files.MAKERS[name](tmp_path / "weights", tmp_path / "marker")
    with pytest.raises(WeightsFileError) as refusal:
        read_weights(tmp_path / "weights")
    assert found in str(refusal.value)


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer for ever
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(WeightsFileError, match="is not a regular file"):
            read_weights(path)


def test_there_are_enough_hostile_files():
    assert len(hostile_files.MAKERS) >= 200
