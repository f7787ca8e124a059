"""GIoU, DIoU and CIoU losses against a loop, hand numbers and torchvision, gradients included."""

import math
from pathlib import Path

import numpy as np
import oracles
import pytest
import tensorflow as tf

from kmaskrcnn.geometry.overlap_losses import overlap_loss

RECORDED = np.load(Path(__file__).parents[1] / "fixtures" / "torchvision_ops.npz")
KINDS = {"giou": "generalized", "diou": "distance", "ciou": "complete"}


def loop_loss(box, target, kind):
    """The papers' equations for two boxes."""
    iou = oracles.iou(box, target)
    if kind == "iou":
        return 1 - iou
    width = max(box[2], target[2]) - min(box[0], target[0])
    height = max(box[3], target[3]) - min(box[1], target[1])
    sides = [(b[2] - b[0], b[3] - b[1]) for b in (box, target)]
    if kind == "giou":
        areas = [w * h for w, h in sides]
        union = sum(areas) / (1 + iou)
        return 1 - iou + (width * height - union) / (width * height)
    centres = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (box, target)]
    loss = 1 - iou + math.dist(*centres) ** 2 / (width**2 + height**2)
    if kind == "ciou":
        v = (
            4
            / math.pi**2
            * (math.atan(sides[0][0] / sides[0][1]) - math.atan(sides[1][0] / sides[1][1])) ** 2
        )
        loss += v * v / (1 - iou + v)
    return loss


@pytest.mark.parametrize("kind", ("iou", *KINDS))
def test_equals_the_loop(kind):
    rng = np.random.default_rng(0)
    boxes, targets = (oracles.random_boxes(rng, (50,), 80, 100) for _ in range(2))
    targets[:25] = boxes[:25] + rng.uniform(-1.5, 1.5, (25, 4))
    expected = [loop_loss(*pair, kind) for pair in zip(boxes.tolist(), targets.tolist())]
    np.testing.assert_allclose(overlap_loss(boxes, targets, kind), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_torchvision_with_gradients(kind):
    boxes, name = tf.constant(RECORDED["box/first"]), KINDS[kind]
    with tf.GradientTape() as tape:
        tape.watch(boxes)
        loss = overlap_loss(boxes, RECORDED["box/second"], kind)
    gradient = tape.gradient(loss, boxes)
    np.testing.assert_allclose(loss, RECORDED[f"box/{name}_loss"], atol=1e-6)
    # Boxes that are equal (row 0) or touch (row 3) stand on a kink, where any slope between is right.
    smooth = np.setdiff1d(np.arange(32), [0, 3])
    recorded = RECORDED[f"box/{name}_gradient"]
    np.testing.assert_allclose(np.array(gradient)[smooth], recorded[smooth], atol=1e-5)


def test_hand_numbers():
    same = np.array([[0, 0, 4, 2]], "float32")
    apart = np.array([[6, 0, 10, 2]], "float32")
    for kind in KINDS:
        assert float(overlap_loss(same, same, kind)[0]) == pytest.approx(0, abs=1e-6)
    # the enclosing box has 20 pixels, 4 of them nobody's
    assert float(overlap_loss(same, apart, "giou")[0]) == pytest.approx(1.2, abs=1e-6)
    # centres 6 apart, a diagonal of sqrt(104)
    assert float(overlap_loss(same, apart, "diou")[0]) == pytest.approx(1 + 36 / 104, abs=1e-6)
    # the same shape: no term for the aspect ratio
    assert float(overlap_loss(same, apart, "ciou")[0]) == pytest.approx(1 + 36 / 104, abs=1e-6)


def test_flat_boxes_in_one_line_have_no_steep_slope():
    flat = tf.constant([[0, 5, 10, 5]], "float32")
    with tf.GradientTape() as tape:
        tape.watch(flat)
        loss = overlap_loss(flat, np.array([[20, 5, 30, 5]], "float32"), "giou")
    assert np.abs(tape.gradient(loss, flat)).max() == 0


def test_an_unknown_kind_is_named():
    with pytest.raises(ValueError, match="kind: got 'siou'"):
        overlap_loss(np.zeros((1, 4)), np.zeros((1, 4)), "siou")
