"""COCO's average precision, from a ground truth and results as COCO json holds them.

    truth, found -> overlaps -> matches at 10 thresholds in 4 areas -> curves of a class -> AP

pycocotools measures overlaps of boxes and masks; the rest is done for all thresholds and areas at once, with
the outcome of its own loops. Classes are evaluated one at a time, with only the pictures that a class is or was found
in, so that memory is that of the largest class.
"""

from collections import defaultdict

import numpy as np
from pycocotools.cocoeval import Params

from kmaskrcnn.evaluation_case import (
    name_annotation,
    name_result,
    read_case,
    read_field,
    read_rles,
)
from kmaskrcnn.geometry.segmentations import mask_areas
from kmaskrcnn.overlaps import box_overlaps, keypoint_similarity, mask_overlaps
from kmaskrcnn.precision_curves import PictureMatches, match_detections, precision_and_recall

# task: (pycocotools' name for it, the field of a result that it needs, its areas in order)
TASKS = {
    "box": ("bbox", "bbox", ("", "s", "m", "l")),
    "mask": ("segm", "segmentation", ("", "s", "m", "l")),
    "keypoint": ("keypoints", "keypoints", ("", "m", "l")),
}
IOU_50, IOU_75 = 0, 5  # places in 0.50, 0.55 ... 0.95


def evaluate_results(ground_truth, results, task="box", sigmas=None):
    """COCO's average precision and recall of results against a ground truth.

    Neither argument is changed. Of a picture at most 100 detections a class count (with keypoints
    20), as in COCO: more objects of one class than that cannot all be found.

    Args:
        ground_truth: path of a COCO json, or its content: a dict with `images`, `annotations` and
            `categories`.
        results: path of a COCO results json, or its content: a list of dicts with `image_id`,
            `category_id`, `score` and `bbox` (`[x, y, width, height]`), `segmentation` (RLE or
            polygons) or `keypoints`.
        task: `"box"`, `"mask"` or `"keypoint"`.
        sigmas: the spread of each keypoint in object sizes; by default COCO's 17 of a person.

    Returns:
        A dict of floats in 0 ... 1, None where there are no such objects (COCO says -1).
        Boxes and masks: `AP` (mean over IoU 0.50:0.95), `AP50`, `AP75`, `APs`, `APm`, `APl` (areas
        under 32^2, under 96^2, above), `AR1`, `AR10`, `AR100`, `ARs`, `ARm`, `ARl`. Keypoints:
        `AP`, `AP50`, `AP75`, `APm`, `APl`, `AR`, `AR50`, `AR75`, `ARm`, `ARl`. And `per_class`:
        `{class name: AP}`.

    Raises:
        ValueError: `task` is unknown, a file is not the json wanted, or a result lacks a field or
            names a picture that the ground truth does not have.

    Example:
        >>> evaluate_results("instances_val2017.json", "results.json", task="mask")["AP50"]
        0.562
    """
    if task not in TASKS:
        raise ValueError(f"task: one of {sorted(TASKS)} wanted, got {task!r}.")
    case = read_case(ground_truth, results, TASKS[task][1])
    curves = [evaluate_category(number, case, task, sigmas) for number in sorted(case.names)]
    return _summarise(curves, [case.names[number] for number in sorted(case.names)], task)


def evaluate_category(category, case, task, sigmas=None, limits=None, not_exhaustive=frozenset()):
    """The curves of one class.

    Args:
        category: its id.
        case: `EvaluationCase`.
        task: `"box"`, `"mask"` or `"keypoint"`.
        sigmas: of keypoints, as for `evaluate_results`.
        limits: sequence of L ints, rising: detections of a picture that count; by default COCO's.
        not_exhaustive: ids of the pictures where a detection without an object counts as nothing.

    Returns:
        Precision `(T, R, A, L)` and recall `(T, A, L)`, as of `precision_and_recall`.
    """
    rules = Params(TASKS[task][0])
    limits = rules.maxDets if limits is None else limits
    annotations = case.truth.get(category, ())
    results = sorted(case.found.get(category, ()), key=lambda result: -result["score"])
    scores = np.array([result["score"] for result in results], float)
    objects, areas, crowd, counts = _read_truth(annotations, case.images, task)
    ignored = ~counts | _outside(areas, rules.areaRng)
    found, areas = _read_found(results, case.images, task)
    uncounted = _outside(areas, rules.areaRng)
    measure = _overlaps_of(task, rules, sigmas)
    thresholds = np.minimum(rules.iouThrs, 1 - 1e-10)
    pictures = [PictureMatches.of_nothing(len(rules.areaRng), len(thresholds))]
    of_truth, of_found = _by_picture(annotations), _by_picture(results)
    for image_id in sorted({*of_truth, *of_found}):
        own, best = of_truth[image_id], of_found[image_id][: limits[-1]]
        overlaps = measure([found[n] for n in best], [objects[n] for n in own], crowd[own])
        out = ignored[:, own]
        matched, on_ignored = match_detections(overlaps, out, crowd[own], thresholds)
        forgiven = uncounted[:, best] | (image_id in not_exhaustive)
        on_ignored |= ~matched & forgiven[:, None]
        pictures.append(PictureMatches(scores[best], matched, on_ignored, (~out).sum(axis=1)))
    return precision_and_recall(pictures, limits, rules.recThrs)


