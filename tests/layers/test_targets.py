"""Targets of the RPN and of the regions against loops."""

import keras
import numpy as np
import oracles
import pytest
from keras import ops
from layer_checks import check_layer

from kmaskrcnn.components import make_detection_targets
from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.geometry.boxes import decode_deltas
from kmaskrcnn.layers.detection import DetectionLayer
from kmaskrcnn.layers.targets import DetectionTargetLayer, RPNTargetLayer

VARIANCE = (0.1, 0.1, 0.2, 0.2)


def truth(rng, crowd=True):
    """Two pictures, 4 and 2 objects, of which one each is a crowd; the rest of 5 places is padding."""
    boxes = oracles.random_boxes(rng, (2, 5), 80, 80, smallest=20).clip(0, 80)
    labels = np.array([[0, 2, 1, 0, -1], [1, 0, -1, -1, -1]], "int32")
    boxes[labels < 0] = 0
    is_crowd = np.zeros((2, 5), bool)
    is_crowd[0, 3] = is_crowd[1, 1] = crowd
    return boxes, labels, is_crowd


def loop_roles(candidates, boxes, labels, is_crowd, positive, negative):
    """1, 0 or -1 for each candidate, and the object that it overlaps most."""
    roles, matches = [], []
    objects = [g for g in range(len(labels)) if labels[g] >= 0 and not is_crowd[g]]
    crowds = [g for g in range(len(labels)) if labels[g] >= 0 and is_crowd[g]]
    for box in candidates:
        ious = {g: oracles.iou(box, boxes[g]) for g in objects}
        best = max(ious, key=ious.get) if ious else None
        role = (
            1 if ious and ious[best] >= positive else 0 if not ious or ious[best] < negative else -1
        )
        area = (box[2] - box[0]) * (box[3] - box[1])
        for g in crowds:
            w = min(box[2], boxes[g][2]) - max(box[0], boxes[g][0])
            h = min(box[3], boxes[g][3]) - max(box[1], boxes[g][1])
            if role == 0 and max(w, 0) * max(h, 0) >= 0.7 * area:
                role = -1
        roles.append(role)
        matches.append(best)
    return np.array(roles), matches


def test_every_region_gets_the_answer_that_the_loop_gives():
    rng = np.random.default_rng(0)
    boxes, labels, is_crowd = truth(rng)
    proposals = oracles.random_boxes(rng, (2, 60), 80, 80).clip(0, 80)
    proposals[:, :20] = np.repeat(boxes[:, :2], 10, axis=1) + rng.normal(0, 2, (2, 20, 4))
    proposals[:, 50:] = 0  # padding
    layer = DetectionTargetLayer(3, rois_per_image=200, positive_fraction=1.0)
    out = {k: ops.convert_to_numpy(v) for k, v in layer(proposals, boxes, labels, is_crowd).items()}
    for i in range(2):
        candidates = np.concatenate([proposals[i, :50], boxes[i][labels[i] >= 0]])
        roles, matches = loop_roles(candidates, boxes[i], labels[i], is_crowd[i], 0.5, 0.5)
        rois, drawn = out["rois"][i], out["labels"][i]
        assert (drawn >= 0).sum() == (roles >= 0).sum()
        for roi, label, delta in zip(rois[drawn >= 0], drawn[drawn >= 0], out["deltas"][i]):
            n = int(np.flatnonzero((np.abs(candidates - roi) < 1e-5).all(1))[0])
            assert label == (labels[i][matches[n]] if roles[n] == 1 else 3)
            if roles[n] == 1:
                moved = ops.convert_to_numpy(decode_deltas(roi[None], delta[None], VARIANCE))[0]
                np.testing.assert_allclose(moved, boxes[i][matches[n]], atol=1e-3)
            else:
                assert not delta.any()


