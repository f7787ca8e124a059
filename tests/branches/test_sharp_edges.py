"""What PointRend is for: a star's tips, which a mask of 28 x 28 cells cuts off."""

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_config

from kmaskrcnn.branches.mask import MaskBranch
from kmaskrcnn.branches.point_rend import PointRendBranch
from kmaskrcnn.geometry.masks import crop_masks_to_boxes, paste_masks
from kmaskrcnn.losses import mask_loss

SIDE, BOX = 192, np.array([12, 12, 180, 180], "float32")
STEPS = 250


def star():
    """A star of nine thin rays: `(SIDE, SIDE)` bool."""
    angles = np.arange(18) * 2 * np.pi / 18
    radii = np.resize([84.0, 34.0], 18)
    points = SIDE / 2 + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
    canvas = np.zeros((SIDE, SIDE), "uint8")
    return cv2.fillPoly(canvas, [np.round(points * 16).astype(int)], 1, shift=4) > 0


def learn(branch, shape):
    """Overfit a branch and features of stride 4 on one picture; the mask that it then predicts."""
    keras.utils.set_random_seed(0)
    picture = (shape[None, ..., None] - 0.5).astype("float32") * [[[[1, 0.5, -1]]]]
    layers = [keras.layers.Conv2D(32, 5, s, "same", activation="relu") for s in (2, 2, 1)]
    pyramid = keras.Sequential([keras.Input((SIDE, SIDE, 3)), *layers])
    region = {
        "rois": BOX[None],
        "labels": np.array([0], "int32"),
        "image_indices": np.array([0], "int32"),
        "matches": np.array([0], "int32"),
    }
    mask = crop_masks_to_boxes(shape[None], BOX[None], 112) >= 0.5
    truth = {"boxes": BOX[None, None], "masks": mask[None].astype("uint8")}

    def features():
        finest = pyramid(picture)
        return {
            f"P{i}": tf.nn.avg_pool2d(finest, 1 << (i - 2), 1 << (i - 2), "SAME")
            for i in (2, 3, 4, 5)
        }

    branch.predict(features(), region)
    variables = pyramid.trainable_variables + branch.trainable_variables
    optimizer = keras.optimizers.Adam(2e-3)
    optimizer.build(variables)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            out = branch.learn(features(), region, truth)
            loss = mask_loss(out["mask_logits"], out["mask_labels"], out["mask_targets"], 3)
            if "mask_point_logits" in out:
                points = out["mask_point_logits"], out["mask_labels"], out["mask_point_targets"]
                loss = loss + mask_loss(*points, 3)
        optimizer.apply(tape.gradient(loss, variables), variables)

    for _ in range(STEPS):
        step()
    return np.array(branch.predict(features(), region))


@pytest.mark.slow
def test_edges_are_sharper():
    """Fewer pixels are wrong than with any mask of 28 x 28 cells, and half as many as with the FCN's."""
    shape, wrong = star(), {}

    def share_of_wrong(masks):
        return (paste_masks(masks, BOX[None], (SIDE, SIDE))[0] != shape).mean()

    for kind, name in ((MaskBranch, "fcn"), (PointRendBranch, "point_rend")):
        config = tiny_config(mask_head=name, mask_head_units=64, mask_head_channels=32)
        wrong[name] = share_of_wrong(learn(kind(config, name="mask_branch"), shape))
    wrong["best of 28"] = share_of_wrong(crop_masks_to_boxes(shape[None], BOX[None], 28))
    assert wrong["point_rend"] < min(wrong["fcn"] / 2, wrong["best of 28"]), wrong
