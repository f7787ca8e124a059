"""Cityscapes' average precision of instance masks.

    overlaps with objects, groups and void -> hits and misses of each picture -> curve of a class -> AP

What differs from COCO: an object under 100 pixels is not asked for; a detection that finds nothing
is forgiven if more than the threshold's share of it lies on void, groups or such small objects; an
object found twice counts once as found; the curve is not smoothed, and its area is taken whole.

Reference:
    Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding" (2016), section 5,
    and the `cityscapesscripts` package, `evalInstanceLevelSemanticLabeling`, whose numbers these are.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from kmaskrcnn.evaluation_case import name_annotation, name_result, read_case, read_rles
from kmaskrcnn.geometry.segmentations import mask_areas

THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # of IoU, with the original's rounding
SMALLEST = 100  # pixels


def evaluate_cityscapes(ground_truth, results):
    """Cityscapes' average precision of masks against a ground truth.

    Args:
        ground_truth: path of a COCO json, or its content; objects with `iscrowd` are groups, and an
            image's `void`, an RLE, are the pixels where nothing is judged.
        results: path or content of a COCO results json with `segmentation`.

    Returns:
        A dict of floats in 0 ... 1, None where there are no objects: `AP`, the mean over classes
        and IoU 0.50:0.95, `AP50`, and `per_class`: `{class name: AP}`.

    Raises:
        ValueError: as `evaluate_results`.

    Example:
        >>> evaluate_cityscapes(ground_truth, results)["per_class"]["car"]
        0.525
    """
    case = read_case(ground_truth, results, "segmentation")
    voids = {i: image["void"] for i, image in case.images.items() if image.get("void")}
    by_class = {  # AP at each threshold
        case.names[category]: _class_precision(category, case, voids)
        for category in sorted(case.categories)
    }
    known = [values for values in by_class.values() if values is not None]
    return {
        "AP": float(np.mean(known)) if known else None,
        "AP50": float(np.mean(known, axis=0)[0]) if known else None,
        "per_class": {
            name: None if values is None else float(values.mean())
            for name, values in by_class.items()
        },
    }


@dataclass(frozen=True)
class _Overlaps:
    """One picture's detections of a class beside its objects.

    Args:
        scores: `(D,)`.
        ious: `(D, G)`, with objects and groups.
        counts: `(G,)` bool, objects that must be found.
        forgiven: `(D,)`, the share of a detection on void, groups and small objects.
    """

    scores: np.ndarray
    ious: np.ndarray
    counts: np.ndarray
    forgiven: np.ndarray


def _class_precision(category, case, voids):
    """AP at each threshold, or `None` where the class has no object that counts."""
    truth, found = (_by_picture(group.get(category, ())) for group in (case.truth, case.found))
    pictures = [
        _measure(truth[image_id], found[image_id], voids.get(image_id), case.images)
        for image_id in sorted({*truth, *found})
    ]
    objects = sum(int(picture.counts.sum()) for picture in pictures)
    if not objects:
        return None
    return np.array([_precision_at(threshold, pictures, objects) for threshold in THRESHOLDS])


def _by_picture(entries):
    pictures = defaultdict(list)
    for entry in entries:
        pictures[entry["image_id"]].append(entry)
    return pictures


def _measure(truth, found, void, images):
    objects = read_rles(truth, images, name_annotation)
    masks = read_rles(found, images, name_result)
    kept = np.flatnonzero(mask_areas(masks)).tolist()
    masks = [masks[place] for place in kept]
    areas, object_areas = mask_areas(masks), mask_areas(objects)
    shared = _shared_pixels(masks, objects)
    groups = np.array([bool(entry.get("iscrowd")) for entry in truth], bool)
    small = object_areas < SMALLEST
    # A small group forgives twice, as in the original.
    forgiven = shared @ groups + shared @ small
    if void:
        forgiven = forgiven + _shared_pixels(masks, [_encoded(void)])[:, 0]
    return _Overlaps(
        scores=np.array([found[place]["score"] for place in kept], float),
        ious=shared / np.maximum(areas[:, None] + object_areas - shared, 1),
        counts=~groups & ~small,
        forgiven=forgiven / np.maximum(areas, 1),
    )


def _shared_pixels(masks, others):
    """How many pixels each mask shares with each other, `(D, G)`."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    # With a crowd pycocotools divides by the mask's own area alone.
    shares = coco_mask.iou(masks, others, [1] * len(others))
    return np.rint(shares * mask_areas(masks)[:, None])


def _encoded(rle):
    counts = rle["counts"]
    return {**rle, "counts": counts.encode() if isinstance(counts, str) else counts}


def _precision_at(threshold, pictures, objects):
    """AP at one threshold of IoU."""
    hits, misses = zip(*(_judge(picture, threshold) for picture in pictures))
    return _area_under_curve(np.concatenate(hits), np.concatenate(misses), objects)


def _judge(picture, threshold):
    """Scores of a picture's detections that found an object, and of those that did not."""
    reached = picture.ious > threshold
    hits, misses = [], []
    for place in np.flatnonzero(picture.counts):
        scores = np.sort(picture.scores[reached[:, place]])
        hits.append(scores[-1:])
        misses.append(scores[:-1])
    misses.append(picture.scores[~reached.any(axis=1) & (picture.forgiven <= threshold)])
    return np.concatenate([*hits, []]), np.concatenate(misses)


def _area_under_curve(hits, misses, objects):
    """The area under precision over recall, in straight lines from one score to the next."""
    scores = np.unique([*hits, *misses])
    found = len(hits) - np.searchsorted(np.sort(hits), scores)
    wrong = len(misses) - np.searchsorted(np.sort(misses), scores)
    precision = np.append(found / (found + wrong), 1.0)
    recall = np.append(found / objects, 0.0)
    return float(np.sum((precision[1:] + precision[:-1]) / 2 * (recall[:-1] - recall[1:])))
