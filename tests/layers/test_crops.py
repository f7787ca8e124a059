"""The gradient of crops against a loop over the samples, and on boxes that lie on each other."""

import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.layers.crops import crop_and_resize
from kmaskrcnn.layers.roi_align import RoIAlign

SHAPE = (2, 5, 7, 3)
BOXES = np.array(
    [
        [0.1, 0.2, 0.8, 0.6],
        [-0.3, -0.2, 1.4, 1.1],  # beyond all edges
        [0.0, 0.0, 1.0, 1.0],
        [0.9, 0.7, 0.2, 0.1],  # from its last edge to its first
        [0.5, 0.5, 0.5, 0.5],
    ],
    "float32",
)
IMAGES = np.array([0, 1, 1, 0, 1], "int32")


def loop_samples(start, end, count, size):
    """The coordinates along one axis, in cells."""
    if count == 1:
        return [0.5 * (start + end) * (size - 1)]
    return [(start + i * (end - start) / (count - 1)) * (size - 1) for i in range(count)]


def loop_gradient(of_crops, size):
    """Every sample gives each of the four cells around it its share."""
    of_cells = np.zeros(SHAPE)
    for box, image, of_crop in zip(BOXES.astype(float), IMAGES, of_crops):
        for i, y in enumerate(loop_samples(box[0], box[2], size[0], SHAPE[1])):
            for j, x in enumerate(loop_samples(box[1], box[3], size[1], SHAPE[2])):
                if not (0 <= y <= SHAPE[1] - 1 and 0 <= x <= SHAPE[2] - 1):
                    continue
                for row in range(SHAPE[1]):
                    for column in range(SHAPE[2]):
                        share = max(0, 1 - abs(y - row)) * max(0, 1 - abs(x - column))
                        of_cells[image, row, column] += share * of_crop[i, j]
    return of_cells


def gradient(images, boxes, indices, size, of_crops):
    with tf.GradientTape() as tape:
        tape.watch(images)
        crops = crop_and_resize(images, boxes, indices, size)
    return tape.gradient(crops, images, output_gradients=of_crops)


@pytest.mark.parametrize("size", [(4, 3), (1, 2), (6, 1)])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_gradient_equals_the_loop(size, wrap):
    rng = np.random.default_rng(0)
    images = tf.constant(rng.normal(size=SHAPE), tf.float32)
    of_crops = tf.constant(rng.normal(size=(len(BOXES), *size, SHAPE[3])), tf.float32)
    found = wrap(gradient)(images, BOXES, IMAGES, tf.constant(size), of_crops)
    np.testing.assert_allclose(found, loop_gradient(of_crops.numpy(), size), atol=1e-5)


def test_nothing_is_lost_where_boxes_overlap():
    """TensorFlow's gradient of it fails here nearly every time, on two threads."""
    boxes, indices = np.tile(np.float32([[0, 0, 0.05, 0.05]]), (400, 1)), np.zeros(400, "int32")
    images = tf.zeros((1, 20, 20, 8))
    of_crops = tf.ones((400, 14, 14, 8))
    found = [gradient(images, boxes, indices, (14, 14), of_crops).numpy() for _ in range(3)]
    # A crop's samples give away all that they get.
    np.testing.assert_allclose(found[0].sum(dtype=float), 400 * 14 * 14 * 8, rtol=1e-4)
    for again in found[1:]:
        np.testing.assert_array_equal(again, found[0])


def test_tensorflows_own_gradient_is_not_in_a_graph_of_roi_align():
    """What it loses depends on the threads' luck, so the sums alone do not always tell."""
    layer = RoIAlign(7, implementation="crop_and_resize", levels=("P2",))

    @tf.function
    def of_features(features):
        boxes, indices = tf.constant([[2.0, 2.0, 30.0, 20.0]]), tf.constant([0])
        return tf.gradients(layer({"P2": features}, boxes, indices), features)

    operations = of_features.get_concrete_function(tf.zeros((1, 20, 20, 8))).graph.get_operations()
    kinds = {operation.type for operation in operations}
    assert "CropAndResize" in kinds and "CropAndResizeGradImage" not in kinds


def test_no_box_gives_a_gradient_of_zero():
    found = gradient(
        tf.ones(SHAPE),
        np.zeros((0, 4), "float32"),
        np.zeros(0, "int32"),
        (3, 3),
        tf.zeros((0, 3, 3, 3)),
    )
    np.testing.assert_array_equal(found, np.zeros(SHAPE))
