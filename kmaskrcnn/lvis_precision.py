"""LVIS's average precision: that of COCO, with each class judged only where it was looked for.

A detection whose class is neither marked in its picture nor known to be absent there counts as
nothing; so does one that matches no object where the class is not marked exhaustively. A picture's
best 300 detections count, of all classes together.

Reference:
    Gupta et al., "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (2019), section 3.1,
    and the `lvis` package, whose numbers these are; it stopped working with NumPy 1.24.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from kmaskrcnn.average_precision import TASKS, evaluate_category, mean_measured
from kmaskrcnn.evaluation_case import read_case, read_field

MOST_DETECTIONS = 300
FREQUENCIES = ("r", "c", "f")
IOU_50, IOU_75 = 0, 5  # places in 0.50, 0.55 ... 0.95


def evaluate_lvis(ground_truth, results, task="mask"):
    """LVIS's average precision and recall of results against a ground truth.

    Args:
        ground_truth: path of a json of LVIS v1, or its content: a COCO json whose images have
            `neg_category_ids` and `not_exhaustive_category_ids`, and its categories `frequency`.
        results: path or content of a COCO results json, as for `evaluate_results`. The area of a
            mask is its own, as where results hold no boxes beside masks.
        task: `"box"` or `"mask"`.

    Returns:
        A dict of floats in 0 ... 1, None where there are no such objects: `AP`, `AP50`, `AP75`,
        `APs`, `APm`, `APl`, `APr`, `APc`, `APf` (classes in under 10, under 100, and more of the
        training pictures), `AR300`, `ARs`, `ARm`, `ARl`, and `per_class`: `{class name: AP}`.

    Raises:
        ValueError: as `evaluate_results`, or LVIS's fields are missing.
    """
    if task not in ("box", "mask"):
        raise ValueError(f"task: one of ['box', 'mask'] wanted, got {task!r}.")
    case = read_case(ground_truth, results, TASKS[task][1])
    frequencies = [_frequency(case.categories[number]) for number in sorted(case.categories)]
    case, not_exhaustive = _judged(case)
    curves = [
        evaluate_category(
            number, case, task, limits=[MOST_DETECTIONS], not_exhaustive=not_exhaustive[number]
        )
        for number in sorted(case.categories)
    ]
    return _summarise(curves, [case.names[n] for n in sorted(case.names)], np.array(frequencies))


def _frequency(category):
    frequency = read_field(category, "frequency", "a category of the ground truth")
    if frequency not in FREQUENCIES:
        raise ValueError(f"frequency: one of {FREQUENCIES} wanted, got {frequency!r}.")
    return frequency


def _judged(case):
    """`(case, {category: ids of pictures})`: what counts, and where a class is not exhaustive."""
    images, where = case.images, "an image of the ground truth"
    looked_for, not_exhaustive = defaultdict(set), defaultdict(set)
    for image_id, image in images.items():
        for category in read_field(image, "neg_category_ids", where):
            looked_for[category].add(image_id)
        for category in read_field(image, "not_exhaustive_category_ids", where):
            not_exhaustive[category].add(image_id)
    # The original drops objects without area before anything else.
    truth = {n: [a for a in group if _area(a) > 0] for n, group in case.truth.items()}
    for category, annotations in truth.items():
        looked_for[category] |= {annotation["image_id"] for annotation in annotations}
    best = _best_of_each_picture(case.results)
    found = {n: [r for r in best[n] if r["image_id"] in looked_for[n]] for n in case.found}
    return replace(case, truth=truth, found=found), not_exhaustive


def _area(annotation):
    return read_field(annotation, "area", f"an annotation of image {annotation['image_id']}")


def _best_of_each_picture(results):
    """`{category: results}`, of each picture the best 300 alone, of equal scores those that come first."""
    pictures, best = defaultdict(list), defaultdict(list)
    for result in results:
        pictures[result["image_id"]].append(result)
    for results in pictures.values():
        for result in sorted(results, key=lambda r: -r["score"])[:MOST_DETECTIONS]:
            best[result["category_id"]].append(result)
    return best


def _summarise(curves, names, frequencies):
    """LVIS's summary of all classes' curves, `(K, T, R, A)` and `(K, T, A)` once stacked."""
    precision = np.stack([precision[..., 0] for precision, _ in curves])
    recall = np.stack([recall[..., 0] for _, recall in curves])
    every = precision[..., 0]
    metrics = {
        "AP": mean_measured(every),
        "AP50": mean_measured(every[:, IOU_50]),
        "AP75": mean_measured(every[:, IOU_75]),
    }
    metrics |= {f"AP{s}": mean_measured(precision[..., a]) for a, s in enumerate("sml", start=1)}
    metrics |= {f"AP{f}": mean_measured(every[frequencies == f]) for f in FREQUENCIES}
    metrics[f"AR{MOST_DETECTIONS}"] = mean_measured(recall[..., 0])
    metrics |= {f"AR{s}": mean_measured(recall[..., a]) for a, s in enumerate("sml", start=1)}
    metrics["per_class"] = {name: mean_measured(ap) for name, ap in zip(names, every)}
    return metrics
