"""Test-time augmentation: its views, what is merged of them, and that one plain view changes nothing."""

import dataclasses

import numpy as np
import oracles
import pytest
from pictures import photo
from test_folding import shaken
from tiny import tiny_config, tiny_model

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.detections import Detections
from kmaskrcnn.serving.augmented import (
    AugmentedDetector,
    TestTimeAugmentation,
    augment,
    merge_views,
)
from kmaskrcnn.serving.detectors import SavedModelDetector
from kmaskrcnn.serving.predictor import Predictor

POINTS = {
    "with_keypoints": True,
    "keypoint_names": ("left", "right", "nose"),
    "keypoint_flip_pairs": ((0, 1),),
}


def assert_same(one, other, mirrored=None):
    """`other` may be of the picture's mirror image, which is `mirrored` pixels wide."""
    boxes, masks = other.boxes, other.masks
    if mirrored:
        boxes = np.stack(
            [mirrored - boxes[:, 2], boxes[:, 1], mirrored - boxes[:, 0], boxes[:, 3]], 1
        )
        masks = masks[:, :, ::-1]
    assert len(one) > 0
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    np.testing.assert_allclose(one.boxes, boxes, atol=0.01)
    np.testing.assert_allclose(one.masks, masks, atol=1e-5)


def test_one_plain_view_is_the_plain_prediction(served_model):
    plain, augmented = Predictor(served_model), Predictor(
        served_model, tta=TestTimeAugmentation((1.0,), flip=False)
    )
    for picture in (photo(48, 64), photo(90, 60, 1)):
        assert_same(augmented(picture), plain(picture))


def test_a_mirrored_picture_gives_mirrored_objects(served_model):
    predict = Predictor(served_model, tta=TestTimeAugmentation((1.0, 0.75)))
    picture = photo(48, 64, 2)
    found, of_mirror = predict(picture), predict(picture[:, ::-1])
    assert len(found) == 10 and found.image_size == (48, 64)
    assert_same(found, of_mirror, mirrored=64)
    for function in (predict.detector.find, predict.detector.describe):
        assert function.experimental_get_tracing_count() == 1


class Scene:
    """Stands for a network that sees two objects in every view, each exactly where it is there."""

    BOXES = np.array([[10.3, 20.6, 60.2, 70.9], [100.1, 5.5, 190.7, 80.4]])
    SIZE = (90, 200)  # of the picture

    def __init__(self, augmentation):
        model = type("NoModel", (), {"config": tiny_config(**POINTS)})
        detector = self.detector = AugmentedDetector.__new__(AugmentedDetector)
        detector.config, detector.views = model.config, augmentation.views(model.config)
        detector.find, detector.describe, detector.decode = self.find, self.describe, self.decode
        self.seen = []

    def boxes_in(self, inputs):
        """In the view whose width and side of the bright edge the inputs show."""
        height, width = inputs["image_sizes"][0]
        mirrored = inputs["images"][0, :height, :width][:, -1].mean() > 128
        boxes = self.BOXES * np.tile([width / self.SIZE[1], height / self.SIZE[0]], 2)
        if mirrored:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        return boxes, mirrored

    def find(self, inputs):
        boxes, mirrored = self.boxes_in(inputs)
        self.seen.append((*inputs["image_sizes"][0], mirrored))
        scores = [0.9 - 0.1 * mirrored, 0.6 + 0.1 * mirrored]
        return {
            "boxes": boxes[None],
            "labels": np.array([[1, 1]]),
            "scores": np.array([scores]),
            "num_detections": [2],
        }

    def describe(self, inputs):
        """Masks and heatmaps that tell left from right, one view from the next and the keypoints."""
        boxes, mirrored = self.boxes_in(inputs)
        given = inputs["boxes"][0]
        np.testing.assert_allclose(given[:2], boxes, atol=0.01)
        assert not given[2:].any() and inputs["labels"][0].tolist() == [1, 1] + 8 * [-1]
        ramp = np.tile(np.linspace(0, 0.5, 28), (1, 10, 28, 1)) + 0.4 * mirrored
        maps = np.tile(np.arange(8.0), (1, 10, 8, 1))[..., None] + [100, 200, 300]
        if mirrored:
            ramp, maps = ramp[..., ::-1], maps[:, :, :, ::-1][..., [1, 0, 2]]
        return {"masks": ramp, "keypoints": maps}

    def decode(self, maps, boxes):
        self.maps = maps
        corners = np.repeat(boxes[:, None, :2], 3, axis=1)
        return np.concatenate([corners, np.full((10, 3, 1), 0.5)], axis=-1)


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_of_all_views_meet_in_the_picture(flip):
    scene = Scene(TestTimeAugmentation((1.0, 0.5, 1.6), flip))
    picture = np.zeros((*scene.SIZE, 3), "uint8")
    picture[:, :20] = 255
    (found,) = scene.detector.detect([picture])
    # Of three or six boxes of each object one stays, the best: all of them lie on one another.
    assert len(found) == 2 and found.image_size == scene.SIZE
    np.testing.assert_allclose(found.boxes, scene.BOXES, atol=0.01)
    np.testing.assert_allclose(found.scores, [0.9, 0.7 if flip else 0.6])
    # min_size 64 and max_size 96: the long side decides.
    widths = [96, 96, 48, 48, 154, 154] if flip else [96, 48, 154]
    assert [width for _, width, _ in scene.seen] == widths
    assert [mirrored for *_, mirrored in scene.seen] == ([False, True] * 3 if flip else [False] * 3)


