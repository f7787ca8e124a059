"""Reader of Keras's `.h5`: plain datasets, and none of HDF5's ways into other files."""

import h5py
import numpy as np

from kmaskrcnn.weights.limits import BFLOAT16

MOST_DEPTH = 32


def read_hdf5(source):
    """Returns {"group/dataset": array}, in matterport's file `"conv1/conv1/kernel:0"`.

    Of a whole model saved by Keras 2 (`model_weights` beside `optimizer_weights`) the model's
    weights alone are read.
    """
    with h5py.File(source.path, "r") as file:
        is_whole_model = isinstance(file.get("model_weights", getlink=True), h5py.HardLink)
        root = file["model_weights"] if is_whole_model else file
        return {name: _array(source, name, dataset) for name, dataset in _datasets(source, root)}


def _datasets(source, root):
    """Yields (name, dataset) of all on hard links; a group that is met twice is a loop."""
    if not isinstance(root, h5py.Group):
        raise source.error("has a dataset named 'model_weights' where a group belongs")
    waiting, seen = [("", root, 0)], set()
    while waiting:
        prefix, group, depth = waiting.pop(0)
        address = h5py.h5o.get_info(group.id).addr
        if address in seen or depth > MOST_DEPTH:
            raise source.error(f"has groups in a loop, or too deep, at {prefix[:100]!r}")
        seen.add(address)
        for name in group:
            link = group.get(name, getlink=True)
            if type(link) is not h5py.HardLink:
                shown = f"{type(link).__name__} {(prefix + name)[:100]!r}"
                raise source.error(f"has the {shown}; it was not followed")
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((f"{prefix}{name}/", item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                yield prefix + name, item


def _array(source, name, dataset):
    """Returns a dataset's numbers, once it is known to hold them itself, plainly and completely."""
    layout, dtype, shape = dataset.id.get_create_plist(), dataset.dtype, dataset.shape
    if dataset.is_virtual or layout.get_external_count():
        raise source.error(f"dataset '{name}' keeps its numbers in another file; none was opened")
    if layout.get_nfilters():
        raise source.error(f"dataset '{name}' is compressed; save it plainly, as Keras does")
    is_bfloat16 = dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"
    if shape is None or dtype.kind not in "biuf" and not is_bfloat16:
        raise source.error(f"dataset '{name}' is of dtype {dtype}; numbers alone are accepted")
    needed = source.count_elements(shape, name) * dtype.itemsize
    stored = dataset.id.get_storage_size()
    if not needed <= stored <= source.size:
        raise source.error(
            f"dataset '{name}' of {dtype} {shape} needs {needed} bytes, has {stored}"
        )
    values = np.asarray(dataset[()])
    return source.own(values.view(BFLOAT16) if is_bfloat16 else values, name)
