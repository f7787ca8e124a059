"""The result a user holds: checks, choice, round trips, and the way from a batch to the original
picture."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from kmaskrcnn.detections import Detections

NAMES = ("cat", "dog", "bird")


def make(count=3, with_masks=True, with_keypoints=True, seed=0):
    """Detections in a picture of 40 x 60."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 30, (count, 2))
    return Detections(
        boxes=np.hstack([corners, corners + generator.uniform(1, 20, (count, 2))]),
        labels=np.arange(count) % 3,
        scores=np.linspace(0.9, 0.1, count),
        image_size=(40, 60),
        masks=generator.random((count, 7, 7)) if with_masks else None,
        keypoints=generator.uniform(0, 40, (count, 5, 3)) if with_keypoints else None,
        class_names=NAMES,
    )


def assert_same(one, other):
    for field in dataclasses.fields(Detections):
        left, right = getattr(one, field.name), getattr(other, field.name)
        assert (left is None) == (right is None), field.name
        np.testing.assert_array_equal(left, right, err_msg=field.name)


def test_fields_are_arrays_of_the_documented_dtypes():
    found = make()
    dtypes = [array.dtype.name for array in (found.boxes, found.labels, found.scores, found.masks)]
    assert dtypes == ["float32", "int32", "float32", "float32"]
    assert found.image_size == (40, 60) and found.names == ["cat", "dog", "bird"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.scores = np.zeros(3)


def test_nothing_found():
    found = Detections([], [], [], (5, 6), masks=[], class_names=NAMES)
    assert len(found) == 0 and found.boxes.shape == (0, 4)
    assert found.full_masks().shape == (0, 5, 6)
    assert found.rles() == [] and found.to_coco(1) == [] and len(found.filter(0.5)) == 0
    assert_same(found, Detections.from_dict(json.loads(json.dumps(found.to_dict()))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((2, 4))}, "boxes: 3 wanted, one a score, got 2"),
        ({"boxes": [[5, 5, 4, 9]] * 3}, r"boxes: .* got \[5.0, 5.0, 4.0, 9.0\] in row 0"),
        ({"boxes": [[0, 0, np.nan, 9]] * 3}, "boxes: finite numbers wanted, got nan"),
        ({"labels": [0, 1, 3]}, r"labels: 0 .. 2 wanted, got 0 .. 3"),
        ({"labels": [0, 1, -1]}, r"labels: .* got -1"),
        ({"labels": [0, 1, 1.5]}, "labels: whole numbers"),
        ({"scores": [0.1, 0.2, 1.3]}, "scores: 0 .. 1"),
        ({"scores": ["a", "b", "c"]}, "scores: an array of numbers wanted"),
        ({"scores": [[0.1, 0.2, 0.3]]}, r"scores: shape \(N\) wanted, got \(1, 3\)"),
        ({"scores": 0.5}, r"scores: shape \(N\) wanted, got \(\)"),
        ({"boxes": np.zeros((3, 5))}, r"boxes: shape \(N, 4\) wanted, got \(3, 5\)"),
        ({"masks": np.zeros((3, 7))}, r"masks: shape \(N, any, any\)"),
        ({"keypoints": np.zeros((3, 5, 2))}, r"keypoints: shape \(N, any, 3\)"),
        ({"image_size": (40.5, 60)}, "image_size: .*40.5"),
        ({"image_size": (0, 60)}, "image_size"),
    ],
)
def test_a_wrong_field_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(make(), **change)


@pytest.mark.parametrize(
    ("which", "kept"),
    [
        (slice(1, None), [1, 2, 3]),
        (np.array([True, False, False, True]), [0, 3]),
        ([3, 0], [3, 0]),
        (np.array([-1]), [3]),
        (2, [2]),
        ([], []),
    ],
)
def test_part_of_the_detections(which, kept):
    found = make(4)
    part = found[which]
    for name in ("boxes", "labels", "scores", "masks", "keypoints"):
        np.testing.assert_array_equal(getattr(part, name), getattr(found, name)[kept])
    assert part.class_names == NAMES and part.image_size == (40, 60)


