"""Hostile weights files. `MAKERS` maps a name to a function of (path, marker) that writes one."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
from hostile_pickles import call, payloads, pickled, pickles, pointer, tensor, tensors, text

LEGACY_HEAD = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
LEGACY_HEAD += pickle.dumps({"little_endian": True}, 2)


def torch_zip(value, storage=bytes(16), **options):
    """A PyTorch zip of one tensor."""
    members = {"a/data.pkl": pickled(value), "a/byteorder": b"little", "a/data/0": storage}
    return zipped(members | options.pop("members", {}), **options)


def zipped(members, compression=zipfile.ZIP_STORED):
    """A zip archive of {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def torch_legacy(value, keys=("0",), storages=struct.pack("<q", 4) + bytes(16)):
    """A PyTorch file from before 1.6."""
    return LEGACY_HEAD + pickled(value) + pickle.dumps(list(keys), 2) + storages


def zips():
    """Returns {name: bytes} of archives that lie about their members."""
    good, npy = torch_zip(tensor()), npy_file(np.arange(4.0))
    bomb = npy_header("<f4", (2**25,)) + bytes(2**27)
    return {
        "zip_truncated": good[: len(good) // 2],
        "zip_without_directory": good[:-30],
        "zip_of_text": zipped({"readme.txt": b"hello"}),
        "zip_empty": zipped({}),
        "zip_slip": torch_zip(tensor(), members={"a/../../../tmp/evil": b"x"}),
        "zip_slip_of_windows": torch_zip(tensor(), members={"a\\..\\evil": b"x"}),
        "zip_absolute": zipped({"/etc/evil.npy": npy}),
        "zip_double": zipped({"a.npy": npy, "b.npy": npy}).replace(b"b.npy", b"a.npy"),
        "zip_two_pickles": zipped({"a/data.pkl": pickled(b"N"), "b/data.pkl": pickled(b"N")}),
        "zip_bomb": zipped({"a.npy": bomb}, zipfile.ZIP_DEFLATED),
        "zip_bomb_as_storage": torch_zip(tensor(), bytes(2**27), compression=zipfile.ZIP_DEFLATED),
        "zip_lzma": zipped({"a.npy": npy}, zipfile.ZIP_LZMA),
        "zip_wrong_checksum": good.replace(bytes(16), b"\x01" * 16),
        "zip_declares_more": patched_directory(good, 24, struct.pack("<I", 2**31 - 1)),
        "zip_overlap": patched_directory(good, 20, struct.pack("<II", 2**31 - 1, 2**31 - 1)),
        "zip_encrypted": patched_directory(good, 8, b"\x01\x00"),
        "zip_big_endian": torch_zip(tensor(), members={"a/byteorder": b"big"}),
        "torchscript": zipped(
            {"a/data.pkl": call("__torch__", "Model") + b".", "a/code/m.py": b""}
        ),
        "npz_of_objects": npz_of_objects(),
        "npz_of_structures": zipped({"a.npy": npy_file(np.zeros(2, "i4,f4"))}),
        "npz_of_text": zipped({"a.npy": npy_file(np.array(["a"]))}),
        "npz_huge_shape": zipped({"a.npy": npy_header("<f4", (2**50,)) + b"abcd"}),
        "npz_short": zipped({"a.npy": npy_header("<f4", (4,)) + b"abcd"}),
        "npz_code_in_header": zipped({"a.npy": npy_raw("{'descr': __import__('os').system('x')}")}),
        "npz_deep_header": zipped({"a.npy": npy_raw("(" * 9000)}),
        "npz_no_magic": zipped({"a.npy": b"not an array"}),
    }


def patched_directory(archive, offset, data):
    """The same archive with other bytes in the last member's entry of the central directory."""
    start = archive.rindex(b"PK\x01\x02") + offset
    return archive[:start] + data + archive[start + len(data) :]


def npy_raw(header):
    """An `.npy` with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def npy_header(dtype, shape):
    """An `.npy` without numbers."""
    return npy_raw(str({"descr": dtype, "fortran_order": False, "shape": shape})[:-1] + ", }\n")


def npy_file(array):
    """An `.npy` as NumPy writes it."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz_of_objects():
    """NumPy's own file of an array of objects: a pickle inside."""
    buffer = io.BytesIO()
    np.savez(buffer, a=np.array([{}], object))
    return buffer.getvalue()


def tensors_file(header, numbers=bytes(16), length=None):
    """A safetensors file with this header, a dict or text."""
    header = (header if isinstance(header, str) else json.dumps(header)).encode()
    length = len(header) if length is None else length
    return length.to_bytes(8, "little") + header + numbers


def safetensors():
    """Returns {name: bytes} of safetensors files with lies in the header."""

    def entry(begin=0, end=16, shape=(4,), dtype="F32"):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    one = json.dumps(entry())
    lies = {
        "out_of_range": {"a": entry(end=64, shape=(16,))},
        "overlap": {"a": entry(), "b": entry(8, 24)},
        "same_bytes": {"a": entry(), "b": entry()},
        "hole": {"a": entry(4, 16, (3,))},
        "negative_offset": {"a": entry(-16, 0)},
        "reversed_offsets": {"a": entry(16, 0)},
        "huge_shape": {"a": entry(shape=(2**62,))},
        "negative_shape": {"a": entry(shape=(-2, -2))},
        "float_shape": {"a": entry(shape=(4.0,))},
        "boolean_shape": {"a": entry(shape=(True, 4))},
        "unknown_dtype": {"a": entry(dtype="OBJECT")},
        "wrong_dtype": {"a": entry(dtype="F64")},
        "numbers_left": {"a": entry(end=8, shape=(2,))},
        "no_tensors": {"__metadata__": {"a": "b"}},
        "no_entry": {"a": 3},
        "no_offsets": {"a": {"dtype": "F32", "shape": [4]}},
        "double": '{"a": %s, "a": %s}' % (one, one),
        "bad_json": '{"a": ',
        "deep_json": '{"a": ' + "[" * 100_000,
        "endless_number": '{"a": ' + "9" * 100_000 + "}",
    }
    files = {f"safetensors_{name}": tensors_file(header) for name, header in lies.items()}
    files["safetensors_giant_header"] = tensors_file({"a": entry()}, length=2**63)
    files["safetensors_header_over_numbers"] = tensors_file({"a": entry()}, length=10_000)
    return files


def others():
    """Returns {name: bytes} of files that are something else."""
    stream = io.BytesIO()
    tarfile.open(fileobj=stream, mode="w").close()
    good = torch_legacy(tensor())
    integers_of_it = tensor(storage=pointer(kind=b"ctorch\nIntStorage\n"))
    return {
        "empty": b"",
        "one_byte": b"\x80",
        "text": b"<!DOCTYPE html><html>404: not found</html>",
        "random": np.random.default_rng(0).bytes(5000),
        "gzip": gzip.compress(good),
        "tar": stream.getvalue(),
        "code": b"import os\nos.system('true')\n",
        "legacy_head_only": LEGACY_HEAD,
        "legacy_truncated": good[:-8],
        "legacy_without_storages": torch_legacy(tensor(), storages=b""),
        "legacy_count_differs": torch_legacy(tensor(), storages=struct.pack("<q", 5) + bytes(20)),
        "legacy_negative_count": torch_legacy(tensor(), storages=struct.pack("<q", -4)),
        "legacy_key_twice": torch_legacy(tensor(), keys=("0", "0")),
        "legacy_key_missing": torch_legacy(tensor(), keys=()),
        "legacy_key_of_number": torch_legacy(tensor(), keys=(0,)),
        "legacy_two_dtypes": torch_legacy(tensor() + b"s" + text("other") + integers_of_it),
        "hdf5_truncated": b"\x89HDF\r\n\x1a\n" + bytes(100),
    }


def hdf5s():
    """Returns {name: function of an open HDF5 file and the folder} that makes it hostile."""

    def external_link(file, folder):
        file["weights"] = h5py.ExternalLink(folder / "secret.h5", "/secret")

    def soft_link(file, folder):
        file["a"], file["weights"] = np.ones(3), h5py.SoftLink("/a")

    def soft_link_loop(file, folder):
        file["weights"] = h5py.SoftLink("/weights")

    def linked_root(file, folder):
        file["model_weights"] = h5py.ExternalLink(folder / "secret.h5", "/")

    def group_loop(file, folder):
        group = file.create_group("a/b")
        group["c"] = file["a"]

    def external_storage(file, folder):
        where = [(str(folder / "secret.bin"), 0, 16)]
        file.create_dataset("weights", (4,), "f4", external=where)

    def virtual(file, folder):
        layout = h5py.VirtualLayout((3,), "f8")
        layout[:] = h5py.VirtualSource(folder / "secret.h5", "secret", (3,))
        file.create_virtual_dataset("weights", layout)

    def huge_and_empty(file, folder):
        file.create_dataset("weights", (2**40,), "f4")

    def huge_chunk(file, folder):
        file.create_dataset("weights", (1,), "f4", maxshape=(None,), chunks=(2**29,))

    def compressed_bomb(file, folder):
        file.create_dataset("weights", data=np.zeros(2**22), chunks=(2**22,), compression="gzip")

    def inflating_chunk(file, folder):
        data = file.create_dataset("weights", (4,), "f4", chunks=(4,), compression="gzip")
        data.id.write_direct_chunk((0,), zlib.compress(bytes(2**20)))

    def references(file, folder):
        file.create_dataset("weights", data=[file.ref], dtype=h5py.ref_dtype)

    def texts(file, folder):
        file["weights"] = ["a", "b"]

    def compound(file, folder):
        file["weights"] = np.zeros(2, "i4,f4")

    def opaque(file, folder):
        file["weights"] = np.zeros(2, "V2")

    def nothing(file, folder):
        file["weights"] = h5py.Empty("f4")

    def deep(file, folder):
        file["/".join("a" * 100)] = np.ones(2)

    return {f"hdf5_{make.__name__}": make for make in locals().values()}


def write_hdf5(make):
    """Returns a function that writes the file, beside another which it must not reach."""

    def write(path, marker):
        with h5py.File(path.parent / "secret.h5", "w") as secret:
            secret["secret"] = np.ones(3)
        (path.parent / "secret.bin").write_bytes(bytes(16))
        with h5py.File(path, "w") as file:
            make(file, path.parent)

    return write


def write_payload(name, wrap):
    """Returns a function that writes the payload in its container."""
    return lambda path, marker: path.write_bytes(wrap(payloads(marker)[name]))


def write_bytes(data):
    """Returns a function that writes these bytes."""
    return lambda path, marker: path.write_bytes(data)


def hdf5_cut(path, marker):
    """A good HDF5 file without its second half."""
    with h5py.File(path, "w") as file:
        file["weights"] = np.arange(10_000.0)
    os.truncate(path, path.stat().st_size // 2)


CONTAINERS = {"pkl": pickled, "zip": torch_zip, "legacy": torch_legacy}
TENSOR_CONTAINERS = {"zip": torch_zip, "legacy": torch_legacy}


def makers():
    """Returns {name: function of (path, marker) that writes the file}."""
    files = pickles() | zips() | safetensors() | others()
    found = {name: write_bytes(data) for name, data in files.items()}
    found |= {name: write_hdf5(make) for name, make in hdf5s().items()} | {"hdf5_cut": hdf5_cut}
    for kind, wrap in CONTAINERS.items():
        found |= {f"{name}_in_{kind}": write_payload(name, wrap) for name in payloads("marker")}
    for kind, wrap in TENSOR_CONTAINERS.items():
        found |= {f"{name}_in_{kind}": write_bytes(wrap(t)) for name, t in tensors().items()}
    return found


MAKERS = makers()
