"""What the mask branch adds to Faster R-CNN's time for a picture: both models take turns in one process.

    python benchmarks/mask_cost.py --json mask_cost.json

Random weights, the same in both models where the layers are the same. With no least score each picture has
`--detections` detections and as many masks, the most there can be; the paper's 7 and 5 fps are with 100 as well.
The time is that of `predict_on_batch`: the network, boxes and 28x28 masks; pasting into the picture is not in it.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import keras
import numpy as np

from kmaskrcnn.allocation import keep_freed_memory
from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.model import MaskRCNN

CLASSES = tuple(f"class_{i}" for i in range(80))
GOAL = 1.25


def make_models(backbone, detections):
    """Mask R-CNN, and Faster R-CNN with its weights."""
    keras.utils.set_random_seed(0)
    config = {"class_names": CLASSES, "backbone": backbone, "score_threshold": 0.0}
    models = [
        MaskRCNN(MaskRCNNConfig(**config, max_detections=detections, with_mask=with_mask))
        for with_mask in (True, False)
    ]
    values = {weight.path: weight for weight in models[0].weights}
    for weight in models[1].weights:
        weight.assign(values[weight.path])
    return models


def seconds_of(model, picture):
    """Wall time of one prediction."""
    start = time.perf_counter()
    model.predict_on_batch(picture)
    return time.perf_counter() - start


def compare(models, picture, pairs):
    """Seconds of each model, pair by pair, after two calls that are not counted; each goes first by turns."""
    for model in models * 2:
        found = model.predict_on_batch(picture)
        if int(found["num_detections"][0]) != model.config.max_detections:
            raise RuntimeError(f"{found['num_detections'][0]} detections: masks would cost less")
    times = []
    for pair in range(pairs):
        order = models if pair % 2 == 0 else models[::-1]
        seconds = [seconds_of(model, picture) for model in order]
        times.append(seconds if pair % 2 == 0 else seconds[::-1])
    return np.array(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1216), metavar=("H", "W"))
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--detections", type=int, default=100)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    picture = np.random.default_rng(0).integers(0, 255, (1, *options.size, 3)).astype("uint8")
    models = make_models(options.backbone, options.detections)
    times = compare(models, picture, options.pairs)
    ratios = times[:, 0] / times[:, 1]
    result = {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "with_mask_seconds": statistics.median(times[:, 0]),
        "without_mask_seconds": statistics.median(times[:, 1]),
        "pairs": options.pairs,
        "goal": GOAL,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
