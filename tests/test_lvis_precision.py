"""LVIS's AP against the numbers of its own package, and its rules one by one, by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from kmaskrcnn.data.importers.lvis import load_lvis
from kmaskrcnn.detections import Detections
from kmaskrcnn.evaluation import CocoEvaluator
from kmaskrcnn.lvis_precision import evaluate_lvis

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "lvis.json").read_text())


@pytest.mark.parametrize("task", ["box", "mask"])
def test_the_numbers_are_those_of_the_original(task):
    metrics = evaluate_lvis(RECORDED["ground_truth"], RECORDED["results"], task)
    expected = {name.replace("@300", ""): v for name, v in RECORDED["expected"][task].items()}
    expected["AR300"] = expected.pop("AR")
    per_class = metrics.pop("per_class")
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, abs=1e-12), name
    assert np.mean([v for v in per_class.values() if v is not None]) == pytest.approx(metrics["AP"])


def case(negative=(), not_exhaustive=()):
    """A class marked in picture 1; picture 2 has objects of another class alone."""
    images = [
        {
            "id": number,
            "height": 50,
            "width": 50,
            "neg_category_ids": list(negative if number == 2 else ()),
            "not_exhaustive_category_ids": list(not_exhaustive if number == 1 else ()),
        }
        for number in (1, 2)
    ]
    objects = [(1, 1, [0, 0, 10, 10]), (2, 2, [0, 0, 10, 10])]
    annotations = [
        {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": 100}
        for n, (i, c, box) in enumerate(objects, start=1)
    ]
    categories = [
        {"id": 1, "name": "a", "frequency": "r"},
        {"id": 2, "name": "b", "frequency": "f"},
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def result(image_id, box, score, category_id=1):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


def test_what_was_not_looked_for_counts_as_nothing():
    """The better detection is wrong: where it counts, precision is 1/2."""
    results = [result(2, [20, 20, 5, 5], 0.9), result(1, [0, 0, 10, 10], 0.5)]
    assert evaluate_lvis(case(), results, "box")["APr"] == pytest.approx(1)
    assert evaluate_lvis(case(negative=[1]), results, "box")["APr"] == pytest.approx(0.5)


def test_where_a_class_is_not_exhaustive_misses_count_as_nothing():
    results = [result(1, [20, 20, 5, 5], 0.9), result(1, [0, 0, 10, 10], 0.5)]
    assert evaluate_lvis(case(), results, "box")["APr"] == pytest.approx(0.5)
    metrics = evaluate_lvis(case(not_exhaustive=[1]), results, "box")
    assert metrics["APr"] == pytest.approx(1) and metrics["APf"] == 0 and metrics["APc"] is None


def test_a_pictures_best_300_count_of_all_classes_together():
    others = [result(1, [20, 20, 5, 5], 0.9, category_id=2)] * 299
    last = result(1, [0, 0, 10, 10], 0.5)
    assert evaluate_lvis(case(), [*others, last], "box")["APr"] == pytest.approx(1)
    assert evaluate_lvis(case(), [last, *others, others[0]], "box")["APr"] == 0


def test_of_equal_scores_at_the_limit_the_first_results_count():
    """299 better ones leave one place; the other class comes first, and its object is found."""
    better = [result(2, [20, 20, 5, 5], 0.9)] * 299
    last = [result(2, [0, 0, 10, 10], 0.5, 2), result(2, [20, 20, 5, 5], 0.5, 1)]
    assert evaluate_lvis(case(), better + last, "box")["APf"] == pytest.approx(1)
    assert evaluate_lvis(case(), better + last[::-1], "box")["APf"] == 0


def test_an_object_without_area_is_named():
    broken = case()
    del broken["annotations"][1]["area"]
    with pytest.raises(ValueError, match="an annotation of image 2: no field 'area'"):
        evaluate_lvis(broken, [], "box")


def test_missing_fields_are_named():
    plain = case()
    del plain["images"][1]["neg_category_ids"]
    with pytest.raises(ValueError, match="no field 'neg_category_ids'"):
        evaluate_lvis(plain, [], "box")
    plain = case()
    plain["categories"][0]["frequency"] = "often"
    with pytest.raises(ValueError, match="frequency: one of .* got 'often'"):
        evaluate_lvis(plain, [], "box")
    with pytest.raises(ValueError, match="task: one of .* got 'keypoint'"):
        evaluate_lvis(case(), [], "keypoint")


def test_records_of_lvis_are_evaluated_by_its_rules(tmp_path):
    """Through the loader, labels and the evaluator, the recorded boxes give the recorded AP."""
    truth = RECORDED["ground_truth"]
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(truth))
    records = load_lvis(path, tmp_path, check_images=False)
    evaluator = CocoEvaluator(records, with_mask=False)
    for image in truth["images"]:
        found = [r for r in RECORDED["results"] if r["image_id"] == image["id"]]
        corners = np.array([r["bbox"] for r in found])
        evaluator.add(
            image["id"],
            Detections(
                boxes=np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1),
                labels=[r["category_id"] - 1 for r in found],
                scores=[r["score"] for r in found],
                image_size=(image["height"], image["width"]),
            ),
        )
    metrics = evaluator.summarise()["box"]
    assert metrics["AP"] == pytest.approx(RECORDED["expected"]["box"]["AP"], abs=1e-7)
    assert metrics["APr"] == pytest.approx(RECORDED["expected"]["box"]["APr"], abs=1e-7)
