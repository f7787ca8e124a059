"""Heads, packing, mask targets and detections."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
from keras import ops
from layer_checks import check_layer

from kmaskrcnn.layers.detection import DetectionLayer
from kmaskrcnn.layers.heads import BoxHead, MaskHead, MLPMaskHead, SelectClass
from kmaskrcnn.layers.mask_targets import MaskTargetLayer
from kmaskrcnn.layers.normalizer import ImageNormalizer
from kmaskrcnn.layers.regions import PackRegions, UnpackRegions


def pooled(n=3, size=4):
    return np.random.default_rng(0).normal(size=(n, size, size, 8)).astype("float32")


def test_shapes_of_the_heads():
    logits, deltas = BoxHead(5, units=16)(pooled())
    assert logits.shape == (3, 6) and deltas.shape == (3, 5, 4)
    assert MaskHead(5, channels=8)(pooled()).shape == (3, 8, 8, 5)
    assert MLPMaskHead(5, units=16)(pooled()).shape == (3, 8, 8, 5)
    assert BoxHead(5, units=16, class_agnostic=True)(pooled())[1].shape == (3, 1, 4)


def test_each_cell_of_a_mask_becomes_four():
    """The transposed convolution and the last layer, cell after cell."""
    head = MaskHead(3, num_convs=1, channels=4)
    head.build((None, 4, 5, 8))
    rng = np.random.default_rng(1)
    for variable in head.weights:
        variable.assign(rng.normal(size=variable.shape))
    x = pooled()[:, :, :3]  # no square
    hidden = ops.convert_to_numpy(head.convs[0](x))
    up, last = (
        [ops.convert_to_numpy(v) for v in layer.weights] for layer in (head.upsample, head.logits)
    )
    wanted = np.zeros((3, 8, 6, 3))
    for n, row, column, i, j in np.ndindex(3, 4, 3, 2, 2):
        quarter = np.maximum(up[0][i, j] @ hidden[n, row, column] + up[1], 0)
        wanted[n, 2 * row + i, 2 * column + j] = quarter @ last[0][0, 0] + last[1]
    np.testing.assert_allclose(head(x), wanted, rtol=1e-4, atol=1e-3)
    # Of the own class alone; without one, any.
    own = head(x, np.array([2, 0, -1], "int32"))
    np.testing.assert_allclose(own[0], wanted[0, ..., 2], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(own[1], wanted[1, ..., 0], rtol=1e-4, atol=1e-3)
    assert own.shape == (3, 8, 6) and np.isfinite(own).all()


def test_a_mask_that_serves_all_classes_has_no_label_of_its_own():
    for head in (MaskHead(1, num_convs=1, channels=4), MLPMaskHead(1, 16)):
        own = head(pooled(), np.array([2, 0, 5], "int32"))
        np.testing.assert_allclose(own, head(pooled())[..., 0], rtol=1e-5, atol=1e-7)


def test_deltas_are_grouped_by_class():
    head = BoxHead(3, units=16)
    _, deltas = head(pooled())
    hidden = pooled().reshape(3, -1)
    for dense in head.dense:
        hidden = np.maximum(hidden @ ops.convert_to_numpy(dense.kernel), 0)
    flat = hidden @ ops.convert_to_numpy(head.box_deltas.kernel)
    np.testing.assert_allclose(deltas[:, 2], flat[:, 8:12], atol=1e-5)


def test_the_mask_of_the_own_class_is_selected():
    logits = np.arange(2 * 2 * 2 * 3, dtype="float32").reshape(2, 2, 2, 3)
    selected = SelectClass()(logits, np.array([2, 0], "int32"))
    np.testing.assert_array_equal(selected[0], logits[0, :, :, 2])
    np.testing.assert_array_equal(selected[1], logits[1, :, :, 0])
    assert SelectClass()(logits, np.array([-1, 3], "int32")).shape == (2, 2, 2)
    agnostic = SelectClass()(logits[..., :1], np.array([2, 0], "int32"))
    np.testing.assert_array_equal(agnostic, logits[..., 0])


def test_dense_layers_see_the_whole_region():
    """Each pixel of the MLP's mask depends on every pooled cell, the FCN's on its neighbours alone."""
    one, other = np.zeros((2, 1, 8, 8, 4), "float32")
    other[0, 0, 0] = 1.0
    changed = {}
    for head in (MLPMaskHead(1, 64), MaskHead(1, 1, channels=8)):
        head(one)
        for weight in head.weights:  # the last layer's are too small to show
            weight.assign(np.random.default_rng(0).normal(size=weight.shape))
        difference = np.abs(ops.convert_to_numpy(head(other) - head(one)))[0, ..., 0]
        changed[type(head)] = difference > 1e-6
    assert changed[MLPMaskHead].all() and not changed[MaskHead][4:, 4:].any()
    assert changed[MaskHead][:2, :2].any()


def test_behind_a_whole_trunk_cells_are_averaged():
    head = BoxHead(2, num_dense=0, average=True)
    regions = pooled()
    logits, deltas = head(regions)
    assert head.class_logits.kernel.shape == (regions.shape[-1], 3)
    for region, found, moved in zip(regions, logits, deltas):
        mean = sum(region[i, j] for i, j in np.ndindex(region.shape[:2])) / region[..., 0].size
        np.testing.assert_allclose(found, mean @ head.class_logits.kernel.numpy(), atol=1e-5)
        expected = mean @ head.box_deltas.kernel.numpy()
        np.testing.assert_allclose(moved, expected.reshape(2, 4), atol=1e-5)


@pytest.mark.parametrize("portable", [False, True])
def test_packing_and_unpacking(portable):
    values = np.arange(2 * 3 * 2, dtype="float32").reshape(2, 3, 2)
    valid = np.array([[True, False, True], [False, True, False]])
    packed = PackRegions(portable)({"values": values}, valid)
    if not portable:
        np.testing.assert_array_equal(packed["image_indices"], [0, 0, 1])
        np.testing.assert_array_equal(packed["values"], values[valid])
    back = ops.convert_to_numpy(UnpackRegions()(packed["values"], packed["places"], valid))
    np.testing.assert_array_equal(back[valid], values[valid])
    assert not back[~valid].any()


def test_packing_nothing_takes_one_empty_place():
    """An empty batch makes TensorFlow's convolutions fail."""
    values, valid = np.ones((2, 3, 4), "float32"), np.zeros((2, 3), bool)
    packed = PackRegions()({"values": values}, valid)
    assert packed["values"].shape == (1, 4)
    assert not np.any(UnpackRegions()(packed["values"], packed["places"], valid))


