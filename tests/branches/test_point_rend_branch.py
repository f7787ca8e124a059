"""PointRend against loops: subdivision, and what the heads learn; only the heads are the branch's own."""

import numpy as np
import oracles
import pytest
from keras import ops
from tiny import tiny_config

from kmaskrcnn.branches.point_rend import PointRendBranch
from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.objective import loss_names, loss_values

P = 4  # coarse masks have 2 cells a side, final ones 32
ROIS = np.array([[3, 5, 40, 33], [10, 0, 64, 64], [20, 30, 29, 38]], "float32")
FOUND = {
    "rois": ROIS,
    "labels": np.array([2, 0, 1], "int32"),
    "image_indices": np.array([0, 1, 1], "int32"),
    "matches": np.array([0, 0, 0], "int32"),
}


def config(**changes):
    return tiny_config(mask_head="point_rend", mask_pool_size=P, mask_head_units=16, **changes)


def features():
    rng = np.random.default_rng(0)
    return {f"P{i}": rng.normal(size=(2, 64 >> i, 64 >> i, 16)).astype("float32") for i in (2, 3)}


@pytest.fixture(scope="module")
def branch():
    """With heads that are sure of much and unsure of some."""
    branch, rng = PointRendBranch(config(), name="mask_branch"), np.random.default_rng(1)
    branch.predict(features(), FOUND)
    for weight in branch.trainable_weights:
        if weight.path.endswith("logits/kernel"):
            weight.assign(rng.normal(0, 0.5, weight.shape))
    return branch


def look(branch, n, coarse, points):
    """The point head's answer for region n's own class."""
    own, fine_map = FOUND["labels"][n], features()["P2"][FOUND["image_indices"][n]]
    seen = []
    for x, y in points:
        px, py = ROIS[n, :2] + (x, y) * (ROIS[n, 2:] - ROIS[n, :2])
        fine = oracles.bilinear(fine_map, py / 4 - 0.5, px / 4 - 0.5)
        rough = oracles.bilinear(coarse, y * P / 2 - 0.5, x * P / 2 - 0.5)
        seen.append((fine, rough))
    inputs = (np.array(values, "float32")[None] for values in zip(*seen))
    return ops.convert_to_numpy(branch.point_head(*inputs))[0, :, own]


def enlarge(logits):
    size = 2 * len(logits)
    cells = logits[..., None]
    return np.array(
        [
            [oracles.bilinear(cells, y / 2 - 0.25, x / 2 - 0.25)[0] for x in range(size)]
            for y in range(size)
        ]
    )


def test_the_mask_is_subdivided_as_the_loop_does(branch):
    masks = ops.convert_to_numpy(branch.predict(features(), FOUND))
    assert masks.shape == (3, 32, 32)
    pooled = np.stack(
        [
            oracles.roi_align(features()["P2"][image], roi, 4, P, sampling=1)
            for roi, image in zip(ROIS, FOUND["image_indices"])
        ]
    )
    coarse = ops.convert_to_numpy(branch.head(pooled.astype("float32")))
    assert coarse.shape == (3, 2, 2, 3)
    for n in range(3):
        logits = enlarge(coarse[n, :, :, FOUND["labels"][n]])  # 4 x 4
        for size in (8, 16, 32):
            logits = enlarge(logits)
            order = sorted(np.ndindex(size, size), key=lambda cell: abs(logits[cell]))[:64]
            points = [((x + 0.5) / size, (y + 0.5) / size) for y, x in order]
            for cell, value in zip(order, look(branch, n, coarse[n], points)):
                logits[cell] = value
        np.testing.assert_allclose(masks[n], 1 / (1 + np.exp(-logits)), atol=1e-4)


def test_it_learns_the_coarse_mask_and_the_points(branch):
    """One object fills its box, the other its left half."""
    boxes = np.array([[[3, 5, 40, 33]], [[10, 0, 64, 64]]], "float32")
    masks = np.ones((2, 1, 64, 64), "uint8")
    masks[1, :, :, 32:] = 0
    out = branch.learn(features(), FOUND, {"boxes": boxes, "masks": masks})
    out = {name: ops.convert_to_numpy(values) for name, values in out.items()}
    assert out["mask_logits"].shape == out["mask_targets"].shape == (3, 2, 2)
    np.testing.assert_array_equal(out["mask_targets"][0], [[1, 1], [1, 1]])
    np.testing.assert_array_equal(out["mask_targets"][1], [[1, 0], [1, 0]])
    assert out["mask_point_logits"].shape == out["mask_point_targets"].shape == (3, P * P)
    assert (out["mask_point_targets"][0] > 0.4).all()
    share = out["mask_point_targets"][1]
    assert ((share > 0.9) | (share < 0.1)).mean() > 0.7 and 0 < share.mean() < 1


def test_both_losses_are_counted():
    names = loss_names(config())
    assert names[-2:] == ["mask_loss", "mask_point_loss"]
    outputs = {
        "mask_labels": np.array([0, 3]),  # the second one is background
        "mask_logits": np.full((2, 2, 2), 1.5, "float32"),
        "mask_targets": np.ones((2, 2, 2), "float32"),
        "mask_point_logits": np.array([[2.0, -1.0], [9.0, 9.0]], "float32"),
        "mask_point_targets": np.array([[1.0, 0.25], [0.0, 0.0]], "float32"),
        "rpn_logits": np.zeros((1, 4), "float32"),
        "rpn_deltas": np.zeros((1, 4, 4), "float32"),
        "class_logits": np.zeros((1, 4), "float32"),
        "box_deltas": np.zeros((1, 3, 4), "float32"),
        "region_rois": np.zeros((1, 4), "float32"),
        "region_labels": np.array([3]),
        "region_deltas": np.zeros((1, 4), "float32"),
    }
    outputs["rpn_targets"] = {
        "indices": np.array([[0]]),
        "labels": np.array([[0]]),
        "deltas": np.zeros((1, 1, 4), "float32"),
    }
    found = loss_values(outputs, config())
    assert float(found["mask_loss"]) == pytest.approx(np.log1p(np.exp(-1.5)), rel=1e-5)
    of_points = np.log1p(np.exp(-2.0)), 0.25 * np.log1p(np.exp(1)) + 0.75 * np.log1p(np.exp(-1))
    assert float(found["mask_point_loss"]) == pytest.approx(np.mean(of_points), rel=1e-5)


def test_mask_sizes():
    assert MaskRCNNConfig().mask_size == 28
    assert MaskRCNNConfig(mask_head="point_rend").mask_size == 112
    assert config().mask_size == 32
    with pytest.raises(ValueError, match="mask_activation: got 'softmax'"):
        config(mask_activation="softmax")
    with pytest.raises(ValueError, match="mask_pool_size: got 7"):
        MaskRCNNConfig(mask_head="point_rend", mask_pool_size=7)


def test_one_mask_for_all_classes():
    branch = PointRendBranch(config(class_agnostic_masks=True), name="mask_branch")
    assert branch.predict(features(), FOUND).shape == (3, 32, 32)
    assert branch.head(np.zeros((1, P, P, 16), "float32")).shape == (1, 2, 2, 1)
