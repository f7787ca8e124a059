"""Learn 4 real pictures by heart: proof that no target is misplaced.

    python benchmarks/overfit.py --data ../shared/data/coco_mini --json overfit.json

Takes the first two pictures with a crowd and the first two without from `coco_mini` (80 classes), trains on those four
without flips, and evaluates on the same four. The goal is a mask AP50 above 0.9.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

from kmaskrcnn.config import DataConfig, MaskRCNNConfig, Recipe, TrainingConfig
from kmaskrcnn.evaluation import format_table
from kmaskrcnn.training.trainer import train

RECIPE = Recipe(
    model=MaskRCNNConfig(
        min_size=384,
        max_size=576,
        backbone="mobilenet_v2",
        fpn_channels=128,
        anchor_scales=(16.0, 32.0, 64.0, 128.0, 256.0),
        rpn_post_nms_topk_train=500,
        rpn_post_nms_topk=500,
        rois_per_image=128,
        box_head_units=512,
        mask_head_channels=128,
    ),
    data=DataConfig(batch_size=2, flip=False),
    training=TrainingConfig(
        epochs=150,
        optimizer="adamw",
        learning_rate=5e-4,
        weight_decay=0.0,
        schedule="cosine",
        warmup_steps=30,
        gradient_clip_norm=10.0,
        trainable_stages=5,
        evaluate_every=25,
    ),
)


def four_pictures(document):
    """The part of a COCO json that speaks of the four pictures."""
    crowded = {a["image_id"] for a in document["annotations"] if a["iscrowd"]}
    annotated = {a["image_id"] for a in document["annotations"]}
    images = [image for image in document["images"] if image["id"] in annotated]
    chosen = [image for image in images if image["id"] in crowded][:2]
    chosen += [image for image in images if image["id"] not in crowded][:2]
    ids = {image["id"] for image in chosen}
    annotations = [a for a in document["annotations"] if a["image_id"] in ids]
    return {**document, "images": chosen, "annotations": annotations}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="../shared/data/coco_mini", type=Path)
    parser.add_argument("--epochs", type=int, default=RECIPE.training.epochs)
    parser.add_argument("--output", type=Path, help="keep the model and the pictures there")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    weights = options.data.parent / "weights_mobilenet_v2/mobilenet_v2_1.0_224_notop_folded.npz"
    training = dataclasses.replace(
        RECIPE.training, epochs=options.epochs, backbone_weights=str(weights)
    )
    recipe = dataclasses.replace(RECIPE, training=training)
    document = json.loads((options.data / "annotations/instances_train2017.json").read_text())
    output = options.output or Path(tempfile.mkdtemp())
    output.mkdir(parents=True, exist_ok=True)
    (output / "four.json").write_text(json.dumps(four_pictures(document)))
    data = output / "four.json", options.data / "train2017"
    start = time.perf_counter()
    metrics = train(recipe, data, data, output, verbose=2)
    seconds = round(time.perf_counter() - start)
    print(format_table(metrics))
    print(
        json.dumps(
            {
                "mask_AP50": metrics["mask"]["AP50"],
                "box_AP50": metrics["box"]["AP50"],
                "seconds": seconds,
            }
        )
    )
    if options.json:
        options.json.write_text(json.dumps({**metrics, "seconds": seconds}, indent=2))


if __name__ == "__main__":
    main()