def loop_mask_target(roi, box, mask, size):
    """Paste the mask into a fine grid, cut the region out of it and take its pixels' mean."""
    fine = 16
    target = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            inside = []
            for a in range(fine):
                for b in range(fine):
                    y = roi[1] + (i + (a + 0.5) / fine) * (roi[3] - roi[1]) / size
                    x = roi[0] + (j + (b + 0.5) / fine) * (roi[2] - roi[0]) / size
                    v = (y - box[1]) / (box[3] - box[1]) * mask.shape[0]
                    u = (x - box[0]) / (box[2] - box[0]) * mask.shape[1]
                    within = 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1]
                    inside.append(within and mask[int(v), int(u)])
            target[i, j] = np.mean(inside)
    return target


def test_mask_targets_show_what_the_region_sees():
    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[0:112, 0:112] / 112
    disc = ((yy - 0.4) ** 2 + (xx - 0.55) ** 2 < 0.35**2).astype("uint8")
    masks = np.stack([disc, disc.T])[None]
    boxes = np.array([[[10, 20, 60, 90], [30, 10, 90, 50]]], "float32")
    matches = np.array([0, 1, 0, 1], "int32")
    rois = boxes[0][matches] + rng.normal(0, 6, (4, 4)).astype("float32")
    targets = ops.convert_to_numpy(
        MaskTargetLayer(14)(rois, np.zeros(4, "int32"), matches, boxes, masks)
    )
    for roi, match, target in zip(rois, matches, targets):
        soft = loop_mask_target(roi, boxes[0, match], masks[0, match], 14)
        clear = np.abs(soft - 0.5) > 0.2  # cells that the outline halves may fall to either side
        assert clear.mean() > 0.8 and 0.1 < target.mean() < 0.9
        np.testing.assert_array_equal(target[clear], soft[clear] > 0.5)


