"""A Mask R-CNN small enough for tests, and made-up batches for it."""

import keras
import numpy as np

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.layers.convolution import ConvNorm
from kmaskrcnn.model import MaskRCNN

TINY = {
    "class_names": ("a", "b", "c"),
    "min_size": 64,
    "max_size": 96,
    "backbone": "resnet18",
    "fpn_channels": 16,
    "anchor_scales": (8.0, 16.0, 32.0, 64.0, 128.0),
    "rpn_anchors_per_image": 32,
    "rpn_pre_nms_topk_train": 50,
    "rpn_pre_nms_topk": 50,
    "rpn_post_nms_topk_train": 30,
    "rpn_post_nms_topk": 30,
    "rois_per_image": 16,
    "box_head_units": 32,
    "mask_head_convs": 1,
    "mask_head_channels": 16,
    "keypoint_head_convs": 1,
    "keypoint_head_channels": 16,
    "max_detections": 10,
    "score_threshold": 0.0,
}

# Draws of more than there are, all anchors and all regions: so that no two runs draw differently.
EVERYTHING = {
    "rpn_anchors_per_image": 4000,
    "rpn_positive_fraction": 1.0,
    "rois_per_image": 64,
    "roi_positive_fraction": 1.0,
    "roi_align": "gather",
}


def tiny_config(**changes):
    return MaskRCNNConfig(**{**TINY, **changes})


def tiny_backbone(norm="frozen_batch_norm"):
    """Five strided convolutions: what a test traces in a second, where a ResNet takes five."""
    images = keras.Input((None, None, 3))
    options = {"activation": "relu", "norm": norm}
    stem, filters = (32, 32) if norm == "group_norm" else (8, 16)  # it has 32 groups
    features, x = {}, ConvNorm(stem, 3, 2, name="stem", **options)(images)
    for stage in ("C2", "C3", "C4", "C5"):
        x = features[stage] = ConvNorm(filters, 3, 2, name=stage, **options)(x)
    return keras.Model(images, features, name="tiny_backbone")


def tiny_model(**changes):
    return MaskRCNN(tiny_config(**changes), backbone=tiny_backbone())


def batch(rng, objects=(2, 1), size=(64, 96), crowd=False, masks=True, keypoints=0):
    """`(inputs, targets)` of the contract: pictures of noise with the given numbers of objects."""
    count, most = len(objects), max(*objects, 1)
    boxes, labels = np.zeros((count, most, 4), "float32"), np.full((count, most), -1, "int32")
    for i, n in enumerate(objects):
        corner = rng.uniform(0, 30, (n, 2))
        boxes[i, :n] = np.concatenate([corner, corner + rng.uniform(15, 33, (n, 2))], 1)
        labels[i, :n] = rng.integers(0, 3, n)
    is_crowd = np.zeros((count, most), bool)
    is_crowd[:, 0] = crowd
    inputs = {
        "images": rng.integers(0, 255, (count, *size, 3)).astype("uint8"),
        "image_sizes": np.array(
            [[size[0], size[1]], [size[0] - 10, size[1] - 20]] * count, "int32"
        )[:count],
    }
    targets = {"boxes": boxes, "labels": labels, "is_crowd": is_crowd}
    if masks:
        targets["masks"] = rng.integers(0, 2, (count, most, 112, 112)).astype("uint8")
    if keypoints:
        corners, sides = boxes[:, :, None, :2], boxes[:, :, None, 2:] - boxes[:, :, None, :2]
        points = corners + rng.uniform(0, 1, (count, most, keypoints, 2)) * sides
        seen = (labels >= 0)[..., None, None] * rng.integers(1, 3, (count, most, keypoints, 1))
        targets["keypoints"] = (np.concatenate([points, seen], -1) * (seen > 0)).astype("float32")
    return inputs, targets
