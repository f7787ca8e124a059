"""The cascade of box heads against a loop over its stages in NumPy; only pooling and heads are its own."""

import numpy as np
import oracles
import pytest
import tensorflow as tf
from test_cascade import loop_refine
from test_targets import loop_roles, truth
from tiny import tiny_config

from kmaskrcnn.branches.cascade import CascadeBoxBranch
from kmaskrcnn.config import MaskRCNNConfig, from_dict, to_dict
from kmaskrcnn.objective import loss_names, loss_values

THRESHOLDS = (0.5, 0.6, 0.7)
VARIANCES = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (1 / 30, 1 / 30, 1 / 15, 1 / 15))
SIZES = np.array([[80, 80], [70, 75]], "int32")


@pytest.fixture(scope="module")
def branch():
    """With heads that move boxes by several pixels."""
    rng = np.random.default_rng(0)
    config = tiny_config(cascade_thresholds=THRESHOLDS, rois_per_image=24, nms_threshold=0.4)
    branch = CascadeBoxBranch(config, name="box_branch")
    branch.predict(features(), np.zeros((2, 4, 4), "float32"), SIZES)
    for weight in branch.trainable_weights:
        if "class_logits" in weight.path or "box_deltas" in weight.path:
            weight.assign(rng.normal(0, 0.3, weight.shape))
    return branch


def features():
    rng = np.random.default_rng(1)
    return {
        f"P{i}": rng.normal(size=(2, 80 >> i, 80 >> i, 16)).astype("float32") for i in (2, 3, 4, 5)
    }


def answers(branch, number, rois):
    """Class logits and deltas of one head, `(B, R, K + 1)` and `(B, R, 4)`."""
    logits, deltas = branch.heads[number](branch.align(features(), rois))
    shape = rois.shape[:2]
    return np.reshape(logits, (*shape, -1)), np.reshape(deltas, (*shape, 4))


def loop_move(rois, deltas, variance):
    return np.array(
        [
            [loop_refine(*pair, size, variance) for pair in zip(*of_picture)]
            for *of_picture, size in zip(rois, deltas, SIZES)
        ],
        "float32",
    )


def test_detections_have_the_mean_score_and_the_last_box(branch):
    rois = oracles.random_boxes(np.random.default_rng(2), (2, 30), 70, 70, 12).clip(0, 70)
    found = {k: np.array(v) for k, v in branch.predict(features(), rois, SIZES).items()}
    probabilities, boxes = [], rois
    for number, variance in enumerate(VARIANCES):
        logits, deltas = answers(branch, number, boxes)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities.append(shares / shares.sum(-1, keepdims=True))
        boxes = loop_move(boxes, deltas, variance)
    scores = np.mean(probabilities, axis=0)
    assert np.abs(boxes - rois).max() > 3 and np.abs(scores - probabilities[2]).max() > 0.1
    for i in range(2):
        kept = [
            (scores[i, n, k], k, *boxes[i, n])
            for k in range(3)
            for n in oracles.nms(boxes[i], scores[i, :, k], 0.4)
        ]
        best = np.array(sorted(kept, reverse=True)[:10])
        assert found["num_detections"][i] == 10
        np.testing.assert_allclose(found["scores"][i], best[:, 0], atol=1e-5)
        np.testing.assert_array_equal(found["labels"][i], best[:, 1])
        np.testing.assert_allclose(found["boxes"][i], best[:, 2:], atol=1e-3)


def test_every_stage_learns_from_the_boxes_of_the_one_before(branch):
    rng = np.random.default_rng(3)
    boxes, labels, is_crowd = truth(rng)
    near = np.repeat(boxes[:, :2], 20, axis=1) + rng.normal(0, 3, (2, 40, 4)).astype("float32")
    objects = {"boxes": boxes, "labels": labels, "is_crowd": is_crowd, "image_sizes": SIZES}
    drawn, outputs = branch.learn(features(), near.clip(0, 70), objects)
    rois = np.array(drawn["rois"])
    for number, stage in enumerate(("", "_stage2", "_stage3")):
        given = {
            name: np.reshape(outputs[f"region_{name}{stage}"], (2, 24, -1))
            for name in ("rois", "labels", "deltas")
        }
        np.testing.assert_allclose(given["rois"], rois, atol=1e-3)
        threshold, variance = THRESHOLDS[number], VARIANCES[number]
        for i in range(2):
            roles, matches = loop_roles(
                rois[i], boxes[i], labels[i], is_crowd[i], threshold, threshold
            )
            for j, roi in enumerate(rois[i]):
                label = given["labels"][i, j, 0]
                empty = (roi[2:] <= roi[:2]).any()
                assert label == (-1 if empty else (3, labels[i][matches[j] or 0], -1)[roles[j]])
                if roles[j] == 1:
                    moved = loop_refine(roi, given["deltas"][i, j], (99, 99), variance)
                    np.testing.assert_allclose(moved, boxes[i][matches[j]], atol=1e-3)
        rois = loop_move(rois, answers(branch, number, rois)[1], variance)
    assert len(set(outputs)) == 15


