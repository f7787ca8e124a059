"""Learn the poses in 8 real pictures by heart: proof that no keypoint is misplaced.

    python benchmarks/overfit_keypoints.py --data ../shared/data/coco_mini --json overfit_keypoints.json

Takes the first 8 pictures of `coco_mini` whose persons all have keypoints, trains boxes and keypoints together on them
without flips, and evaluates on the same eight. The goal is a keypoint AP of at least 0.8; two of the twelve
persons have keypoints outside their own box, which no heatmap of the region can show, so 1.0 is out of reach.
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
        min_size=320,
        max_size=480,
        backbone="mobilenet_v2",
        fpn_channels=96,
        anchor_scales=(16.0, 32.0, 64.0, 128.0, 256.0),
        rpn_post_nms_topk_train=300,
        rpn_post_nms_topk=300,
        rois_per_image=64,
        box_head_units=256,
        with_mask=False,
        with_keypoints=True,
        keypoint_head_convs=4,
        keypoint_head_channels=192,
        max_detections=30,
    ),
    data=DataConfig(batch_size=2, flip=False),
    training=TrainingConfig(
        epochs=220,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.0,
        schedule="cosine",
        warmup_steps=30,
        gradient_clip_norm=10.0,
        trainable_stages=5,
        evaluate_every=55,
    ),
)


def eight_pictures(document):
    """The part of a COCO json that speaks of the eight pictures."""
    posed, unposed = set(), set()
    for annotation in document["annotations"]:
        known = annotation["num_keypoints"] > 0 and not annotation["iscrowd"]
        (posed if known else unposed).add(annotation["image_id"])
    chosen = [image for image in document["images"] if image["id"] in posed - unposed][:8]
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
    document = json.loads(
        (options.data / "annotations/person_keypoints_train2017.json").read_text()
    )
    output = options.output or Path(tempfile.mkdtemp())
    output.mkdir(parents=True, exist_ok=True)
    (output / "eight.json").write_text(json.dumps(eight_pictures(document)))
    data = output / "eight.json", options.data / "train2017"
    start = time.perf_counter()
    metrics = train(recipe, data, data, output, pictures=8, verbose=2)
    seconds = round(time.perf_counter() - start)
    print(format_table(metrics))
    print(json.dumps({"keypoint_AP": metrics["keypoint"]["AP"], "seconds": seconds}))
    if options.json:
        options.json.write_text(json.dumps({**metrics, "seconds": seconds}, indent=2))


if __name__ == "__main__":
    main()
