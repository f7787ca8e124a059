"""Keypoints from the json to the tensors, and through a mirror."""

import logging
from pathlib import Path

import numpy as np
import pytest
from coco_files import sound_document, write_files

from kmaskrcnn.config import AugmentationConfig
from kmaskrcnn.data.keypoints import KeypointNames, read_keypoint_names
from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import DatasetError, load_coco
from kmaskrcnn.detections import Detections
from kmaskrcnn.evaluation import CocoEvaluator

SHARED = Path(__file__).parents[3] / "shared" / "data"
PERSONS = {
    "coco_mini": ("coco_mini/annotations/person_keypoints_train2017.json", "coco_mini/train2017"),
    "mmpose_coco4": ("mmpose_coco4/test_coco.json", "mmpose_coco4"),
}
SMALL = {"min_size": 100, "max_size": 160, "with_keypoints": True, "with_masks": False}


def bear(names=("nose", "left_ear", "right_ear"), skeleton=((1, 2), (1, 3))):
    return {
        "id": 90,
        "name": "bear",
        "keypoints": list(names),
        "skeleton": [list(line) for line in skeleton],
    }


def document(points=(3, 85, 2, 8, 82, 1, 0, 0, 0), category=None):
    """The sound document with a bear whose ears have names, and one such bear in it."""
    made = sound_document()
    made["categories"][0] = category or bear()
    made["annotations"][3]["keypoints"] = list(points)
    return made


def load(folder, *arguments, **options):
    return load_coco(*write_files(folder, document(*arguments)), **options)


def targets_of(records, **options):
    ((_, targets),) = make_dataset(records, batch_size=3, **{**SMALL, **options})
    return targets


def test_names_skeleton_and_sides(tmp_path):
    names = load(tmp_path).keypoints
    assert names == KeypointNames(("nose", "left_ear", "right_ear"), ((0, 1), (0, 2)))
    assert names.flip_pairs == ((1, 2),)


def test_a_side_without_its_other_side_stays():
    assert KeypointNames(("leftEye", "rightEye", "left_wing")).flip_pairs == ((0, 1),)
    assert KeypointNames(("upLeft", "upRight")).flip_pairs == ((0, 1),)


def test_classes_that_disagree_have_no_keypoints_together():
    assert read_keypoint_names([bear(), bear()]) == read_keypoint_names([bear()])
    assert read_keypoint_names([bear(), bear(names=("a", "b", "c"))]) is None
    assert read_keypoint_names([{"id": 1, "name": "ant"}]) is None


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"keypoints": "nose"}, "'keypoints' must be different names, got 'nose'"),
        ({"keypoints": ["nose", 3]}, "'keypoints' must be"),
        ({"keypoints": ["nose", "nose"]}, "'keypoints' must be"),
        ({"skeleton": [[0, 1]]}, "'skeleton' must be pairs of numbers from 1 to 3"),
        ({"skeleton": [[1, 2, 3]]}, "'skeleton' must be"),
        ({"skeleton": 7}, "'skeleton' must be"),
    ],
)
def test_malformed_names_are_a_fault_of_the_json(tmp_path, wrong, message):
    category = {**bear(), **wrong}
    with pytest.raises(DatasetError, match=message):
        load(tmp_path, (3, 85, 2), category)
    skipped = load(tmp_path, (3, 85, 2), category, on_error="skip")
    assert skipped.keypoints is None and len(skipped.faults) == 1
    assert "data.json" in str(skipped.faults[0])


def test_the_contract_of_keypoints(tmp_path):
    targets = targets_of(load(tmp_path))
    assert targets["keypoints"].shape == (3, 2, 3, 3) and targets["keypoints"].dtype == "float32"
    # the third picture grows by 89 / 50 across and 160 / 90 down; a pixel's centre is half a pixel on
    expected = [[3.5 * 1.78, 85.5 * 16 / 9, 2], [8.5 * 1.78, 82.5 * 16 / 9, 1], [0, 0, 0]]
    np.testing.assert_allclose(targets["keypoints"][2, 1], expected, rtol=1e-6)
    assert not targets["keypoints"][:2].numpy().any()  # objects without keypoints, and padding


