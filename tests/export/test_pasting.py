"""Pasting in the graph against the NumPy version."""

import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.export.pasting import paste_masks
from kmaskrcnn.geometry.masks import paste_masks as paste_in_numpy

paste = {
    rule: tf.function(
        lambda masks, boxes, size, rule=rule: paste_masks(masks, boxes, size, rule=rule),
        input_signature=[
            tf.TensorSpec((None, 28, 28), tf.float32),
            tf.TensorSpec((None, 4), tf.float32),
            tf.TensorSpec((2,), tf.int32),
        ],
    )
    for rule in ("half_pixel", "torchvision", "matterport")
}


@pytest.mark.parametrize("rule", paste)
def test_masks_equal_those_of_numpy(rule):
    generator = np.random.default_rng(0)
    corners = generator.uniform(-20, 90, (40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(0.1, 80, (40, 2))], 1)
    boxes[0] = 5.0  # no area
    boxes[1] = [2.5, 3.5, 20.5, 31.5]  # halves, which a rule of whole pixels rounds to even numbers
    boxes = np.clip(boxes, 0, [100, 70, 100, 70]).astype("float32")
    masks = generator.random((40, 28, 28)).astype("float32")
    found = paste[rule](masks, boxes, [70, 100]).numpy()
    wanted = paste_in_numpy(masks, boxes, (70, 100), rule=rule)
    assert found.shape == wanted.shape and found.dtype == np.uint8 and wanted.any()
    assert np.mean(found != wanted) < 1e-5  # a probability of 0.5 but for the last bit of a float


def test_no_masks_are_no_masks():
    empty = np.zeros((0, 28, 28), "float32"), np.zeros((0, 4), "float32")
    assert paste["half_pixel"](*empty, [7, 9]).shape == (0, 7, 9)
