"""Operations of our own beside those of TensorFlow that they replace, call by call in turn, as JSON.

    kmaskrcnn build-kernels
    python benchmarks/beside_tensorflow.py --json beside.json

3x3 convolution by Winograd's algorithm, forward and with all gradients, and the gradient of crops that loses nothing
(`layers/crops.py`). A ratio below 1 means that ours is faster.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

MAPS = [(100, 14, 14, 256), (1, 100, 152, 128), (1, 25, 38, 512), (1, 200, 304, 64)]
CROPPED, REGIONS, SIZE = (2, 200, 304, 256), 512, (14, 14)


def convolutions(shape, gradient):
    """`(ours, TensorFlow's)`: calls that convolve maps of a shape, to as many channels."""
    import tensorflow as tf

    from kmaskrcnn.kernels.winograd import winograd

    rng = np.random.default_rng(0)
    maps = tf.constant(rng.standard_normal(shape, "float32"))
    kernel = tf.constant(rng.standard_normal((3, 3, shape[3], shape[3]), "float32") / 48)

    def call(convolve):
        @tf.function
        def work(maps, kernel):
            convolved = convolve(maps, kernel)
            return tf.gradients(convolved, [maps, kernel], maps) if gradient else convolved

        return lambda: work(maps, kernel)

    return call(winograd), call(lambda maps, kernel: tf.nn.conv2d(maps, kernel, 1, "SAME"))


def crops():
    """`(ours, TensorFlow's)`: calls that crop regions and take the gradient of the maps."""
    import tensorflow as tf

    from kmaskrcnn.layers.crops import crop_and_resize

    rng = np.random.default_rng(0)
    maps = tf.constant(rng.standard_normal(CROPPED, "float32"))
    corners, sides = rng.uniform(0, 0.8, (REGIONS, 2)), rng.uniform(0.02, 0.2, (REGIONS, 2))
    boxes = tf.constant(np.concatenate([corners, corners + sides], 1), tf.float32)
    images = tf.range(REGIONS) % CROPPED[0]

    def call(crop):
        @tf.function
        def work(maps):
            return tf.gradients(crop(maps, boxes, images, SIZE), maps)

        return lambda: work(maps)

    return call(crop_and_resize), call(tf.image.crop_and_resize)


def compare(name, calls, pairs):
    """One row: median milliseconds of both, and the median, least and greatest ratio of a pair."""
    from measuring import seconds

    times = [[seconds(call, 0, 0)[0] for call in calls] for _ in range(pairs + 2)][2:]
    ours, theirs = ([1000 * side for side in sides] for sides in zip(*times))
    ratios = [a / b for a, b in zip(ours, theirs)]
    return {
        "operation": name,
        "ours_ms": round(statistics.median(ours), 2),
        "tensorflow_ms": round(statistics.median(theirs), 2),
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from kmaskrcnn.allocation import keep_freed_memory
    from kmaskrcnn.kernels.winograd import is_available

    keep_freed_memory()  # as the commands do
    cases = {"gradient of crops": crops()}
    for shape in MAPS if is_available() else ():
        for gradient in (False, True):
            name = f"3x3 convolution of {'x'.join(map(str, shape))}" + ", all gradients" * gradient
            cases[name] = convolutions(shape, gradient)
    rows = []
    for name, calls in cases.items():
        rows.append(compare(name, calls, options.pairs))
        print(json.dumps(rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"pairs": options.pairs, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
