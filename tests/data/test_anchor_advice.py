"""Anchors against every anchor of every cell, looked at one by one, and against objects of known sizes."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import yaml

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.data.anchor_advice import (
    NetworkBoxes,
    advise_anchors,
    best_ious,
    cluster,
    network_boxes,
    propose_anchors,
)
from kmaskrcnn.data.records import CocoDataset, ImageRecord, Instance

CONFIG = MaskRCNNConfig(min_size=100, max_size=200, anchor_scales=(8.0, 16.0, 32.0, 64.0, 128.0))


def dataset(boxes, size=(100, 200), crowd=()):
    instances = tuple(
        Instance(number, tuple(box), 0, number in crowd) for number, box in enumerate(boxes)
    )
    return CocoDataset((ImageRecord(5, "a.png", *size, instances),), ("thing",), (1,))


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def every_anchor(canvas, levels, ratios):
    for stride, scales in levels:
        cells = itertools.product(range(canvas[0] // stride), range(canvas[1] // stride))
        for (row, column), scale, ratio in itertools.product(cells, scales, ratios):
            w, h = scale / math.sqrt(ratio), scale * math.sqrt(ratio)
            x, y = column * stride, row * stride
            yield x - w / 2, y - h / 2, x + w / 2, y + h / 2


@pytest.mark.parametrize("pyramid", ["fpn", "c4"])
def test_the_best_anchor_of_all_of_them(pyramid):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, (180, 110), (25, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(2, 80, (25, 2))], axis=1)
    config = dataclasses.replace(CONFIG, pyramid=pyramid)
    found = NetworkBoxes(boxes, np.tile((128, 192), (25, 1)), np.zeros(25, int))
    levels = [(16, CONFIG.anchor_scales)]
    if pyramid == "fpn":
        levels = [(4, (8,)), (8, (16,)), (16, (32,)), (32, (64,)), (64, (128,))]
    anchors = list(every_anchor((128, 192), levels, (0.5, 1, 2)))
    expected = [max(iou(box, anchor) for anchor in anchors) for box in boxes]
    np.testing.assert_allclose(best_ious(found, config), expected, rtol=1e-5)


def test_boxes_grow_with_the_picture_and_crowds_are_left_out():
    records = dataset([(10, 20, 30, 30), (0, 0, 50, 50)], size=(50, 80), crowd={1})
    found = network_boxes(records, CONFIG)  # twice as large: 100 x 160, padded to 128 x 192
    np.testing.assert_allclose(found.boxes, [[20, 40, 60, 60]])
    assert found.canvases.tolist() == [[128, 192]] and found.image_ids.tolist() == [5]
    assert found.aspect_ratios == [0.5] and found.sides == pytest.approx(np.sqrt(800))


def objects_of(sides, ratios, count=300):
    """Boxes of these sides and aspect ratios all over the picture."""
    rng = np.random.default_rng(1)
    side, ratio = rng.choice(sides, count), rng.choice(ratios, count)
    lengths = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], axis=1)
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([1000, 600]) - lengths)
    return dataset(np.concatenate([corners, corners + lengths], axis=1), size=(600, 1000))


def test_small_slim_objects_get_small_slim_anchors():
    config = MaskRCNNConfig(min_size=600, max_size=1000)
    records = objects_of([12, 24, 48], [3.0, 4.0])
    proposed = propose_anchors(network_boxes(records, config), config)
    # Twice 12 is 24, and twice that 48; a step of the search is a fifth.
    ratios = np.array(proposed.anchor_scales[:3]) / (12, 24, 48)
    assert (abs(ratios - 1) < 0.15).all()
    assert min(proposed.anchor_aspect_ratios) == 3 and max(proposed.anchor_aspect_ratios) == 4
    advice = advise_anchors(records, config)
    # Anchors begin at 32 and double: 144 / 1024 meets no third of the objects, and 24^2 / 32^2 none at 0.7.
    twelve = (abs(network_boxes(records, config).sides - 12) < 1e-6).mean()
    assert advice.recalls[0.5] <= 1 - twelve and advice.recalls[0.7] == 0
    assert advice.proposed_recalls[0.5] > 0.99 and advice.proposed_recalls[0.7] > 0.4
    lines = advice.to_text()
    assert yaml.safe_load(lines[lines.index("model:") :])["model"] == advice.proposed
    assert advice.sides[50] == pytest.approx(24) and advice.num_objects == 300


def test_anchors_that_suit_stay():
    config = MaskRCNNConfig(min_size=600, max_size=1000)
    advice = advise_anchors(objects_of([32, 64, 128], [0.5, 1.0, 2.0]), config)
    assert advice.proposed == advice.anchors and "no anchors were found" in advice.to_text()


def test_one_level_takes_the_middles_of_clusters():
    config = MaskRCNNConfig(min_size=600, max_size=1000, pyramid="c4")
    records = objects_of([20, 50, 90, 150, 220], [1.0])
    proposed = propose_anchors(network_boxes(records, config), config)
    assert proposed.anchor_scales == (20, 50, 90, 150, 220)


def test_clusters_are_found_in_proportions():
    np.testing.assert_allclose(cluster([1, 4, 90, 110, 1000], 3), [2, np.sqrt(9900), 1000])
    np.testing.assert_allclose(cluster([7.0], 3), [7, 7, 7])


def test_without_objects_there_is_nothing_to_fit():
    with pytest.raises(ValueError, match="no object"):
        advise_anchors(dataset([]), CONFIG)