def test_a_full_mask_ends_at_its_box():
    masks = np.ones((1, 1, 112, 112), "uint8")
    boxes = np.array([[[10, 10, 50, 50]]], "float32")
    roi = np.array([[30, 10, 70, 50]], "float32")  # its right half lies beyond the box
    zero = np.zeros(1, "int32")
    target = ops.convert_to_numpy(MaskTargetLayer(28)(roi, zero, zero, boxes, masks))[0]
    assert target[:, :14].all() and not target[:, 14:].any()


def test_a_cell_that_the_outline_halves_is_object():
    """Of each 4 x 4 pixels two columns are object: 0.5, which no rounding may turn into no object."""
    masks = np.tile(np.uint8([1, 1, 0, 0]), (1, 3, 112, 28))
    boxes = np.float32([[[10.1, 3.3, 50.7, 90.9], [0, 0, 640, 480], [600.3, 20.7, 700.9, 33.3]]])
    zeros, layer = np.zeros(3, "int32"), MaskTargetLayer(28)
    inputs = boxes[0], zeros, np.arange(3, dtype="int32"), boxes, masks
    for call in (layer, tf.function(layer)):
        assert ops.convert_to_numpy(call(*inputs)).all()


def test_class_agnostic_boxes_are_those_of_every_class():
    rng = np.random.default_rng(4)
    rois = oracles.random_boxes(rng, (2, 20), 50, 50, smallest=15).clip(0, 50)
    logits = rng.normal(0, 2, (40, 4)).astype("float32")
    deltas, sizes = rng.normal(0, 1, (40, 1, 4)).astype("float32"), np.array([[50, 50]] * 2)
    for suppression in ("hard", "soft_gaussian"):
        layer = DetectionLayer(0.1, 0.4, max_detections=25, suppression=suppression)
        shared = layer(rois, logits, deltas, sizes)
        repeated = layer(rois, logits, np.repeat(deltas, 3, axis=1), sizes)
        assert int(shared["num_detections"][0]) > 5
        for name, values in shared.items():
            np.testing.assert_allclose(values, repeated[name], atol=1e-6)


@pytest.mark.parametrize("portable", [False, True])
def test_detections_equal_the_loop(portable):
    rng = np.random.default_rng(1)
    rois = oracles.random_boxes(rng, (2, 30), 50, 50, smallest=15).clip(0, 50)
    rois[1, 20:] = 0  # padding, which must never be detected however sure the head is
    logits = rng.normal(0, 2, (60, 4)).astype("float32")
    deltas = rng.normal(0, 1, (60, 3, 4)).astype("float32")
    sizes = np.array([[50, 50], [40, 45]], "int32")
    layer = DetectionLayer(
        score_threshold=0.1, nms_threshold=0.4, max_detections=25, portable=portable
    )
    out = {k: ops.convert_to_numpy(v) for k, v in layer(rois, logits, deltas, sizes).items()}
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for i in range(2):
        found = []
        for label in range(3):
            boxes, of_class = [], []
            for r in range(30):
                x1, y1, x2, y2 = rois[i, r]
                dx, dy, dw, dh = deltas[i * 30 + r, label] * [0.1, 0.1, 0.2, 0.2]
                x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
                w, h = (x2 - x1) * np.exp(dw), (y2 - y1) * np.exp(dh)
                limits = [sizes[i][1], sizes[i][0]] * 2
                box = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, limits)
                if box[2] > box[0] and box[3] > box[1] and scores[i * 30 + r, label] > 0.1:
                    boxes.append(box)
                    of_class.append(scores[i * 30 + r, label])
            kept = oracles.nms(np.array(boxes), np.array(of_class), 0.4)
            found += [(of_class[k], label, boxes[k]) for k in kept]
        found = sorted(found, key=lambda row: -row[0])[:25]
        count = out["num_detections"][i]
        assert count == len(found) > 5
        np.testing.assert_allclose(out["scores"][i, :count], [f[0] for f in found], atol=1e-6)
        np.testing.assert_array_equal(out["labels"][i, :count], [f[1] for f in found])
        np.testing.assert_allclose(out["boxes"][i, :count], [f[2] for f in found], atol=1e-4)


