"""Converted weights give what torchvision gave: stages, detections and losses of two pictures in one batch."""

import numpy as np
import pytest
from parity_stages import all_of, batch, build, differences, load_fixture, pictures

from kmaskrcnn.geometry.boxes import encode_deltas

# float32 explains differences of 1e-5 (`noise/` in the fixtures); the bounds are the promise to users.
RELATIVE, PIXELS, SCORE, OVERLAP = 1e-3, 0.05, 1e-4, 0.995


@pytest.fixture(scope="module")
def recorded():
    fixture = load_fixture("maskrcnn_resnet50_fpn")
    if pictures(fixture) is None:
        pytest.skip("the recorded pictures of coco_mini are not here")
    return fixture


@pytest.fixture(scope="module")
def model(recorded):
    return build(recorded)


def check(found):
    limits = {"proposals (px)": PIXELS, "boxes (px)": PIXELS, "scores": SCORE}
    limits |= {
        "keypoints (px)": PIXELS,
        "labels (wrong)": 0,
        "pasted masks (1 - IoU)": 1 - OVERLAP,
        "anchors": 0,
    }
    wrong = {name: x for name, x in found.items() if not x <= limits.get(name, RELATIVE)}
    assert not wrong, wrong


def test_the_first_version_on_real_pictures(model, recorded):
    found = differences(model, recorded)
    check(found)
    assert len(found) == 32  # no stage was left out


@pytest.mark.slow
@pytest.mark.parametrize(
    "fixture, architecture",
    [
        ("maskrcnn_resnet50_fpn_v2", None),
        ("maskrcnn_resnet50_fpn_made", None),
        ("maskrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn"),
        ("maskrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2"),
        ("keypointrcnn_resnet50_fpn", None),
    ],
)
def test_the_other_versions(fixture, architecture):
    """Faster R-CNN is the same network without masks, its detections are the Mask R-CNN's."""
    fixture = load_fixture(fixture)
    if pictures(fixture) is None:
        pytest.skip("the recorded pictures of coco_mini are not here")
    check(differences(build(fixture, architecture), fixture))


def test_losses_with_the_same_draw(model):
    fixture = load_fixture("maskrcnn_resnet50_fpn_train")
    if str(fixture["state_checksum"]) != str(
        load_fixture("maskrcnn_resnet50_fpn")["state_checksum"]
    ):
        model = build(fixture)
    names = {
        "rpn_class_loss": "loss_objectness",
        "rpn_box_loss": "loss_rpn_box_reg",
        "box_class_loss": "loss_classifier",
        "box_loss": "loss_box_reg",
        "mask_loss": "loss_mask",
    }
    losses = model.loss_values(recorded_step(model, fixture))
    for ours, theirs in names.items():
        assert float(losses[ours]) == pytest.approx(float(fixture[f"loss/{theirs}"]), abs=1e-4)


def recorded_step(model, fixture):
    """What the train graph gives where torchvision's samplers have drawn; targets are our arithmetic's."""
    inputs = batch(fixture, model.config)
    features = model.fpn(model.backbone(model.normalizer(inputs["images"], inputs["image_sizes"])))
    levels = sorted(features)
    anchors = np.concatenate([np.asarray(model.anchors(features)[level]) for level in levels])
    logits, deltas = model.rpn_head(features)
    rois, labels = all_of(fixture, "rois/{}/boxes"), all_of(fixture, "rois/{}/labels")
    class_logits, box_deltas = model.box_branch.head(
        model.box_branch.align(features, np.stack(rois))
    )
    positive = all_of(fixture, "rois/{}/positive")
    mask_rois = np.concatenate([boxes[rows] for boxes, rows in zip(rois, positive)])
    indices = np.repeat([0, 1], [len(rows) for rows in positive]).astype("int32")
    mask_labels = np.concatenate([label[rows] - 1 for label, rows in zip(labels, positive)])
    mask_logits = model.mask_branch.head(model.mask_branch.align(features, mask_rois, indices))
    labels = np.concatenate(labels)
    return {
        "rpn_logits": np.concatenate([logits[level] for level in levels], 1),
        "rpn_deltas": np.concatenate([deltas[level] for level in levels], 1),
        "rpn_targets": anchor_targets(model, fixture, anchors),
        "class_logits": class_logits,
        "box_deltas": box_deltas,
        "region_rois": np.concatenate(rois),
        # torchvision's background is 0, ours K
        "region_labels": np.where(labels > 0, labels - 1, model.config.num_classes),
        "region_deltas": region_deltas(model, fixture),
        "mask_logits": model.mask_branch.select_class(mask_logits, mask_labels),
        "mask_labels": mask_labels,
        "mask_targets": np.concatenate(all_of(fixture, "rois/{}/mask_targets")),
    }


def anchor_targets(model, fixture, anchors):
    parts = {"indices": [], "labels": [], "deltas": []}
    for i in range(2):
        positive, negative = fixture[f"anchors/{i}/positive"], fixture[f"anchors/{i}/negative"]
        count = len(positive) + len(negative)
        deltas = np.zeros((count, 4), "float32")
        deltas[: len(positive)] = fixture[f"anchors/{i}/positive_deltas"]
        parts["indices"].append(np.concatenate([positive, negative]))
        parts["labels"].append(np.arange(count) < len(positive))
        parts["deltas"].append(deltas)
    return {name: np.stack(values).astype(values[0].dtype) for name, values in parts.items()} | {
        "labels": np.stack(parts["labels"]).astype("int32")
    }


def region_deltas(model, fixture):
    """By our own coder, which must agree with the recorded targets of the positives."""
    deltas = []
    for i in range(2):
        truth = fixture[f"target/{i}/boxes"][fixture[f"rois/{i}/matched"]]
        ours = np.asarray(
            encode_deltas(fixture[f"rois/{i}/boxes"], truth, model.config.box_variance)
        )
        rows = fixture[f"rois/{i}/positive"]
        np.testing.assert_allclose(ours[rows], fixture[f"rois/{i}/deltas"][rows], atol=1e-4)
        deltas.append(ours)
    return np.concatenate(deltas)
