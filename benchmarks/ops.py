"""Single operations against torchvision's on CPUs, call by call in turn: the ratio of their times, as JSON.

    kmaskrcnn build-kernels
    python benchmarks/ops.py --peer-python ~/peers/bin/python --json ops.json

Both processes live through the whole run, and one sleeps while the other works. RoIAlign is timed in each of its
implementations, over 1000 boxes: on one level of 2 x 200 x 304 x 256, and on the pyramid of 800 x 1216 pixels.
A ratio below 1 means that ours is faster. Without `--peer-python` ours alone is timed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from op_cases import OPERATIONS, inputs_of, made_up_boxes

HERE = Path(__file__).resolve().parent
IMPLEMENTATIONS = ("kernel", "crop_and_resize", "gather")


class Peer:
    """torchvision in a process of its own."""

    def __init__(self, python, threads):
        command = [python, str(HERE / "ops_peer.py"), str(threads)]
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, bufsize=1, **streams)

    def seconds(self, name):
        """Of one call."""
        self.process.stdin.write(f"{name}\n")
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the peer's process ended; its own words are above")
        return float(answer)

    def close(self):
        """Ends it: its input is over."""
        self.process.stdin.close()
        self.process.wait()


def roi_align_call(operation, implementation):
    """A call of one implementation, in a graph as models run it."""
    import tensorflow as tf

    from kmaskrcnn.kernels.roi_align import is_available
    from kmaskrcnn.layers.roi_align import RoIAlign

    if implementation == "kernel" and not is_available():
        return None
    given = inputs_of(operation)
    names = tuple(f"P{2 + i}" for i in range(operation.levels))
    layer = RoIAlign(operation.pool, implementation=implementation, levels=names)
    features = {name: tf.constant(x) for name, x in zip(names, given["features"])}
    boxes, images, upstream = (tf.constant(given[n]) for n in ("boxes", "images", "upstream"))

    @tf.function
    def pool(features):
        pooled = layer(features, boxes, images)
        if not operation.gradient:
            return pooled
        return pooled, tf.gradients(pooled, list(features.values()), upstream)

    return lambda: pool(features)


def nms_call(operation, implementation):
    import numpy as np
    import tensorflow as tf

    boxes, scores = tf.constant(made_up_boxes(6000)), np.random.default_rng(0).random(6000)
    scores = tf.constant(scores, tf.float32)
    return lambda: tf.image.non_max_suppression(boxes, scores, 6000, 0.7)


def paste_call(operation, implementation):
    import numpy as np

    from kmaskrcnn.geometry.masks import paste_masks

    boxes = made_up_boxes(100, seed=3)
    masks = np.random.default_rng(0).random((100, 28, 28), "float32")
    return lambda: paste_masks(masks, boxes, (800, 1216))


def seconds(call):
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(name, implementation, peer, pairs):
    """One row, or None where the implementation is not there."""
    operation = OPERATIONS[name]
    maker = {"roi_align": roi_align_call, "nms": nms_call, "paste": paste_call}[operation.kind]
    call = maker(operation, implementation)
    if call is None:
        return None
    times = []
    for _ in range(pairs + 2):  # two to warm up
        times.append((seconds(call), peer.seconds(name) if peer else None))
    ours, theirs = zip(*times[2:])
    row = {"operation": name, "implementation": implementation}
    row |= {"ours_ms": milliseconds(ours), "ours_least_ms": round(min(ours) * 1000, 2)}
    if peer:
        ratios = [a / b for a, b in zip(ours, theirs)]
        row |= {
            "torchvision_ms": milliseconds(theirs),
            "torchvision_least_ms": round(min(theirs) * 1000, 2),
        }
        row |= {"ratio_median": round(statistics.median(ratios), 4)}
        row |= {"ratio_min": round(min(ratios), 4), "ratio_max": round(max(ratios), 4)}
    return row


def milliseconds(times):
    """The median."""
    return round(statistics.median(times) * 1000, 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", help="a Python that has torchvision")
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument(
        "--implementations", nargs="+", choices=IMPLEMENTATIONS, default=IMPLEMENTATIONS
    )
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    from kmaskrcnn.allocation import keep_freed_memory

    keep_freed_memory()  # as the commands do
    peer = Peer(options.peer_python, os.cpu_count()) if options.peer_python else None
    rows = []
    for name in options.only:
        own = OPERATIONS[name].kind == "roi_align"
        for implementation in options.implementations if own else (None,):
            row = compare(name, implementation, peer, options.pairs)
            rows += [row] if row else []
            print(json.dumps(row), flush=True)
    if peer:
        peer.close()
    if options.json:
        options.json.write_text(json.dumps({"pairs": options.pairs, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