def test_masks_and_heatmaps_are_averaged_and_mirrored_back():
    scene = Scene(TestTimeAugmentation((1.0, 2.0)))
    picture = np.zeros((*scene.SIZE, 3), "uint8")
    picture[:, :20] = 255
    (found,) = scene.detector.detect([picture])
    ramp = np.tile(np.linspace(0, 0.5, 28), (2, 28, 1))
    np.testing.assert_allclose(found.masks, ramp + 0.2, atol=1e-6)  # half of the views say 0.4 more
    maps = np.tile(np.arange(8.0), (10, 8, 1))[..., None] + [100, 200, 300]
    np.testing.assert_allclose(scene.maps, maps, atol=1e-5)
    np.testing.assert_allclose(found.keypoints[:, 0, :2], scene.BOXES[:, :2], atol=0.01)


def test_merging_is_suppression_of_all_views_by_class():
    rng = np.random.default_rng(0)
    parts = [
        Detections(
            oracles.random_boxes(rng, (20,), 60, 60, 15).clip(0, 60),
            rng.integers(0, 2, 20),
            np.sort(rng.uniform(0, 1, 20))[::-1],
            (60, 60),
        )
        for _ in range(3)
    ]
    boxes, labels, scores = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("boxes", "labels", "scores")
    )
    kept = []
    for label in range(2):
        own = np.flatnonzero(labels == label)
        kept += [own[i] for i in oracles.nms(boxes[own], scores[own], 0.4)]
    best = sorted(kept, key=lambda i: -scores[i])[:12]
    assert 12 < len(kept) < 60
    merged = merge_views(parts, 0.4, 12)
    np.testing.assert_array_equal(merged.scores, scores[best])
    np.testing.assert_array_equal(merged.labels, labels[best])
    np.testing.assert_array_equal(merged.boxes, boxes[best])


def test_views_are_the_models_sizes_times_the_scales():
    config = MaskRCNNConfig(min_size=800, max_size=1333)
    views = TestTimeAugmentation((1.0, 0.5)).views(config)
    assert [mirrored for _, mirrored in views] == [False, True, False, True]
    assert [(c.min_size, c.max_size) for c, _ in views[1:3]] == [(800, 1333), (400, 666)]
    assert dataclasses.replace(views[2][0], min_size=800, max_size=1333) == config
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(ValueError, match="scales: got"):
            TestTimeAugmentation(scales)


def test_a_saved_model_cannot_be_asked():
    with pytest.raises(ValueError, match="tta: got a SavedModelDetector"):
        augment(SavedModelDetector.__new__(SavedModelDetector), TestTimeAugmentation())


@pytest.mark.slow
@pytest.mark.parametrize("mask_head", ["fcn", "point_rend"])
def test_keypoints_and_fine_masks_too(mask_head):
    model = shaken(tiny_model(**POINTS, mask_head=mask_head, mask_head_units=16))
    picture = photo(48, 64)
    plain = Predictor(model)(picture)
    one = Predictor(model, tta=TestTimeAugmentation((1.0,), flip=False))(picture)
    assert_same(one, plain)
    np.testing.assert_allclose(one.keypoints, plain.keypoints, atol=1e-3)
    predict = Predictor(model, tta=TestTimeAugmentation((1.0, 0.75)))
    found, of_mirror = predict(picture), predict(picture[:, ::-1])
    assert_same(found, of_mirror, mirrored=64)
    scores = of_mirror.keypoints[:, [1, 0, 2], 2]
    np.testing.assert_allclose(found.keypoints[:, :, 2], scores, atol=1e-6)


@pytest.mark.slow
def test_without_masks_there_is_nothing_to_ask():
    found = Predictor(tiny_model(with_mask=False), tta=TestTimeAugmentation())(photo(48, 64))
    assert found.masks is None and len(found) == 10