def test_heads_share_the_gradient_of_the_features(branch):
    """Each one's part is a third of what it would be alone; the drawn regions are the same."""
    boxes, labels, is_crowd = truth(np.random.default_rng(4))
    objects = {"boxes": boxes, "labels": labels, "is_crowd": is_crowd, "image_sizes": SIZES}
    maps = {name: tf.constant(values) for name, values in features().items()}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(maps)
        drawn, outputs = branch.learn(maps, boxes, objects)
        logits, _ = branch.heads[0](branch.align(maps, drawn["rois"]))
        shared, alone = (tf.reduce_sum(tf.square(x)) for x in (outputs["class_logits"], logits))
    shared, alone = (tape.gradient(total, maps["P2"]) for total in (shared, alone))
    assert np.abs(alone).max() > 0
    np.testing.assert_allclose(shared, alone / 3, atol=1e-5 * float(np.abs(alone).max()))


def test_losses_of_all_stages_are_named_and_counted():
    config = tiny_config(cascade_thresholds=THRESHOLDS, box_loss="giou", with_mask=False)
    names = [
        f"box_{kind}loss{stage}" for stage in ("", "_stage2", "_stage3") for kind in ("class_", "")
    ]
    assert loss_names(config) == ["rpn_class_loss", "rpn_box_loss", *names]
    roi, target = np.array([[10, 10, 30, 30]], "float32"), np.array([[0, 0, 0, 0]], "float32")
    outputs = {
        "rpn_logits": np.zeros((1, 4), "float32"),
        "rpn_deltas": np.zeros((1, 4, 4), "float32"),
        "rpn_targets": {
            "indices": np.array([[0]]),
            "labels": np.array([[0]]),
            "deltas": np.zeros((1, 1, 4), "float32"),
        },
    }
    for stage in config.box_stages:
        outputs |= {
            f"class_logits{stage}": np.zeros((1, 4), "float32"),
            f"box_deltas{stage}": np.array([[[1, 0, 0, 0]]], "float32"),
            f"region_rois{stage}": roi,
            f"region_labels{stage}": np.array([1]),
            f"region_deltas{stage}": target,
        }
    found = {name: float(value) for name, value in loss_values(outputs, config).items()}
    assert set(found) == set(loss_names(config))
    # The box is moved by its width times the stage's variance, v: IoU (1 - v) / (1 + v), no empty hull.
    for stage, v in zip(config.box_stages, (0.1, 0.05, 1 / 30)):
        assert found[f"box_loss{stage}"] == pytest.approx(1 - (1 - v) / (1 + v), rel=1e-4)
        assert found[f"box_class_loss{stage}"] == pytest.approx(np.log(4), rel=1e-6)


def test_portable_operations_detect_the_same(branch):
    config = tiny_config(cascade_thresholds=THRESHOLDS, nms_threshold=0.4, portable=True)
    portable = CascadeBoxBranch(config, name="box_branch")
    rois = oracles.random_boxes(np.random.default_rng(5), (2, 30), 70, 70, 12).clip(0, 70)
    portable.predict(features(), rois, SIZES)
    portable.set_weights(branch.get_weights())
    found, wanted = (b.predict(features(), rois, SIZES) for b in (portable, branch))
    np.testing.assert_array_equal(found["labels"], wanted["labels"])
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=1e-3)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"cascade_thresholds": (0.5, 1.6)}, "cascade_thresholds: got .* from 0 to 1"),
        ({"cascade_thresholds": (0.5, 0.6)}, "cascade_box_variances: got .* each of the 2"),
        ({"cascade_box_variances": ((0.1, 0.1),)}, "cascade_box_variances: got .* four numbers"),
    ],
)
def test_cascades_that_do_not_fit_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        MaskRCNNConfig(**values)


def test_stages_are_plain_configurations():
    config = MaskRCNNConfig(cascade_thresholds=THRESHOLDS)
    assert from_dict(MaskRCNNConfig, to_dict(config)) == config
    stages = config.box_stages
    assert list(stages) == ["", "_stage2", "_stage3"]
    assert [stage.roi_positive_threshold for stage in stages.values()] == [0.5, 0.6, 0.7]
    assert tuple(stage.box_variance for stage in stages.values()) == VARIANCES
    assert all(stage.class_agnostic_boxes for stage in stages.values())
    plain = MaskRCNNConfig()
    assert plain.box_stages == {"": plain}
