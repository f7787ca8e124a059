"""Pictures per second of the input pipeline, masks included, as JSON.

    python benchmarks/pipeline.py --data ../shared/data/coco_mini/annotations/instances_train2017.json \
        ../shared/data/coco_mini/train2017

The first epoch, which also starts TensorFlow's threads and warms the disk cache, is not counted.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np

from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import load_coco


def measure_epoch(dataset):
    """One epoch's pictures per second and the share of its pixels that is padding."""
    pictures, pixels, padded = 0, 0, 0
    start = time.perf_counter()
    for inputs, _ in dataset:
        pictures += inputs["images"].shape[0]
        pixels += np.prod(inputs["image_sizes"].numpy(), axis=1).sum()
        padded += np.prod(inputs["images"].shape[:3])
    return pictures / (time.perf_counter() - start), 1 - pixels / padded


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs=2, metavar=("JSON", "IMAGES"), required=True)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--min-size", type=int, default=800)
    parser.add_argument("--max-size", type=int, default=1333)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--without-masks", action="store_true")
    return parser.parse_args()


def main():
    """Measures and prints."""
    arguments = parse_arguments()
    records = load_coco(*arguments.data, on_error="skip")
    dataset = make_dataset(
        records,
        batch_size=arguments.batch_size,
        min_size=arguments.min_size,
        max_size=arguments.max_size,
        training=True,
        with_masks=not arguments.without_masks,
    )
    measure_epoch(dataset)
    epochs = [measure_epoch(dataset) for _ in range(arguments.epochs)]
    rates = [rate for rate, _ in epochs]
    report = {
        "pictures_per_second_median": statistics.median(rates),
        "pictures_per_second_minimum": min(rates),
        "pictures_per_second_maximum": max(rates),
        "padding_share": float(np.mean([share for _, share in epochs])),
        "pictures": len(records.images),
        "objects": sum(len(record.instances) for record in records.images),
        "batch_size": arguments.batch_size,
        "min_size": arguments.min_size,
        "masks": not arguments.without_masks,
        "cpu_count": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
