"""COCO AP of results: published numbers, pycocotools itself, and what it does with faulty files."""

import contextlib
import copy
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kmaskrcnn.average_precision import evaluate_results
from kmaskrcnn.geometry.segmentations import to_rle
from kmaskrcnn.precision_curves import PictureMatches, match_detections, precision_and_recall

REFERENCE = Path(__file__).parents[2] / "shared" / "data" / "coco_eval_reference"
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason=f"no data in {REFERENCE}")


def numbers(metrics):
    """What pycocotools calls `stats`."""
    return [-1 if value is None else value for key, value in metrics.items() if key != "per_class"]


@needs_reference
@pytest.mark.parametrize(
    ("task", "kind", "ap"), [("box", "bbox", 0.5046), ("mask", "segm", 0.3195)]
)
def test_published_numbers(task, kind, ap):
    results = REFERENCE / f"instances_val2014_fake{kind}100_results.json"
    metrics = evaluate_results(REFERENCE / "instances_val2014_100.json", results, task)
    section = (REFERENCE / "val2014_fake_eval_res.txt").read_text().split(f"type={kind}")[1]
    published = [float(number) for number in re.findall(r"= (\d\.\d+)", section)[:12]]
    assert metrics["AP"] == pytest.approx(ap, abs=5e-5)
    assert [key for key in metrics if key != "per_class"] == NAMES
    np.testing.assert_allclose(numbers(metrics), published, atol=5.1e-4)
    assert len(metrics["per_class"]) == 80
    known = [value for value in metrics["per_class"].values() if value is not None]
    assert np.mean(known) == pytest.approx(metrics["AP"])


@needs_reference
def test_published_keypoint_numbers():
    """As asserted in faster_coco_eval's tests/test_keypoints.py."""
    files = REFERENCE / "keypoints" / "gt_dataset.json", REFERENCE / "keypoints" / "dt_dataset.json"
    metrics = evaluate_results(*files, task="keypoint")
    assert metrics["AP"] == pytest.approx(0.50488, abs=1e-5)
    oracle = pycocotools_stats(*(json.loads(file.read_text()) for file in files), "keypoints")
    np.testing.assert_allclose(numbers(metrics), oracle, rtol=1e-12)
    assert list(metrics)[:10] == "AP AP50 AP75 APm APl AR AR50 AR75 ARm ARl".split()
    wider = evaluate_results(*files, task="keypoint", sigmas=np.full(17, 0.2))
    assert wider["AP"] > metrics["AP"]


def pycocotools_stats(ground_truth, results, kind):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(ground_truth)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def make_case(seed, pictures=3, classes=3):
    """Crowded pictures in which detections compete for objects, with crowds and equal scores."""
    generator = np.random.default_rng(seed)
    entries = [[], []]
    for kind in range(2):
        for image_id in range(1, pictures + 1):
            for _ in range(generator.integers(0, 14)):
                corner, size = generator.integers(0, 120, 2), generator.choice([12, 30, 60, 110], 2)
                box = [*(corner // 6 * 6).tolist(), *size.tolist()]
                category = int(generator.integers(1, classes + 1)) * 10
                entries[kind].append(
                    {"image_id": image_id, "category_id": category, "bbox": box}
                    | (
                        {"score": float(generator.choice([0.2, 0.5, 0.5, 0.9]))}
                        if kind
                        else {"iscrowd": int(generator.random() < 0.2), "id": len(entries[0]) + 1}
                    )
                )
    for entry in (*entries[0], *entries[1]):
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w / 2, y + h]]
        if "score" not in entry:
            entry["area"] = w * h / 2
    ground_truth = {
        "images": [{"id": i, "height": 240, "width": 240} for i in range(1, pictures + 1)],
        "annotations": entries[0],
        "categories": [{"id": 10 * i, "name": f"class {i}"} for i in range(1, classes + 1)],
    }
    return ground_truth, entries[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([("box", "bbox"), ("mask", "segm")]))