def _read_truth(annotations, images, task):
    """What overlaps are measured of, areas, crowds, and whether an object is one to be found."""
    boxes = [read_field(entry, "bbox", name_annotation(entry)) for entry in annotations]
    areas = [entry.get("area", box[2] * box[3]) for entry, box in zip(annotations, boxes)]
    crowd = np.array([bool(entry.get("iscrowd")) for entry in annotations], bool)
    counts, objects = ~crowd, boxes
    if task == "mask":
        objects = read_rles(annotations, images, name_annotation)
    if task == "keypoint":
        points = [read_field(entry, "keypoints", name_annotation(entry)) for entry in annotations]
        labelled = [
            entry.get("num_keypoints", np.count_nonzero(own[2::3]))
            for entry, own in zip(annotations, points)
        ]
        counts &= np.array(labelled, int) > 0
        objects = list(zip(points, boxes, areas))
    return objects, np.array(areas, float), crowd, counts


def _read_found(results, images, task):
    """What overlaps are measured of, and areas: whether a detection is small, medium or large."""
    found = [result[TASKS[task][1]] for result in results]
    if task == "mask":
        found = read_rles(results, images, name_result)
        return found, mask_areas(found)
    if task == "box":
        return found, np.array([box[2] * box[3] for box in found], float)
    return found, np.array([np.ptp(own[0::3]) * np.ptp(own[1::3]) for own in found], float)


def _overlaps_of(task, rules, sigmas):
    """A function of a picture's detections, objects, and which of these are crowds."""
    if task == "keypoint":
        sigmas = rules.kpt_oks_sigmas if sigmas is None else sigmas
        return lambda found, objects, crowd: keypoint_similarity(found, objects, sigmas)
    return box_overlaps if task == "box" else mask_overlaps


def _outside(areas, ranges):
    """Whether areas are too small or too large for each range, `(A, N)`."""
    smallest, largest = np.array(ranges, float).T[..., None]
    return (areas < smallest) | (areas > largest)


def _by_picture(entries):
    """`{image id: places of its entries}`."""
    places = defaultdict(list)
    for place, entry in enumerate(entries):
        places[entry["image_id"]].append(place)
    return places


def _summarise(curves, names, task):
    """COCO's summary of all classes' curves."""
    precision = np.stack([precision for precision, _ in curves])  # (K, T, R, A, L)
    recall = np.stack([recall for _, recall in curves])  # (K, T, A, L)
    areas = {size: place for place, size in enumerate(TASKS[task][2])}
    metrics = {
        "AP": mean_measured(precision[..., 0, -1]),
        "AP50": mean_measured(precision[:, IOU_50, :, 0, -1]),
        "AP75": mean_measured(precision[:, IOU_75, :, 0, -1]),
    }
    metrics |= {f"AP{s}": mean_measured(precision[..., a, -1]) for s, a in areas.items() if s}
    if task == "keypoint":
        metrics["AR"] = mean_measured(recall[..., 0, -1])
        metrics["AR50"] = mean_measured(recall[:, IOU_50, 0, -1])
        metrics["AR75"] = mean_measured(recall[:, IOU_75, 0, -1])
    else:
        metrics |= {
            f"AR{n}": mean_measured(recall[..., 0, place]) for place, n in enumerate((1, 10, 100))
        }
    metrics |= {f"AR{s}": mean_measured(recall[..., a, -1]) for s, a in areas.items() if s}
    metrics["per_class"] = {n: mean_measured(p[..., 0, -1]) for n, p in zip(names, precision)}
    return metrics


def mean_measured(values):
    """The mean of what was measured, `None` where nothing was; -1 marks what was not."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else None
