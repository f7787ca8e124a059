"""How much a wider padding of the canvas moves the detections of a trained model.

    python benchmarks/padding.py runs/nuclei/model.keras --data ../shared/data/nuclei/annotations/instances_val.json \
        ../shared/data/nuclei/images

The model brings its images to the least canvas by itself, so the answer is 0; this shows it on a trained model.
"""

import argparse
import json

import numpy as np
from measuring import load_trained

from kmaskrcnn.detections import Detections
from kmaskrcnn.evaluation import CocoEvaluator


def predict(model, inputs, extra):
    """Detections of a batch on a canvas that is `extra` pixels larger both ways."""
    images = np.pad(inputs["images"], [(0, 0), (0, extra), (0, extra), (0, 0)])
    return model.predict_on_batch({"images": images, "image_sizes": inputs["image_sizes"]})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", nargs=2, required=True)
    parser.add_argument("--extra", type=int, default=128)
    options = parser.parse_args()
    model, records, dataset = load_trained(options.model, *options.data)
    evaluators = {extra: CocoEvaluator(records) for extra in (0, options.extra)}
    shifts, changes = [], []
    for inputs, targets in dataset:
        inputs = {name: value.numpy() for name, value in inputs.items()}
        found = {extra: predict(model, inputs, extra) for extra in evaluators}
        sizes = inputs["image_sizes"][0], targets["original_sizes"].numpy()[0]
        for extra, evaluator in evaluators.items():
            detections = Detections.from_outputs(found[extra], 0, *sizes, records.class_names)
            evaluator.add(int(targets["image_ids"][0]), detections)
        sure = found[0]["scores"][0] > 0.5
        boxes, others = found[0]["boxes"][0][sure], found[options.extra]["boxes"][0]
        if len(boxes):
            distance = np.abs(boxes[:, None] - others[None]).max(-1)
            nearest = distance.argmin(1)
            shifts += list(distance.min(1))
            changes += list(
                abs(found[0]["scores"][0][sure] - found[options.extra]["scores"][0][nearest])
            )
    print(
        json.dumps(
            {
                "extra_pixels": options.extra,
                "sure_detections": len(shifts),
                "box_shift_px": dict(
                    zip(("median", "p99", "max"), np.percentile(shifts, [50, 99, 100]).round(3))
                ),
                "score_change": dict(
                    zip(("median", "p99", "max"), np.percentile(changes, [50, 99, 100]).round(4))
                ),
                "mask_AP": [round(e.summarise()["mask"]["AP"], 4) for e in evaluators.values()],
            }
        )
    )


if __name__ == "__main__":
    main()
