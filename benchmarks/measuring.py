"""What the scripts share: cases, pictures and objects that need no files, trained models, clocks, memory."""

import contextlib
import json
import math
import resource
import statistics
import time
from pathlib import Path

import numpy as np

CLASSES = 90


def parse_case(text):
    """`"2x512x512"` -> `(2, 512, 512)`: pictures, height, width."""
    batch, height, width = map(int, text.split("x"))
    return batch, height, width


def load_model(weights, dtype="float32", **changes):
    """torchvision's R50-FPN with weights that its script wrote (`--dump`); random ones without a file."""
    import kmaskrcnn
    from kmaskrcnn.weights.architectures import find_architecture, make_config

    name = "maskrcnn_resnet50_fpn"
    if weights is None:
        config = make_config(find_architecture(name), CLASSES, None, **changes)
        return kmaskrcnn.MaskRCNN(config, dtype=dtype)
    model = kmaskrcnn.MaskRCNN.from_preset(weights, architecture=name, **changes)
    if dtype == "float32":
        return model
    copy = kmaskrcnn.MaskRCNN(model.config, dtype=dtype)
    copy.set_weights(model.get_weights())
    return copy


def load_trained(path, annotations, images):
    """A `.keras` file's model, and the pictures to test it on: their records, and a dataset of single ones."""
    import keras

    import kmaskrcnn  # noqa: F401  Keras finds the classes of the file by it
    from kmaskrcnn.data.pipeline import make_dataset
    from kmaskrcnn.data.records import load_coco

    model = keras.saving.load_model(path, compile=False)
    config = model.config
    records = load_coco(annotations, images, class_names=config.class_names)
    sizes = {"min_size": config.min_size, "max_size": config.max_size}
    return model, records, make_dataset(records, batch_size=1, **sizes)


def pictures(case, file=None, seed=0):
    """`(B, H, W, 3)` float32 RGB 0-255: those that a peer's script wrote, or noise at several scales."""
    batch, height, width = case
    if file:
        with np.load(file) as images:
            stacked = np.stack([images[f"image{i}"] for i in range(batch)])
        return np.ascontiguousarray(stacked.transpose(0, 2, 3, 1) * 255, dtype=np.float32)
    import cv2

    rng, size = np.random.default_rng(seed), (width, height)
    noise = [
        sum(
            cv2.resize(rng.normal(0, 0.15, (height // c, width // c, 3)), size)
            for c in (128, 64, 32, 16, 8, 2)
        )
        for _ in range(batch)
    ]
    return (np.clip(0.5 + np.stack(noise), 0, 1) * 255).astype(np.float32)


def ellipses(case, objects, seed=0, mask_size=112):
    """Ground truth as the model takes it: random boxes, each with an ellipse within; those of torchvision's script."""
    batch, height, width = case
    rng, drawn = np.random.default_rng(2000 + seed), []
    for _ in range(batch):
        sides = rng.uniform(0.1, 0.6, (objects, 2)) * [width, height]
        corners = rng.uniform(0, 1, (objects, 2)) * ([width, height] - sides)
        drawn.append(
            (np.concatenate([corners, corners + sides], 1), rng.integers(0, CLASSES, objects))
        )
    boxes, labels = (np.stack(part) for part in zip(*drawn))
    cells = (np.arange(mask_size) + 0.5) / mask_size * 2 - 1
    ellipse = (cells[:, None] ** 2 + cells**2 <= 1).astype(np.uint8)
    return {
        "boxes": boxes.astype(np.float32),
        "labels": labels.astype(np.int32),
        "is_crowd": np.zeros((batch, objects), bool),
        "masks": np.broadcast_to(ellipse, (batch, objects, mask_size, mask_size)).copy(),
    }


def seconds(call, warmup, runs):
    """`(first call, [seconds of each run])`."""
    times = []
    for _ in range(1 + warmup + runs):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times[0], times[1 + warmup :]


def matrix_product_rate(dtype="float32", side=2048, runs=9):
    """GFLOP per second of TensorFlow's product of two matrices, the median of a few runs."""
    import tensorflow as tf

    matrix = tf.cast(tf.random.normal((side, side)), dtype)
    _, times = seconds(lambda: tf.matmul(matrix, matrix), 2, runs)
    return 2 * side**3 / statistics.median(times) / 1e9


def copy_rate(megabytes=256, runs=9):
    """GB per second, read and written, of TensorFlow's copy of a float32 tensor, the median of a few runs."""
    import tensorflow as tf

    numbers = tf.zeros(megabytes * 2**18)
    copy = tf.function(lambda x: -x)  # a copy without arithmetic would be left out
    _, times = seconds(lambda: copy(numbers), 2, runs)
    return 2 * megabytes * 2**20 / statistics.median(times) / 1e9


def giga_bytes(*nested):
    """GB of all arrays, tensors and variables in nested lists and dicts."""
    import tensorflow as tf

    arrays = tf.nest.flatten(nested)
    return sum(math.prod(x.shape) * tf.as_dtype(x.dtype).size for x in arrays) / 1e9


def giga_operations(function):
    """GFLOP of the convolutions and matrix products in a traced function, by their definition: 2 for each product.

    A convolution by Winograd's algorithm counts as what it replaces.
    """
    return sum(map(_operations, function.graph.get_operations())) / 1e9


def _operations(op):
    if op.type in ("Conv2D", "KmaskrcnnWinograd"):
        # So many products are summed into each number of the output.
        products = op.inputs[1].shape[:3].num_elements()
    elif op.type in ("MatMul", "BatchMatMulV2"):
        transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
        products = op.inputs[0].shape[-2 if transposed else -1]
    else:
        return 0
    return 2 * op.outputs[0].shape.num_elements() * products


def uses_kernels():
    """Whether the kernels of `kmaskrcnn build-kernels` are there."""
    from kmaskrcnn.kernels.library import load_library

    return load_library() is not None


@contextlib.contextmanager
def stopwatch(record, name):
    """Writes the seconds of a block into `record[name]`."""
    start = time.perf_counter()
    yield
    record[name] = round(time.perf_counter() - start, 3)


def peak_memory_mb():
    """The most memory that this process had resident so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory_mb():
    """What this process has resident now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20)


def summary(times):
    """Median, least and most of a list of seconds."""
    return {
        "median_s": round(statistics.median(times), 4),
        "min_s": round(min(times), 4),
        "max_s": round(max(times), 4),
        "all_s": [round(t, 4) for t in times],
    }


def emit(record, path=None):
    """Print a record as one line of JSON, and append it to a file."""
    line = json.dumps(record)
    print(line, flush=True)
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
