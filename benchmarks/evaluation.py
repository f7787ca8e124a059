"""Seconds and memory of an evaluation by COCO's rules, masks pasted and encoded included, as JSON.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --classes 1

Pictures of 640 x 480 with discs of 10 to 200 pixels and detections a few pixels beside them, six classes to a
picture: from detections with masks in their boxes' frames to the tables of boxes and masks.
"""

import argparse
import json
import resource
import time
from types import SimpleNamespace

import numpy as np

from kmaskrcnn.detections import Detections
from kmaskrcnn.evaluation import CocoEvaluator

HEIGHT, WIDTH = 480, 640


def make_picture(image_id, instances, classes, generator):
    """A record of a picture: discs, drawn as polygons of 24 corners."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    outline = np.stack([np.cos(turn), np.sin(turn)], axis=1) / 2
    sizes = generator.uniform(10, 200, (instances, 2))
    corners = generator.uniform(0, 1, (instances, 2)) * ([WIDTH, HEIGHT] - sizes)
    labels = generator.choice(generator.permutation(classes)[:6], instances)
    return SimpleNamespace(
        image_id=image_id,
        height=HEIGHT,
        width=WIDTH,
        instances=tuple(
            SimpleNamespace(
                annotation_id=instances * image_id + number,
                box=(*corner, *(corner + size)),
                label=int(label),
                is_crowd=False,
                segmentation=[(corner + size / 2 + outline * size).ravel().tolist()],
                area=float(size.prod() * np.pi / 4),
            )
            for number, (corner, size, label) in enumerate(zip(corners, sizes, labels))
        ),
    )


def find_objects(picture, class_names, generator):
    """Detections: each disc in its box's frame, the box a few pixels aside."""
    count = len(picture.instances)
    y, x = np.mgrid[:28, :28] / 27 - 0.5
    disc = (0.5 + 8 * (0.25 - x**2 - y**2)).clip(0, 1)
    boxes = np.array([instance.box for instance in picture.instances])
    return Detections(
        boxes=boxes + generator.uniform(-3, 3, (count, 1)),
        labels=[instance.label for instance in picture.instances],
        scores=generator.random(count),
        image_size=(HEIGHT, WIDTH),
        masks=np.broadcast_to(disc, (count, 28, 28)),
        class_names=class_names,
    )


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument(
        "--instances", type=int, default=36, help="objects, and detections, a picture"
    )
    parser.add_argument("--classes", type=int, default=80)
    return parser.parse_args()


def main():
    """Measures and prints."""
    arguments = parse_arguments()
    generator = np.random.default_rng(0)
    names = tuple(f"class {label}" for label in range(arguments.classes))
    pictures = [
        make_picture(image_id, arguments.instances, arguments.classes, generator)
        for image_id in range(arguments.pictures)
    ]
    records = SimpleNamespace(images=pictures, class_names=names)
    started, started_cpu = time.perf_counter(), time.process_time()
    evaluator = CocoEvaluator(records)
    for picture in pictures:
        evaluator.add(picture.image_id, find_objects(picture, names, generator))
    metrics = evaluator.summarise()
    report = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - started_cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "box_ap": metrics["box"]["AP"],
        "mask_ap": metrics["mask"]["AP"],
    }
    print(json.dumps(vars(arguments) | report, indent=1))


if __name__ == "__main__":
    main()