def test_a_quarter_are_positive_and_they_come_first():
    rng = np.random.default_rng(1)
    boxes, labels, is_crowd = truth(rng, crowd=False)
    near = np.repeat(boxes[:, :2], 30, axis=1) + rng.normal(0, 1, (2, 60, 4)).astype("float32")
    far = np.tile(np.array([79, 79, 80, 80], "float32"), (2, 60, 1))
    layer = DetectionTargetLayer(3, rois_per_image=32)
    drawn = ops.convert_to_numpy(
        layer(np.concatenate([near, far], 1), boxes, labels, is_crowd)["labels"]
    )
    assert ((drawn[:, :8] >= 0) & (drawn[:, :8] < 3)).all() and (drawn[:, 8:] == 3).all()


def test_ground_truth_joins_the_proposals():
    rng = np.random.default_rng(2)
    boxes, labels, is_crowd = truth(rng, crowd=False)
    layer = DetectionTargetLayer(3, rois_per_image=16)
    out = layer(np.zeros((2, 10, 4), "float32"), boxes, labels, is_crowd)
    assert sorted(ops.convert_to_numpy(out["labels"])[0]) == [-1] * 12 + [0, 0, 1, 2]


def test_a_picture_without_objects_is_all_background():
    rng = np.random.default_rng(3)
    none = np.zeros((1, 1, 4), "float32"), np.full((1, 1), -1, "int32"), np.zeros((1, 1), bool)
    proposals = oracles.random_boxes(rng, (1, 20), 80, 80)
    out = DetectionTargetLayer(3, rois_per_image=16)(proposals, *none)
    labels, deltas = (ops.convert_to_numpy(out[name]) for name in ("labels", "deltas"))
    assert (labels == 3).all() and not deltas.any()
    sizes = np.array([[80, 80]], "int32")
    out = RPNTargetLayer(16)(proposals[0], *none, image_sizes=sizes)
    labels, deltas = (ops.convert_to_numpy(out[name]) for name in ("labels", "deltas"))
    assert set(labels.ravel()) <= {0, -1} and not deltas.any()


def test_padding_the_ground_truth_changes_nothing():
    rng = np.random.default_rng(4)
    boxes, labels, is_crowd = truth(rng)
    proposals = oracles.random_boxes(rng, (2, 60), 80, 80).clip(0, 80)
    more = np.pad(boxes, [[0, 0], [0, 7], [0, 0]]), np.pad(
        labels, [[0, 0], [0, 7]], constant_values=-1
    )
    more = *more, np.pad(is_crowd, [[0, 0], [0, 7]])
    plain = DetectionTargetLayer(3, rois_per_image=24, seed=1)(proposals, boxes, labels, is_crowd)
    padded = DetectionTargetLayer(3, rois_per_image=24, seed=1)(proposals, *more)
    for name in plain:
        np.testing.assert_array_equal(plain[name], padded[name])
    sizes = np.array([[80, 80]] * 2, "int32")
    plain = RPNTargetLayer(24, seed=1)(proposals[0], boxes, labels, is_crowd, sizes)
    padded = RPNTargetLayer(24, seed=1)(proposals[0], *more, sizes)
    for name in plain:
        np.testing.assert_array_equal(plain[name], padded[name])


def test_every_anchor_gets_the_answer_that_the_loop_gives():
    rng = np.random.default_rng(5)
    boxes, labels, is_crowd = truth(rng)
    anchors = oracles.random_boxes(rng, (80,), 100, 100)
    anchors[:20] = np.repeat(boxes[0, :2], 10, axis=0) + rng.normal(0, 3, (20, 4))
    sizes = np.array([[80, 80], [80, 60]], "int32")  # anchors centred beyond are ignored
    layer = RPNTargetLayer(anchors_per_image=160, positive_fraction=0.5)
    out = {
        k: ops.convert_to_numpy(v)
        for k, v in layer(anchors, boxes, labels, is_crowd, image_sizes=sizes).items()
    }
    for i in range(2):
        roles, matches = loop_roles(anchors, boxes[i], labels[i], is_crowd[i], 0.7, 0.3)
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        inside = (centres < sizes[i][::-1]).all(1)
        for g in range(5):
            if labels[i][g] >= 0 and not is_crowd[i][g]:
                ious = np.array([oracles.iou(a, boxes[i][g]) for a in anchors]) * inside
                roles[(ious > ious.max() - 1e-7) & (ious > 0)] = 1
        roles[~inside] = -1
        drawn, indices = out["labels"][i], out["indices"][i]
        assert sorted(indices[drawn == 1]) == list(np.flatnonzero(roles == 1))
        assert sorted(indices[drawn == 0]) == list(np.flatnonzero(roles == 0))
        for n, delta in zip(indices[drawn == 1], out["deltas"][i][drawn == 1]):
            moved = ops.convert_to_numpy(decode_deltas(anchors[n][None], delta[None], (1.0,) * 4))[
                0
            ]
            np.testing.assert_allclose(moved, boxes[i][matches[n]], atol=1e-3)


