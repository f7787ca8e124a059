"""The keypoint head, its targets and its decoder."""

import keras
import numpy as np
import pytest
from keras import ops
from layer_checks import check_layer

from kmaskrcnn.layers.keypoint_head import KeypointDecoder, KeypointHead, KeypointTargetLayer


def test_the_paper_head():
    """8 convolutions of 512 channels, a deconvolution and a bilinear step up to 56 x 56 (section 5)."""
    head = KeypointHead(17)
    assert head(keras.Input((14, 14, 256))).shape == (None, 56, 56, 17)
    kernels = [conv.weights[0].shape for conv in head.convs]
    assert kernels == [(3, 3, 256, 512)] + [(3, 3, 512, 512)] * 7
    assert head.logits.kernel.shape == (4, 4, 17, 512)


def loop_head_end(hidden, kernel, bias):
    """Transposed convolution 4x4/2 with one cell cut off each side, then bilinear x2, by loops."""
    size, count = hidden.shape[0], kernel.shape[2]
    grown = np.zeros((2 * size + 2, 2 * size + 2, count))
    for i in range(size):
        for j in range(size):
            grown[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += np.einsum(
                "abkc,c->abk", kernel, hidden[i, j]
            )
    grown = grown[1:-1, 1:-1] + bias
    out = np.zeros((4 * size, 4 * size, count))
    for i in range(4 * size):
        for j in range(4 * size):
            y, x = (np.clip((v + 0.5) / 2 - 0.5, 0, 2 * size - 1) for v in (i, j))
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, 2 * size - 1), min(x0 + 1, 2 * size - 1)
            top = grown[y0, x0] * (1 - x + x0) + grown[y0, x1] * (x - x0)
            bottom = grown[y1, x0] * (1 - x + x0) + grown[y1, x1] * (x - x0)
            out[i, j] = top * (1 - y + y0) + bottom * (y - y0)
    return out


def test_the_growing_end_equals_the_loop():
    rng = np.random.default_rng(0)
    head = KeypointHead(2, num_convs=0)
    hidden = rng.normal(size=(1, 3, 3, 4)).astype("float32")
    head.build(hidden.shape)
    head.logits.kernel.assign(rng.normal(size=(4, 4, 2, 4)))
    head.logits.bias.assign(rng.normal(size=(2,)))
    weights = (ops.convert_to_numpy(w) for w in (head.logits.kernel, head.logits.bias))
    np.testing.assert_allclose(head(hidden)[0], loop_head_end(hidden[0], *weights), atol=1e-5)


def test_each_region_gets_its_own_objects_cells():
    keypoints = np.zeros((2, 3, 2, 3), "float32")
    keypoints[1, 2] = [[10, 20, 2], [30, 40, 1]]
    keypoints[0, 1] = [[1, 1, 2], [90, 90, 2]]
    rois = np.array([[0, 0, 40, 80], [0, 0, 56, 56], [5, 5, 6, 6]], "float32")
    cells = KeypointTargetLayer(8)(
        rois, np.array([1, 0, 1], "int32"), np.array([2, 1, 0], "int32"), keypoints
    )
    # 10 of 40 is column 2, 20 of 80 row 2; 30 of 40 is column 6, 40 of 80 row 4; beyond the region: none
    np.testing.assert_array_equal(cells, [[2 * 8 + 2, 4 * 8 + 6], [0, -1], [-1, -1]])


def test_scores_are_shares_of_the_softmax():
    logits = np.zeros((2, 56, 56, 1), "float32")
    logits[0, 10, 20, 0] = 9.0
    rois = np.array([[0, 0, 56, 56]] * 2, "float32")
    points = np.array(KeypointDecoder()(logits, rois))
    share = np.exp(9.0) / (np.exp(9.0) + 56 * 56 - 1)
    np.testing.assert_allclose(points[0, 0], [20.5, 10.5, share], rtol=1e-5)
    assert points[1, 0, 2] == pytest.approx(1 / 56**2, rel=1e-4)
    assert (points[..., 2] <= 1).all()


def test_torchvisions_rule_gives_the_logit():
    logits = np.zeros((1, 56, 56, 1), "float32")
    logits[0, 10, 20, 0] = 9.0
    points = np.array(KeypointDecoder("torchvision")(logits, np.array([[0, 0, 56, 56]], "float32")))
    np.testing.assert_allclose(points[0, 0], [20.5, 10.5, 9.0], rtol=1e-5)
    with pytest.raises(ValueError, match="rule: got 'everywhere'"):
        KeypointDecoder("everywhere")


def test_runners():
    rng = np.random.default_rng(1)
    check_layer(
        KeypointHead(3, 2, channels=8, norm="frozen_batch_norm"),
        rng.normal(size=(2, 4, 4, 5)).astype("float32"),
    )
    heatmaps = rng.normal(size=(3, 56, 56, 2)).astype("float32")
    rois = np.array([[0, 0, 30, 60], [2, 3, 200, 90], [0, 0, 1, 1]], "float32")
    for rule in ("window", "torchvision"):
        check_layer(KeypointDecoder(rule), (heatmaps, rois), mixed_precision=False)
    keypoints = rng.uniform(0, 60, (1, 4, 2, 3)).astype("float32")
    inputs = rois, np.zeros(3, "int32"), np.arange(3, dtype="int32"), keypoints
    cells = check_layer(KeypointTargetLayer(56), inputs, mixed_precision=False)
    assert cells.dtype == "int32" and keras.backend.is_int_dtype(cells.dtype)