def test_the_numbers_are_those_of_pycocotools(seed, names):
    task, kind = names
    ground_truth, results = make_case(seed)
    boxes = [{key: r[key] for key in r if key != "segmentation"} for r in results]
    # loadRes takes no polygons: masks go in as RLE.
    rles = [
        {key: r[key] for key in ("image_id", "category_id", "score")}
        | {"segmentation": to_rle(r["segmentation"], 240, 240)}
        for r in results
    ]
    if not results:
        assert not any(number > 0 for number in numbers(evaluate_results(ground_truth, [], task)))
        return
    expected = pycocotools_stats(ground_truth, boxes if task == "box" else rles, kind)
    metrics = evaluate_results(ground_truth, results, task)
    np.testing.assert_allclose(numbers(metrics), expected, rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_keypoints_numbers_are_those_of_pycocotools(seed):
    """Crowds, objects without labelled keypoints and hidden ones among them."""
    ground_truth, results = make_case(seed)
    generator = np.random.default_rng(seed)
    for entry in (*ground_truth["annotations"], *results):
        x, y, w, h = entry["bbox"]
        places = np.linspace(0.1, 0.9, 17)[:, None] * [w, h] + [x, y]
        labelled = generator.random(17) < generator.choice([0, 0.5, 1])
        seen = np.ones(17) if "score" in entry else labelled * 2
        moved = places + generator.normal(0, 0.05 * w, (17, 2))
        entry["keypoints"] = np.column_stack([moved, seen]).ravel().tolist()
        entry.pop("segmentation")
        if "score" not in entry:
            entry["num_keypoints"] = int(labelled.sum())
    if not results:
        return
    expected = pycocotools_stats(ground_truth, results, "keypoints")
    metrics = evaluate_results(ground_truth, results, "keypoint")
    np.testing.assert_allclose(numbers(metrics), expected, rtol=1e-12)


def test_crowds_and_small_objects_are_not_asked_for():
    """A detection on a crowd, or an unmatched one of another size, is neither right nor wrong."""
    overlaps = np.array([[0.9, 0.7], [0.6, 0.8], [0.0, 0.6]])
    matched, on_ignored = match_detections(
        overlaps, np.array([[False, True]]), np.array([False, True]), np.array([0.5, 0.75])
    )
    np.testing.assert_array_equal(matched[0], [[1, 1, 1], [1, 1, 0]])
    np.testing.assert_array_equal(on_ignored[0], [[0, 1, 1], [0, 1, 0]])


def test_of_equal_overlaps_the_last_object_is_taken():
    """As COCO does; the second detection finds the first object still free."""
    matched, _ = match_detections(
        np.array([[0.6, 0.6], [0.6, 0.0]]),
        np.zeros((1, 2), bool),
        np.zeros(2, bool),
        np.array([0.5]),
    )
    assert matched.all()


def test_precision_is_the_best_at_a_recall_or_beyond():
    """By hand: right, wrong, right of three objects; with one detection a picture, right and wrong."""
    pictures = [
        PictureMatches(
            np.array(scores), np.array([[right]]), np.zeros((1, 1, 2), bool)[..., :count], objects
        )
        for scores, right, count, objects in [
            ([0.9, 0.7], [True, True], 2, np.array([2])),
            ([0.8], [False], 1, np.array([1])),
        ]
    ]
    precision, recall = precision_and_recall(
        pictures, [1, 100], np.array([0, 0.3, 0.5, 2 / 3, 0.7])
    )
    np.testing.assert_allclose(precision[0, :, 0, 1], [1, 1, 2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(precision[0, :, 0, 0], [1, 1, 0, 0, 0])
    np.testing.assert_allclose(recall[0, 0], [1 / 3, 2 / 3])


def test_nearly_equal_overlaps_are_not_equal():
    """The first detection takes the first object, by the last bit of 0.6, so the second finds none."""
    overlaps = np.array([[np.nextafter(0.6, 1), 0.6], [0.6, 0.0]])
    matched, _ = match_detections(
        overlaps, np.zeros((1, 2), bool), np.zeros(2, bool), np.array([0.5])
    )
    assert matched.tolist() == [[[True, False]]]


@pytest.mark.parametrize("task", ["box", "mask"])
def test_arguments_are_not_changed_and_nothing_is_printed(task, capsys):
    ground_truth, results = make_case(5)
    before = copy.deepcopy((ground_truth, results))
    evaluate_results(ground_truth, results, task)
    assert (ground_truth, results) == before
    assert capsys.readouterr() == ("", "")


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    ground_truth, _ = make_case(5)
    ground_truth["categories"].append({"id": 99, "name": "absent"})
    metrics = evaluate_results(ground_truth, [], "box")
    assert metrics["AP"] == metrics["AR100"] == 0 and metrics["per_class"]["class 1"] == 0
    assert metrics["per_class"]["absent"] is None
    assert set(numbers(evaluate_results(ground_truth | {"annotations": []}, [], "box"))) == {-1}


def test_an_annotation_with_id_zero_is_found():
    """pycocotools takes a match with id 0 for none."""
    ground_truth, _ = make_case(5)
    truth = [annotation for annotation in ground_truth["annotations"] if not annotation["iscrowd"]]
    ground_truth["annotations"] = [{**a, "id": i} for i, a in enumerate(truth[:1])]
    results = [{**truth[0], "score": 0.5}]
    assert evaluate_results(ground_truth, results, "box")["AP"] == pytest.approx(1)


def test_area_and_iscrowd_may_be_missing():
    ground_truth, results = make_case(5)
    bare = copy.deepcopy(ground_truth)
    for annotation in ground_truth["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    for annotation in bare["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    assert evaluate_results(bare, results, "box") == evaluate_results(ground_truth, results, "box")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 77}, r"results\[1\]: image_id 77 is not among the 3 pictures"),
        ({"score": float("nan")}, r"results\[1\]: score nan"),
        ({"score": "high"}, r"results\[1\]: score 'high'"),
        ({"segmentation": {"size": [9, 9], "counts": [81]}}, "a result of image .*size"),
        ({"segmentation": None}, "a result of image"),
        ({"segmentation": ...}, r"results\[1\]: no field 'segmentation'"),
    ],
)
def test_faulty_results_are_named(change, message):
    ground_truth, results = make_case(5)
    results[1].update(change)
    if change.get("segmentation") is ...:
        del results[1]["segmentation"]
    with pytest.raises(ValueError, match=message):
        evaluate_results(ground_truth, results, "mask")


