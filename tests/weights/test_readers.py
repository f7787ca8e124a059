"""Readers give what the original libraries wrote: recorded files of PyTorch, others made here."""

import collections
import json
import pathlib
import pickle

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest

from kmaskrcnn.weights.readers import WeightsFileError, read_weights

RECORDED = pathlib.Path(__file__).parents[1] / "fixtures" / "torch_files"
FILES = sorted(path for path in RECORDED.iterdir() if path.stem != "expected")


def assert_same(arrays, expected):
    """Same names, dtypes, shapes and, to the bit, values."""
    assert set(arrays) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name, strict=True)
        assert arrays[name].flags.c_contiguous and arrays[name].dtype.isnative


def write_safetensors(path, arrays, dtypes):
    """An independent writer of the format, from its description."""
    header, numbers = {"__metadata__": {"format": "np"}}, b""
    for name, array in arrays.items():
        offsets = [len(numbers), len(numbers) + array.nbytes]
        header[name] = {"dtype": dtypes[name], "shape": array.shape, "data_offsets": offsets}
        numbers += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)


@pytest.fixture
def weights():
    random = np.random.default_rng(0)
    return {
        "backbone.stem.conv1.weight": random.normal(size=(7, 7, 3, 2)).astype(np.float32),
        "backbone.stem.conv1.norm.running_var": random.uniform(size=2).astype(np.float32),
        "count": np.array(3, np.int64),
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_recorded_files_of_pytorch(path):
    expected = np.load(RECORDED / "expected.npz")
    stem = path.stem.rsplit("_", 1)[0] + ":"
    wanted = {name.removeprefix(stem): expected[name] for name in expected if name.startswith(stem)}
    arrays = read_weights(path)
    assert_same(arrays, wanted)
    assert path.suffix == ".safetensors" or list(arrays) == list(wanted)


def test_every_recorded_kind_is_there():
    kinds = {"dtypes", "views", "module", "checkpoint", "parameters", "lightning"}
    assert {path.stem.rsplit("_", 1)[0] for path in FILES} == kinds
    assert len(FILES) == 13


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_detectron2_pickle(tmp_path, weights, protocol):
    file = tmp_path / "model_final.pkl"
    checkpoint = {"model": weights, "__author__": "Detectron2 Model Zoo", "matching_heuristics": 1}
    file.write_bytes(pickle.dumps(checkpoint, protocol))
    assert_same(read_weights(file), weights)


def test_caffe2_pickle_of_python_2(tmp_path):
    """Byte for byte what Python 2 with NumPy 1 wrote: arrays' bytes are plain strings."""
    numbers = np.array([[1.5, -2.0], [3.25, 1e9]], np.float32)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02K\x02\x86cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10" + numbers.tobytes()
    ) + b"tb"
    blobs = b"}(U\x06conv_w" + array + b"q\x02U\x0fconv_w_momentumh\x02u"
    file = tmp_path / "R-50.pkl"
    file.write_bytes(b"\x80\x02}U\x05blobs" + blobs + b"s.")
    assert_same(read_weights(file), {"conv_w": numbers})


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_arrays_of_every_layout(tmp_path, protocol):
    arrays = {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "half": np.array([0.5, 65504], np.float16),
        "bytes_above_ascii": np.arange(256, dtype=np.uint8),
        "boolean": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float32),
    }
    scalar = {"scalar": np.float32(2.5)}
    file = tmp_path / "arrays.pkl"
    file.write_bytes(pickle.dumps(collections.OrderedDict(arrays | scalar), protocol))
    wanted = arrays | {"big_endian": np.arange(3, dtype=np.int32), "scalar": np.array(2.5, "f4")}
    assert_same(read_weights(file), wanted | {"half": arrays["half"].astype(np.float32)})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path, weights, save):
    extra = {
        "conv1/kernel:0": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">f8"),
        "half": np.arange(4, dtype=np.float16).reshape(2, 2),
    }
    save(tmp_path / "weights.npz", **weights, **extra)
    wanted = extra | {"big_endian": np.arange(3.0), "half": extra["half"].astype(np.float32)}
    assert_same(read_weights(tmp_path / "weights.npz"), weights | wanted)


def test_safetensors(tmp_path, weights):
    file = tmp_path / "weights.safetensors"
    halves = {
        "brain": np.array([1.0, -3.0], ml_dtypes.bfloat16),
        "half": np.array([[0.1]], np.float16),
    }
    dtypes = dict(zip(weights | halves, ["F32", "F32", "I64", "BF16", "F16"], strict=True))
    write_safetensors(file, weights | halves, dtypes)
    widened = {name: array.astype(np.float32) for name, array in halves.items()}
    assert_same(read_weights(file), weights | widened)


@pytest.mark.parametrize("whole_model", [False, True])
def test_matterport_hdf5(tmp_path, whole_model):
    kernel, bias = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)
    path = tmp_path / "mask_rcnn_coco.h5"
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if whole_model else file
        root.attrs["layer_names"] = [b"mrcnn_mask_conv1"]
        layer = root.create_group("mrcnn_mask_conv1")
        layer.attrs["weight_names"] = [b"mrcnn_mask_conv1/kernel:0", b"mrcnn_mask_conv1/bias:0"]
        layer["mrcnn_mask_conv1/kernel:0"], layer["mrcnn_mask_conv1/bias:0"] = kernel, bias
        if whole_model:
            file["optimizer_weights/iterations"] = np.array(4)
    prefix = "mrcnn_mask_conv1/mrcnn_mask_conv1/"
    assert_same(read_weights(path), {prefix + "kernel:0": kernel, prefix + "bias:0": bias})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keras_weights_file(tmp_path, dtype):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, dtype=dtype, name="dense")])
    model.save_weights(tmp_path / "a.weights.h5")
    kernel, bias = (keras.ops.convert_to_numpy(keras.ops.cast(v, "float32")) for v in model.weights)
    wanted = {"layers/dense/vars/0": kernel, "layers/dense/vars/1": bias}
    assert_same(read_weights(tmp_path / "a.weights.h5"), wanted)


def test_hdf5_of_other_layouts(tmp_path):
    arrays = {"big_endian": np.arange(3, dtype=">f4"), "scalar": np.array(3.5), "half": np.ones(2)}
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        for name, array in arrays.items():
            file[name] = array
        file["deep/chunked"] = np.zeros(0)
        file.create_dataset("chunks", data=np.arange(4.0), chunks=(2,), maxshape=(None,))
    extra = {"chunks": np.arange(4.0), "deep/chunked": np.zeros(0)}
    wanted = arrays | extra | {"big_endian": np.arange(3, dtype=np.float32)}
    assert_same(read_weights(tmp_path / "a.h5"), wanted)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_content_and_not_suffix_tells_the_format(tmp_path, path):
    link = tmp_path / "weights.of_some_kind"
    link.symlink_to(path)
    assert_same(read_weights(link), read_weights(path))


def test_max_bytes_bounds_file_and_arrays(tmp_path):
    file = tmp_path / "weights.npz"
    np.savez_compressed(file, a=np.zeros(5000, np.float32), b=np.zeros(5000, np.float32))
    assert len(read_weights(file, max_bytes=40_128)) == 2  # numbers, and a header
    with pytest.raises(WeightsFileError, match="'b.npy' unfolds to"):
        read_weights(file, max_bytes=40_127)
    with pytest.raises(WeightsFileError, match="bytes; 1 to 100 are accepted"):
        read_weights(file, max_bytes=100)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        read_weights(tmp_path / "nowhere.pth")