def test_runners():
    rng = np.random.default_rng(6)
    boxes, labels, is_crowd = truth(rng)
    proposals = oracles.random_boxes(rng, (2, 60), 80, 80)
    check_layer(
        DetectionTargetLayer(3, 24, seed=1),
        (proposals, boxes, labels, is_crowd),
        mixed_precision=False,
    )
    sizes = np.array([[80, 80]] * 2, "int32")
    inputs = (proposals[0], boxes, labels, is_crowd, sizes)
    check_layer(RPNTargetLayer(24, seed=1), inputs, mixed_precision=False)


@pytest.mark.parametrize("make", [RPNTargetLayer, lambda: DetectionTargetLayer(3)])
def test_the_draw_follows_the_global_seed(make):
    def state(seed):
        keras.utils.set_random_seed(seed)
        return np.asarray(make().seed_generator.state)

    np.testing.assert_array_equal(state(5), state(5))
    assert not np.array_equal(state(5), state(6))


def test_an_anchor_in_the_padding_is_no_objects_best():
    """The picture is 80 wide. Of the object's 20 x 20 pixels either anchor holds all: IoU 400 / 820 and 400 / 1000."""
    boxes, labels = np.array([[[60, 20, 80, 40]]], "float32"), np.zeros((1, 1), "int32")
    beyond, within = [60, 20, 101, 40], [30, 20, 80, 40]  # centres at 80.5 and 55
    anchors = np.array([beyond, within, [0, 60, 20, 80]], "float32")
    layer = RPNTargetLayer(3, positive_fraction=1.0)
    out = layer(anchors, boxes, labels, np.zeros((1, 1), bool), np.array([[80, 80]], "int32"))
    drawn = dict(zip(np.array(out["indices"][0]).tolist(), np.array(out["labels"][0]).tolist()))
    assert np.array(out["labels"][0]).tolist() == [1, 0, -1]
    assert drawn[1] == 1 and drawn[2] == 0


def test_a_perfect_answer_becomes_the_object_by_the_rule_of_pixels():
    """Between pixels sides of 10 and 12.25 are 9 and 11.25: a quarter more, with the centre 9 / 8 farther."""
    proposals = np.array([[[10, 10, 20, 20]]], "float32")
    boxes = np.array([[[10, 10, 22.25, 22.25]]], "float32")
    truth = boxes, np.zeros((1, 1), "int32"), np.zeros((1, 1), bool)
    layer = DetectionTargetLayer(1, 2, positive_fraction=1.0, box_rule="pixels")
    out = {name: ops.convert_to_numpy(value)[0] for name, value in layer(proposals, *truth).items()}
    place = int(np.flatnonzero(out["rois"][:, 2] == 20)[0])
    expected = [1.25, 1.25, np.log(1.25) / 0.2, np.log(1.25) / 0.2]
    np.testing.assert_allclose(out["deltas"][place], expected, rtol=1e-5)
    logits, sizes = np.array([[5, 0]] * 2, "float32"), np.array([[100, 100]], "int32")
    detection = DetectionLayer(box_rule="pixels", nms_threshold=0.99)
    found = detection(out["rois"][None], logits, out["deltas"][:, None], sizes)
    np.testing.assert_allclose(found["boxes"][0, 0], boxes[0, 0], rtol=1e-5)
    assert DetectionTargetLayer.from_config(layer.get_config()).box_rule == "pixels"
    config = MaskRCNNConfig(class_names=("a",), box_rule="pixels")
    assert make_detection_targets(config).box_rule == "pixels"