def test_a_flip_swaps_left_and_right(tmp_path):
    records = load(tmp_path)
    plain, flipped = (
        targets_of(records, flip=flip)["keypoints"][2, 1].numpy() for flip in (0.0, 1.0)
    )
    np.testing.assert_allclose(flipped[0], [89 - plain[0, 0], plain[0, 1], 2], rtol=1e-6)
    np.testing.assert_allclose(flipped[2], [89 - plain[1, 0], plain[1, 1], 1], rtol=1e-6)
    assert not flipped[1].any()
    without = targets_of(records, flip=1.0, keypoint_flip_pairs=())["keypoints"][2, 1].numpy()
    assert without[1].any() and not without[2].any()


def test_a_batch_without_a_visible_keypoint_warns_once(tmp_path, caplog):
    records = load(tmp_path, (0,) * 9)
    with caplog.at_level(logging.WARNING):
        dataset = make_dataset(records, batch_size=1, **SMALL)
        for _ in range(2):
            list(dataset)
    assert [r.message for r in caplog.records if "no keypoint is visible" in r.message] != []
    assert len([r for r in caplog.records if "no keypoint is visible" in r.message]) == 1


def test_an_empty_list_is_no_keypoints(tmp_path):
    records = load(tmp_path, ())
    assert {i.keypoints for record in records.images for i in record.instances} == {None}
    changes = AugmentationConfig(rotation=5.0)
    targets = targets_of(records, training=True, augmentation=changes)
    assert targets["keypoints"].shape[2:] == (3, 3) and not targets["keypoints"].numpy().any()


@pytest.mark.parametrize("visibility", [3, -1, 0.5])
def test_a_visibility_that_coco_does_not_know_is_named(tmp_path, visibility):
    points = (3, 85, 2, 8, 82, visibility, 0, 0, 0)
    with pytest.raises(DatasetError, match="visibility must be 0, 1 or 2, got .*annotation id 4"):
        load(tmp_path, points)
    assert load(tmp_path, (3, 85, 2.0, 8, 82, 1, 0, 0, 0)).images


def test_another_number_of_keypoints_is_named(tmp_path):
    records = load(tmp_path, (3, 85, 2))
    with pytest.raises(DatasetError, match="has 1 keypoints, its category 3") as error:
        make_dataset(records, batch_size=1, **SMALL)
    assert "annotation id 4" in str(error.value) or "4" in str(error.value)


def test_data_without_keypoints_are_refused(tmp_path):
    (tmp_path / "plain").mkdir()
    records = load_coco(*write_files(tmp_path / "plain", sound_document()))
    with pytest.raises(DatasetError, match="name no keypoints"):
        make_dataset(records, batch_size=1, **SMALL)


@pytest.mark.parametrize("name", PERSONS)
def test_ground_truth_as_detections_scores_1(name):
    """From the json through resizing into tensors and back into COCO results."""
    json_path, folder = (SHARED / part for part in PERSONS[name])
    if not json_path.exists():
        pytest.skip(f"needs ../shared/data/{name}")
    records = load_coco(json_path, folder)
    dataset = make_dataset(records, batch_size=4, min_size=400, max_size=640, with_keypoints=True)
    evaluator = CocoEvaluator(records, with_mask=False, with_keypoints=True)
    for inputs, targets in dataset:
        for b, image_id in enumerate(targets["image_ids"].numpy()):
            real = ~targets["is_crowd"][b].numpy() & (targets["labels"][b].numpy() >= 0)
            # A person without a labelled keypoint is left out of the truth: finding one is no merit.
            real &= targets["keypoints"][b].numpy()[..., 2].any(axis=-1)
            # in the contract of detections, objects come before their padding
            order = np.argsort(~real, kind="stable")
            outputs = {key: targets[key].numpy()[b : b + 1, order] for key in ("boxes", "labels")}
            outputs["scores"] = np.ones(outputs["labels"].shape, "float32")
            outputs["keypoints"] = targets["keypoints"].numpy()[b : b + 1, order]
            outputs["num_detections"] = [real.sum()]
            size, original = inputs["image_sizes"][b].numpy(), targets["original_sizes"][b].numpy()
            found = Detections.from_outputs(outputs, 0, size, original, records.class_names)
            evaluator.add(image_id, found)
    metrics = evaluator.summarise()
    assert metrics["keypoint"]["AP"] == 1.0 and metrics["keypoint"]["AR"] == 1.0
