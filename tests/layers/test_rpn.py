"""Anchors, RPN head and proposals against loops."""

import numpy as np
import oracles
import pytest
from keras import ops
from layer_checks import check_layer

from kmaskrcnn.layers.rpn import AnchorGenerator, ProposalLayer, RPNHead

LEVELS = ("P2", "P3")


def features(rng, channels=4):
    return {
        "P2": rng.normal(size=(2, 6, 8, channels)).astype("float32"),
        "P3": rng.normal(size=(2, 3, 4, channels)).astype("float32"),
    }


def test_several_scales_of_one_level_run_before_the_ratios():
    """Detectron2's order where all anchors lie on one level: a cell's first three share their scale."""
    layer = AnchorGenerator(((16, 32), 64), (0.25, 1.0))
    anchors = layer(features(np.random.default_rng(0)))
    assert anchors["P2"].shape == (6 * 8 * 4, 4) and anchors["P3"].shape == (3 * 4 * 2, 4)
    cell = np.array(anchors["P2"][4:8]) - [4, 0, 4, 0]  # the second cell, a stride to the right
    sides = [(32, 8), (16, 16), (64, 16), (32, 32)]  # width, height
    np.testing.assert_array_equal(cell, [[-w / 2, -h / 2, w / 2, h / 2] for w, h in sides])
    check_layer(layer, (features(np.random.default_rng(0)),), mixed_precision=False)


def test_anchors_of_each_level():
    anchors = AnchorGenerator((16, 32), (1.0,))(features(np.random.default_rng(0)))
    assert anchors["P2"].shape == (48, 4) and anchors["P3"].shape == (12, 4)
    # Row 1, column 1, stride 4.
    np.testing.assert_array_equal(anchors["P2"][9], [4 - 8, 4 - 8, 4 + 8, 4 + 8])
    np.testing.assert_array_equal(anchors["P3"][5], [8 - 16, 8 - 16, 8 + 16, 8 + 16])


def test_anchors_need_a_scale_a_level():
    with pytest.raises(ValueError, match="scales.*3.*P2"):
        AnchorGenerator((8, 16, 32))(features(np.random.default_rng(0)))


def test_head_keeps_the_order_of_the_anchors():
    """Logit and deltas of row (y * W + x) * R + r come from the same cell and the same anchor shape."""
    rng = np.random.default_rng(0)
    head, maps = RPNHead(anchors_per_cell=2), features(rng)
    logits, deltas = head(maps)
    hidden = ops.convert_to_numpy(head.convs[0](maps["P2"]))
    kernel, bias = (ops.convert_to_numpy(w) for w in head.logits.weights)
    delta_kernel = ops.convert_to_numpy(head.deltas.kernel)
    cell = hidden[1, 2, 5]
    row = (2 * 8 + 5) * 2
    np.testing.assert_allclose(
        logits["P2"][1, row : row + 2], cell @ kernel[0, 0] + bias, atol=1e-6
    )
    np.testing.assert_allclose(deltas["P2"][1, row + 1], (cell @ delta_kernel[0, 0])[4:], atol=1e-6)


def answers(rng, sizes=(48 * 3, 12 * 3)):
    logits = {level: rng.normal(size=(2, n)).astype("float32") for level, n in zip(LEVELS, sizes)}
    deltas = {
        level: rng.normal(0, 0.3, (2, n, 4)).astype("float32") for level, n in zip(LEVELS, sizes)
    }
    return logits, deltas


def loop_proposals(anchors, logits, deltas, size, pre, post, threshold):
    """Proposals of one picture, with plain loops."""
    kept = []
    for level in LEVELS:
        order = np.argsort(-logits[level])[:pre]
        boxes, scores = [], []
        for i in order:
            x1, y1, x2, y2 = anchors[level][i]
            dx, dy, dw, dh = deltas[level][i]
            x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
            w, h = (x2 - x1) * np.exp(dw), (y2 - y1) * np.exp(dh)
            box = np.clip([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 0, [size[1], size[0]] * 2)
            if box[2] - box[0] >= 1e-3 and box[3] - box[1] >= 1e-3:
                boxes.append(box)
                scores.append(logits[level][i])
        kept += [
            (scores[i], boxes[i]) for i in oracles.nms(np.array(boxes), np.array(scores), threshold)
        ]
    return [box for _, box in sorted(kept, key=lambda row: -row[0])][:post]


@pytest.mark.parametrize("portable", [False, True])
def test_proposals_equal_the_loop(portable):
    rng = np.random.default_rng(1)
    anchors = {
        level: ops.convert_to_numpy(a)
        for level, a in AnchorGenerator((16, 32))(features(rng)).items()
    }
    logits, deltas = answers(rng)
    sizes = np.array([[24, 32], [20, 17]], "int32")
    layer = ProposalLayer(pre_nms_topk=60, post_nms_topk=40, nms_threshold=0.5, portable=portable)
    proposals = ops.convert_to_numpy(layer(anchors, logits, deltas, sizes))
    for i in range(2):
        one = {level: x[i] for level, x in logits.items()}, {
            level: x[i] for level, x in deltas.items()
        }
        truth = loop_proposals(anchors, *one, sizes[i], 60, 40, 0.5)
        assert len(truth) > 10
        np.testing.assert_allclose(proposals[i, : len(truth)], truth, atol=1e-4)
        assert not proposals[i, len(truth) :].any()


def test_more_proposals_while_training():
    rng = np.random.default_rng(1)
    anchors = AnchorGenerator((16, 32))(features(rng))
    layer = ProposalLayer(4, 4, pre_nms_topk_train=30, post_nms_topk_train=50)
    sizes = np.array([[24, 32], [24, 32]], "int32")
    assert layer(anchors, *answers(rng), sizes).shape == (2, 4, 4)
    assert layer(anchors, *answers(rng), sizes, training=True).shape == (2, 50, 4)


@pytest.mark.parametrize("portable", [False, True])
def test_runners(portable):
    rng = np.random.default_rng(2)
    check_layer(
        AnchorGenerator((16, 32)), (features(rng),), free_axes=(1, 2), mixed_precision=False
    )
    check_layer(RPNHead(3), (features(rng),), free_axes=(1, 2))
    anchors = {
        level: ops.convert_to_numpy(a)
        for level, a in AnchorGenerator((16, 32))(features(rng)).items()
    }
    inputs = (anchors, *answers(rng), np.array([[24, 32], [20, 17]], "int32"))
    check_layer(ProposalLayer(30, 20, portable=portable), inputs, mixed_precision=False)
