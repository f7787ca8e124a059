"""Resizing in the graph against OpenCV, Pillow and geometry/resizing.py."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from kmaskrcnn.export import resizing
from kmaskrcnn.geometry.resizing import resize_pixels, resize_shape

sides = st.integers(1, 300)
graph_resize = tf.function(
    resizing.resize,
    input_signature=[tf.TensorSpec((None, None, None), tf.uint8), tf.TensorSpec((2,), tf.int32)],
)


@settings(deadline=None, max_examples=60)
@given(sides, sides, sides, sides, st.sampled_from([1, 3, 4]))
def test_pixels_equal_opencv_to_the_last_bit(height, width, new_height, new_width, channels):
    generator = np.random.default_rng([height, width, new_height, new_width])
    picture = generator.integers(0, 256, (height, width, channels), np.uint8)
    wanted = cv2.resize(picture, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    found = graph_resize(picture, [new_height, new_width]).numpy()
    np.testing.assert_array_equal(found, wanted.reshape(found.shape))


@pytest.mark.parametrize(
    "rule, tolerance", [("opencv", 0), ("torchvision", 2e-3), ("detectron2", 1)]
)
@pytest.mark.parametrize("size", [(40, 61), (90, 130)])
def test_every_rule_gives_the_pixels_of_the_predictor(rule, tolerance, size):
    picture = np.random.default_rng(0).integers(0, 256, (64, 97, 3), np.uint8)
    found = resizing.resize_pixels(picture[None], size, rule)[0].numpy()
    wanted = resize_pixels(picture, size, rule).astype("float32")
    np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0)
    assert np.mean(found != wanted) < 0.35 or rule == "torchvision"


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 9000), st.integers(1, 9000), st.sampled_from(["opencv", "torchvision"]))
def test_sizes_equal_those_of_training(height, width, rule):
    found = resizing.network_size(tf.constant([height, width]), 800, 1333, rule)
    assert tuple(found.numpy()) == resize_shape(height, width, 800, 1333, rule)


def test_padding_stands_at_the_bottom_and_right():
    padded = resizing.pad_to_multiple(tf.ones((2, 64, 65, 3)), 64).numpy()
    assert padded.shape == (2, 64, 128, 3)
    assert padded[:, :, :65].all() and not padded[:, :, 65:].any()