def test_one_by_one():
    assert [one.names[0] for one in make(4)] == ["cat", "dog", "bird", "cat"]
    with pytest.raises(IndexError):
        make(4)[4]


def test_filter_by_score_label_and_name():
    found = make(6)
    assert found.filter(min_score=found.scores[3]).scores.tolist() == found.scores[:4].tolist()
    assert found.filter(labels=[2]).names == ["bird", "bird"]
    assert found.filter(names=["dog", "cat"], min_score=0.5).names == ["cat", "dog"]
    assert len(found.filter()) == 6
    with pytest.raises(ValueError, match="unicorn"):
        found.filter(names=["unicorn"])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_json_round_trip(count, with_masks, with_keypoints, seed):
    found = make(count, with_masks, with_keypoints, seed)
    assert_same(found, Detections.from_dict(json.loads(json.dumps(found.to_dict()))))


def test_a_dict_with_other_keys_is_refused():
    values = make().to_dict()
    values["score"] = values.pop("scores")
    with pytest.raises(ValueError, match=r"'score', 'scores'"):
        Detections.from_dict(values)


def test_to_coco():
    found = make(4)
    results = json.loads(json.dumps(found.to_coco(17, category_ids=[1, 18, 90])))
    assert [result["category_id"] for result in results] == [1, 18, 90, 1]
    for result, box, score, mask, points in zip(
        results, found.boxes, found.scores, found.full_masks(), found.keypoints
    ):
        assert result["image_id"] == 17 and result["score"] == float(score)
        np.testing.assert_allclose(result["bbox"], [*box[:2], *(box[2:] - box[:2])], rtol=1e-6)
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), mask)
        assert result["area"] == mask.sum()
        # COCO counts a pixel's centre as its number
        np.testing.assert_allclose(result["keypoints"], (points - [0.5, 0.5, 0]).ravel(), rtol=1e-6)
    as_torchvision = dataclasses.replace(found, keypoint_rule="torchvision").to_coco(17)
    np.testing.assert_allclose(
        as_torchvision[0]["keypoints"], found.keypoints[0].ravel(), rtol=1e-6
    )
    plain = make(1, with_masks=False, with_keypoints=False).to_coco(17)[0]
    assert plain["category_id"] == 1 and sorted(plain) == [
        "area",
        "bbox",
        "category_id",
        "image_id",
        "score",
    ]
    assert plain["area"] == pytest.approx(plain["bbox"][2] * plain["bbox"][3])


def test_masks_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="masks: these detections have none"):
        make(with_masks=False).rles()


def test_from_outputs_scales_each_axis_and_clips():
    outputs = {
        "boxes": np.zeros((2, 3, 4), np.float32),
        "labels": np.full((2, 3), -1, np.int32),
        "scores": np.zeros((2, 3), np.float32),
        "masks": np.zeros((2, 3, 28, 28), np.float32),
        "keypoints": np.full((2, 3, 2, 3), 2.0, np.float32),
        "num_detections": np.array([0, 2]),
    }
    outputs["boxes"][1, :2] = [[10, 20, 30, 40], [-4, 0, 200, 64]]
    outputs["labels"][1, :2], outputs["scores"][1, :2] = [2, 0], [0.75, 0.5]
    # 64 x 128 of the network image is a picture of 100 x 400.
    found = Detections.from_outputs(outputs, 1, np.array([64, 128]), np.array([100, 400]), NAMES)
    np.testing.assert_allclose(
        found.boxes, [[31.25, 31.25, 93.75, 62.5], [0, 0, 400, 100]], rtol=1e-6
    )
    np.testing.assert_allclose(found.keypoints[0, 0], [6.25, 3.125, 2])
    assert found.names == ["bird", "cat"] and found.masks.shape == (2, 28, 28)
    assert found.image_size == (100, 400)
    nothing = Detections.from_outputs(outputs, 0, (64, 128), (100, 400), NAMES)
    assert len(nothing) == 0 and nothing.masks.shape == (0, 28, 28)
    del outputs["masks"], outputs["keypoints"]
    assert Detections.from_outputs(outputs, 1, (64, 128), (100, 400)).masks is None
