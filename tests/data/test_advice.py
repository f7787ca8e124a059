"""What is said of made-up datasets, counted by hand."""

import logging

import pytest

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.data.advice import log_advice, training_advice
from kmaskrcnn.data.records import CocoDataset, ImageRecord, Instance

CONFIG = MaskRCNNConfig(class_names=("ant", "bee", "cat"), min_size=100, max_size=100)
LARGE = (10, 10, 60, 60)


def records(*pictures, names=("ant", "bee", "cat"), path="{}.png"):
    """A dataset of pictures of 100 x 100, each a list of (label, box)."""
    images = tuple(
        ImageRecord(
            number,
            path.format(number),
            100,
            100,
            tuple(Instance(10 * number + i, box, label) for i, (label, box) in enumerate(objects)),
        )
        for number, objects in enumerate(pictures, start=1)
    )
    return CocoDataset(images, names, tuple(range(1, len(names) + 1)))


def of_each(count, labels=(0, 1, 2), box=LARGE):
    return [[(label, box) for label in labels]] * count


def test_a_sound_dataset_is_not_talked_about():
    train, validation = records(*of_each(20)), records(*of_each(2), path="v{}.png")
    assert training_advice(train, validation, CONFIG) == []


@pytest.mark.parametrize(
    "train, validation, expected",
    [
        (of_each(20, (0, 2)), of_each(1), "1 of 3 classes have no object to train on"),
        (of_each(20), of_each(1, (0,)), "2 of 3 classes have no object in the validation data"),
        (of_each(20, (0, 1)) + of_each(19, (2,)), of_each(1), "1 classes have fewer than 20 obj"),
        (of_each(1050, (0,)) + of_each(21, (1, 2)), of_each(1), "ant has 1071 obj|ant has 1050"),
    ],
)
def test_classes_that_are_few(train, validation, expected):
    said = training_advice(records(*train), records(*validation, path="v{}.png"))
    assert len(said) == 1
    assert any(part in said[0] for part in expected.split("|"))


def test_the_class_is_named_with_its_count():
    said = training_advice(records(*of_each(20, (0, 1)), *of_each(19, (2,))))
    assert said[0].endswith("cat (19)")
    said = training_advice(records(*of_each(20, (0, 1)), names=("ant", "bee", "owl")))
    assert said[0].endswith("owl")


def test_objects_under_the_smallest_anchor_are_counted_where_the_network_sees_them():
    """An anchor of 32 pixels meets a square of 22 at IoU 0.47, one of 24 at 0.56, if it lies on the grid."""
    small, met = (29, 29, 51, 51), (28, 28, 52, 52)
    train = records(*of_each(20), [(0, small)] * 5, [(0, met)] * 15)
    (said,) = training_advice(train, None, CONFIG)
    assert said.startswith("5 of 80 objects (6%) are too small for the smallest anchor, 32 pixels")
    assert said.endswith("image ids 21")
    twice = MaskRCNNConfig(class_names=("ant", "bee", "cat"), min_size=200, max_size=200)
    assert training_advice(train, None, twice) == []


def test_pictures_on_both_sides_and_labels_that_do_not_exist():
    train = records(*of_each(20), [(3, LARGE)])
    said = training_advice(train, train, CONFIG)
    assert said[0] == (
        "21 validation pictures are trained on, so AP will be too high: image ids 1, 2, 3, 4, 5 and 16 more"
    )
    assert said[1] == (
        "1 labels are not among 0 to 2, as the model has 3 classes: "
        "image id 21, annotation id 210, label 3"
    )


def test_more_objects_than_may_be_found():
    config = MaskRCNNConfig(
        class_names=CONFIG.class_names, min_size=100, max_size=100, max_detections=2
    )
    (said,) = training_advice(records(*of_each(20)), None, config)
    assert said.startswith("20 pictures have more objects than max_detections, 2: image ids 1, 2")


def test_each_is_a_warning_of_its_own(caplog):
    with caplog.at_level(logging.WARNING):
        log_advice(records([(0, LARGE)]))
    assert [r.levelname for r in caplog.records] == ["WARNING"] * 2