def test_faulty_files_are_named(tmp_path):
    ground_truth, results = make_case(5)
    broken, other = tmp_path / "broken.json", tmp_path / "other.json"
    broken.write_text('{"images": [')
    other.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"ground_truth: .*broken\.json.*Expecting"):
        evaluate_results(broken, results)
    with pytest.raises(ValueError, match=r"results: .*missing\.json.*No such file"):
        evaluate_results(ground_truth, tmp_path / "missing.json")
    with pytest.raises(
        ValueError, match=r"ground_truth: .*other\.json: a json dict wanted, got list"
    ):
        evaluate_results(other, results)
    with pytest.raises(ValueError, match="ground_truth: no field 'annotations'"):
        evaluate_results({"images": []}, results)
    with pytest.raises(ValueError, match="task: one of .* got 'segm'"):
        evaluate_results(ground_truth, results, "segm")


def test_unknown_categories_are_warned_of(caplog):
    ground_truth, results = make_case(5)
    extra = {**results[0], "category_id": 4711}
    assert evaluate_results(ground_truth, [*results, extra]) == evaluate_results(
        ground_truth, results
    )
    assert "4711" in caplog.text


def test_other_numbers_of_keypoints_than_sigmas_are_named():
    truth = {
        "images": [{"id": 1, "height": 9, "width": 9}],
        "categories": [{"id": 1, "name": "hand"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 9, 9],
                "keypoints": [1, 1, 2] * 3,
            }
        ],
    }
    found = [{"image_id": 1, "category_id": 1, "score": 0.9, "keypoints": [1, 1, 1] * 3}]
    with pytest.raises(ValueError, match="have 3 of them, and there are 17 sigmas"):
        evaluate_results(truth, found, "keypoint")
    assert evaluate_results(truth, found, "keypoint", sigmas=[0.1] * 3)["AP"] == pytest.approx(1)
