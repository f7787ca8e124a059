"""Cityscapes' AP against the numbers of its own script, and its rules one by one, by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from kmaskrcnn.cityscapes_precision import evaluate_cityscapes
from kmaskrcnn.coco_format import to_coco
from kmaskrcnn.data.importers.cityscapes import load_cityscapes
from kmaskrcnn.evaluation import CocoEvaluator, format_table

FIXTURE = Path(__file__).parent / "fixtures" / "cityscapes"
EXPECTED = json.loads((FIXTURE / "expected.json").read_text())
RESULTS = json.loads((FIXTURE / "results.json").read_text())


def records():
    return load_cityscapes(FIXTURE / "gtFine", FIXTURE / "leftImg8bit")


def check(metrics):
    assert metrics["AP"] == pytest.approx(EXPECTED["AP"], abs=1e-12)
    assert metrics["AP50"] == pytest.approx(EXPECTED["AP50"], abs=1e-12)
    assert set(metrics["per_class"]) == set(EXPECTED["per_class"])
    for name, value in EXPECTED["per_class"].items():
        assert metrics["per_class"][name] == (value and pytest.approx(value, abs=1e-12)), name


def test_the_numbers_are_those_of_the_original():
    truth = records()
    check(evaluate_cityscapes(to_coco(truth, truth.category_ids), RESULTS))


def test_records_of_cityscapes_are_evaluated_by_its_rules():
    truth = records()
    evaluator = CocoEvaluator(truth)
    labels = {number: label for label, number in enumerate(truth.category_ids)}
    for record in truth.images:
        found = [r | {"category_id": labels[r["category_id"]]} for r in RESULTS]
        found = [r | {"bbox": [0, 0, 9, 9]} for r in found if r["image_id"] == record.image_id]
        evaluator.add(
            record.image_id, SimpleNamespace(to_coco=lambda image_id, ids, found=found: found)
        )
    metrics = evaluator.summarise()
    check(metrics["mask"])
    assert metrics["box"]["AR100"] is not None, "boxes have COCO's rules"
    assert f"{EXPECTED['AP']:.3f}" in format_table(metrics, per_class=True)


SIDE = 40


def rle(*squares):
    """Squares `(x, y, side)` of a 40 x 40 picture."""
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    for x, y, side in squares:
        mask[y : y + side, x : x + side] = 1
    return coco_mask.encode(mask)


def evaluate(objects, found, void=None):
    """AP of a class from `(squares, is group)` and `(squares, score)`."""
    image = {"id": 1, "height": SIDE, "width": SIDE, "void": void}
    annotations = [
        {"id": n, "image_id": 1, "category_id": 7, "segmentation": rle(*squares), "iscrowd": group}
        for n, (squares, group) in enumerate(objects)
    ]
    results = [
        {"image_id": 1, "category_id": 7, "segmentation": rle(*squares), "score": score}
        for squares, score in found
    ]
    truth = {"images": [image], "annotations": annotations}
    return evaluate_cityscapes(truth | {"categories": [{"id": 7, "name": "car"}]}, results)["AP"]


A, B, FAR = (0, 0, 12), (20, 0, 12), (20, 20, 12)


def test_the_area_under_straight_lines():
    """Found at 0.9, missed at 0.8, found at 0.7: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1."""
    both = [((A,), 0), ((B,), 0)]
    found = [((A,), 0.9), ((FAR,), 0.8), ((B,), 0.7)]
    wanted = (1 + 1) / 2 * 0.5 + (1 / 2 + 2 / 3) / 2 * 0.5
    assert evaluate(both, found) == pytest.approx(wanted)
    assert evaluate(both, []) == 0
    assert evaluate([], found) is None


def test_an_object_found_twice_is_found_once():
    """The worse of the two is a miss: precision 1/2 at recall 1 below its score."""
    assert evaluate([((A,), 0)], [((A,), 0.9), ((A,), 0.3)]) == pytest.approx(1)
    assert evaluate([((A,), 0)], [((A,), 0.3), ((A,), 0.9)]) == pytest.approx(1)
    worse = [((A,), 0.9), ((FAR,), 0.95)]  # precision 0 at recall 0, then 1/2 at 1
    assert evaluate([((A,), 0)], worse) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("objects", "void"),
    [
        ([((FAR,), 1)], None),  # a group
        ([(((20, 20, 9),), 0)], None),  # under 100 pixels: not asked for, and no miss
        ([], rle(FAR)),
    ],
)
def test_misses_are_forgiven(objects, void):
    side = objects[0][0][0][2] if objects else 12
    found = [((A,), 0.5), (((20, 20, side),), 0.9)]
    assert evaluate([((A,), 0), *objects], found, void) == pytest.approx(1)
    assert evaluate([((A,), 0)], found) < 0.9


def test_forgiveness_wants_more_than_the_thresholds_share():
    """Half of it on void: at a threshold of 0.5 that is not enough, above even less."""
    found = [((A,), 0.5), ((FAR,), 0.9)]
    half = rle((20, 20, 6), (26, 20, 6))
    assert evaluate([((A,), 0)], found, half) == evaluate([((A,), 0)], found)


def test_more_detections_of_a_picture_than_pycocotools_sums():
    found = [((A,), 0.9)] + [((FAR,), 0.1 + n / 1000) for n in range(299)]
    assert evaluate([((A,), 0)], found) == pytest.approx(1)
