"""Batches padded to one shape."""

import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.data.fixed_shapes import fix_shapes


def batches():
    """One picture with one object, then a wider one with two."""
    for width, count in ((64, 1), (128, 2)):
        inputs = {
            "images": np.full((1, 64, width, 3), 7, "uint8"),
            "image_sizes": np.array([[64, width]], "int32"),
        }
        targets = {
            "boxes": np.full((1, count, 4), 5.0, "float32"),
            "labels": np.zeros((1, count), "int32"),
            "is_crowd": np.ones((1, count), bool),
            "masks": np.ones((1, count, 8, 8), "uint8"),
            "keypoints": np.ones((1, count, 17, 3), "float32"),
            "image_ids": np.array([3], "int64"),
        }
        yield inputs, targets


@pytest.fixture
def dataset():
    def spec(x):
        shape = [1, *([None] * (x.ndim - 1))] if x.ndim != 2 or x.dtype != "int32" else [1, None]
        return tf.TensorSpec(shape, x.dtype)

    signature = tf.nest.map_structure(spec, next(batches()))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def test_every_batch_has_the_shape_and_padding_is_empty(dataset):
    fixed = fix_shapes(dataset, (128, 128), 3)
    assert fixed.element_spec[0]["images"].shape[:3] == (1, 128, 128)
    assert fixed.element_spec[1]["labels"].shape == (1, 3)
    for (inputs, targets), (plain, truth) in zip(fixed, batches()):
        width, count = plain["images"].shape[2], truth["labels"].shape[1]
        images = inputs["images"].numpy()
        assert images.shape == (1, 128, 128, 3) and (images[0, :64, :width] == 7).all()
        assert images.sum() == 7 * 64 * width * 3
        np.testing.assert_array_equal(inputs["image_sizes"], plain["image_sizes"])
        np.testing.assert_array_equal(targets["labels"], [[0] * count + [-1] * (3 - count)])
        for name in ("boxes", "is_crowd", "masks", "keypoints"):
            padded = targets[name].numpy()
            assert padded.shape == (1, 3, *truth[name].shape[2:])
            np.testing.assert_array_equal(padded[:, :count], truth[name])
            assert not padded[:, count:].any()
        np.testing.assert_array_equal(targets["image_ids"], [3])


@pytest.mark.parametrize("shape, objects, name", [((64, 64), 2, "images"), ((64, 128), 1, "boxes")])
def test_what_does_not_fit_is_named(dataset, shape, objects, name):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name}: a batch is larger"):
        list(fix_shapes(dataset, shape, objects))
