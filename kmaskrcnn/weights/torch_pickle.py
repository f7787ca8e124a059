"""Readers of PyTorch's `.pth` (zip since 1.6, a stream before) and of Detectron2's `.pkl`."""

import io
import itertools
import logging
import zipfile

import numpy as np

from kmaskrcnn.weights.pickle_machine import PickleMachine
from kmaskrcnn.weights.pickled_arrays import NAMES, PickledArray, PickledTensor, Storage, check
from kmaskrcnn.weights.zip_members import read_member

logger = logging.getLogger(__name__)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LEGACY_VERSION = 1001

# Where weights lie in checkpoints of torchvision and Detectron2, of Lightning, and of Caffe2.
NESTED_UNDER = ("model", "state_dict", "blobs")


def read_torch_zip(source, members):
    """Returns the arrays of a zip made by `torch.save` of PyTorch 1.6 or later.

    `archive/data.pkl` is the pickle, `archive/data/KEY` a storage's bytes.

    Args:
        source: the `WeightsFile`.
        members: {name: `zipfile.ZipInfo`} of the checked members.
    """
    root = next(name for name in members if name.endswith("/data.pkl")).removesuffix("data.pkl")
    with zipfile.ZipFile(source.stream) as archive:

        def member(name):
            if root + name not in members:
                raise source.error(f"has no member '{root}{name}', which its pickle needs")
            return read_member(source, archive, members[root + name])

        if root + "byteorder" in members and member("byteorder") != b"little":
            raise source.error("was written on a big-endian machine; little-endian is accepted")
        machine = PickleMachine(source, NAMES, lambda pointer: _storage(source, pointer))
        state = machine.run(io.BytesIO(member("data.pkl")))
        return _arrays(source, state, lambda storage: member(f"data/{storage.key}"))


def read_torch_legacy(source):
    """Returns the arrays of a file made by `torch.save` before PyTorch 1.6.

    Five pickles (magic, version, system, state, storage keys), then each storage: its count as
    int64, its numbers.
    """
    storages = {}

    def load_storage(pointer):
        storage = _storage(source, pointer)
        if storages.setdefault(storage.key, storage) != storage:
            raise source.error(f"declares storage '{storage.key}' in two ways")
        return storage

    magic, version, system = (PickleMachine(source, NAMES).run(source) for _ in range(3))
    is_little = check(source, system, dict, "note of the system").get("little_endian") is True
    if (magic, version, is_little) != (LEGACY_MAGIC, LEGACY_VERSION, True):
        raise source.error("is a PyTorch file of another version, or of a big-endian machine")
    state = PickleMachine(source, NAMES, load_storage).run(source)
    keys = PickleMachine(source, NAMES).run(source)
    places = _legacy_places(source, check(source, keys, list, "list of storages"), storages)

    def storage_bytes(storage):
        return source.read_range(*places[storage.key], storage.key)

    return _arrays(source, state, storage_bytes)


def _legacy_places(source, keys, storages):
    """Returns {key: (begin, end)} in bytes; each storage is there once, whole, as declared."""
    keys = [check(source, key, str, "storage key") for key in keys]
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise source.error("lists other storages than its tensors point to")
    places, position = {}, source.tell()
    for key in keys:
        count, begin = storages[key].count, position + 8
        if count != int.from_bytes(source.read_range(position, begin, key), "little"):
            raise source.error(f"storage '{key}' has not the {count} elements that are declared")
        position = begin + count * storages[key].dtype.itemsize
        places[key] = begin, position
    return places


def read_pickle(source):
    """Returns the arrays of a pickled dict: Detectron2's, Caffe2's (`{"blobs": ...}`) or bare."""
    return _arrays(source, PickleMachine(source, NAMES).run(source), None)


def _storage(source, pointer):
    """A persistent id is `("storage", dtype, key, device, count)`, in older files with None."""
    fields = check(source, pointer, tuple, "persistent id")
    is_known = 5 <= len(fields) <= 6 and fields[0] == "storage" and isinstance(fields[1], np.dtype)
    if not is_known or any(field is not None for field in fields[5:]):
        raise source.error("has a persistent id of a strange form")
    key = check(source, fields[2], str, "storage key")
    count = check(source, fields[4], int, "storage's count of elements")
    source.count_elements((count,), key)
    return Storage(key, fields[1], count)


def _arrays(source, state, storage_bytes):
    """Returns {name: array} of a state dict, in its order; each storage is read once."""
    entries = _state_dict(source, state)
    inline = {name: value for name, value in entries.items() if type(value) is PickledArray}
    tensors = {name: value for name, value in entries.items() if type(value) is PickledTensor}
    if skipped := entries.keys() - inline.keys() - tensors.keys():
        shown = sorted(str(name)[:100] for name in skipped)[:20]
        logger.info("%s: entries without weights left out: %s", source.path, shown)
    arrays = {name: array.array(source, name) for name, array in inline.items()}
    by_storage = sorted(tensors, key=lambda name: tensors[name].storage.sort_key)
    for storage, names in itertools.groupby(by_storage, key=lambda name: tensors[name].storage):
        data = storage_bytes(storage)
        arrays |= {name: tensors[name].array(source, data, name) for name in names}
    return {name: arrays[name] for name in entries if name in arrays}


def _state_dict(source, state):
    """Returns the dict that holds the weights, with names that are text."""
    for key in NESTED_UNDER:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    entries = check(source, state, dict, "outermost object")
    # Caffe2 saved the optimizer's momentum among the weights.
    return {name: value for name, value in entries.items() if not str(name).endswith("_momentum")}