def test_what_is_beyond_the_picture_does_not_matter():
    images = np.random.default_rng(0).integers(0, 255, (1, 8, 8, 3)).astype("uint8")
    other = images.copy()
    other[:, 5:], other[:, :, 6:] = 255, 7
    layer, sizes = ImageNormalizer((100, 110, 120), (50, 60, 70)), np.array([[5, 6]], "int32")
    normal = ops.convert_to_numpy(layer(images, sizes))
    np.testing.assert_array_equal(normal, layer(other, sizes))
    assert not normal[:, 5:].any() and not normal[:, :, 6:].any()
    np.testing.assert_allclose(
        normal[0, 4, 5], (images[0, 4, 5] - [100.0, 110, 120]) / [50, 60, 70], rtol=1e-5
    )


def test_images_are_brought_to_the_least_canvas():
    images = np.random.default_rng(0).integers(1, 255, (2, 8, 20, 3)).astype("uint8")
    sizes = np.array([[5, 6], [8, 3]], "int32")
    layer = ImageNormalizer((0, 0, 0), (1, 1, 1), size_divisor=12)
    canvas = ops.convert_to_numpy(layer(images, sizes))
    assert canvas.shape == (2, 12, 12, 3)
    np.testing.assert_array_equal(canvas[0, :5, :6], images[0, :5, :6])
    assert not canvas[0, 5:].any() and not canvas[1, :, 3:].any()


def test_runners():
    rng = np.random.default_rng(2)
    check_layer(BoxHead(3, 16, num_convs=1, channels=8, norm="batch_norm"), pooled())
    check_layer(BoxHead(3, 16, class_agnostic=True), pooled())
    check_layer(BoxHead(3, num_dense=0, average=True), pooled())
    check_layer(MaskHead(3, 2, channels=8, norm="frozen_batch_norm"), pooled())
    check_layer(MLPMaskHead(3, 16), pooled())
    check_layer(
        SelectClass(), (rng.normal(size=(2, 4, 4, 3)).astype("float32"), np.array([0, 2], "int32"))
    )
    check_layer(
        PackRegions(),
        ({"x": rng.normal(size=(2, 3, 2)).astype("float32")}, np.eye(2, 3, dtype=bool)),
    )
    places = np.array([1, 2], "int32")
    check_layer(
        UnpackRegions(), (rng.normal(size=(2, 5)).astype("float32"), places, np.eye(2, dtype=bool))
    )
    check_layer(
        ImageNormalizer((1, 2, 3), (1, 2, 3)),
        (np.ones((1, 4, 4, 3), "uint8"), np.array([[4, 4]], "int32")),
    )
    boxes = oracles.random_boxes(rng, (1, 2), 50, 50)
    inputs = (
        boxes[0],
        np.zeros(2, "int32"),
        np.arange(2, dtype="int32"),
        boxes,
        np.ones((1, 2, 112, 112), "uint8"),
    )
    check_layer(MaskTargetLayer(14), inputs, mixed_precision=False)
    rois = oracles.random_boxes(rng, (2, 6), 50, 50)
    logits, deltas = rng.normal(size=(12, 4)).astype("float32"), rng.normal(size=(12, 3, 4)).astype(
        "float32"
    )
    inputs = rois, logits, deltas, np.array([[50, 50]] * 2, "int32")
    check_layer(DetectionLayer(max_detections=5), inputs, mixed_precision=False)
    soft = DetectionLayer(max_detections=5, suppression="soft_linear")
    check_layer(soft, inputs, mixed_precision=False)
