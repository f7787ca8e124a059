"""COCO's average precision, from a ground truth and results as COCO json holds them.

    truth, found -> overlaps -> matches at 10 thresholds in 4 areas -> curves of a class -> AP

pycocotools measures overlaps; `precision_curves` does the rest for all thresholds and areas at once, with
the same outcome. Classes are evaluated one at a time, with only the pictures that a class is or was found
in, so that memory is that of the largest class.
"""

import contextlib
import sys
import threading

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kmaskrcnn.evaluation_case import read_case, read_field, read_rle
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
    with quiet_in_this_thread():
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
    truth, found = case.truth.get(category, ()), case.found.get(category, ())
    evaluation = _Evaluation(
        _index(case.images, [_truth_entry(entry, case.images, task) for entry in truth]),
        _index(case.images, [_result_entry(entry, case.images, task) for entry in found]),
        TASKS[task][0],
    )
    evaluation.not_exhaustive = not_exhaustive
    evaluation.params.catIds = [category]
    evaluation.params.imgIds = sorted({entry["image_id"] for entry in (*truth, *found)})
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, float)
    if limits is not None:
        evaluation.params.maxDets = list(limits)
    return evaluation.curves()


class _Evaluation(COCOeval):
    """pycocotools' overlaps of one class, and what follows from them.

    The original loops over areas, thresholds, detections and objects in turn, which takes minutes
    for thousands of pictures.
    """

    not_exhaustive = frozenset()  # pictures where what is not marked may be there all the same

    def curves(self):
        """Precision and recall as of `evaluate_category`."""
        self._prepare()
        given = self.params
        nothing = PictureMatches.of_nothing(len(given.areaRng), len(given.iouThrs))
        pictures = [nothing, *(self._match(image_id) for image_id in given.imgIds)]
        return precision_and_recall(pictures, given.maxDets, given.recThrs)

    def _match(self, image_id):
        key = image_id, self.params.catIds[0]
        truth = self._gts[key]
        found = sorted(self._dts[key], key=lambda entry: -entry["score"])[: self.params.maxDets[-1]]
        measure = self.computeOks if self.params.iouType == "keypoints" else self.computeIoU
        overlaps = np.reshape(measure(*key), (len(found), len(truth)))
        crowd = np.array([entry["iscrowd"] for entry in truth], bool)
        ignored = np.array([entry["ignore"] for entry in truth], bool) | self._outside(truth)
        thresholds = np.minimum(self.params.iouThrs, 1 - 1e-10)
        matched, on_ignored = match_detections(overlaps, ignored, crowd, thresholds)
        uncounted = self._outside(found) | (image_id in self.not_exhaustive)
        on_ignored |= ~matched & uncounted[:, None]
        scores = np.array([entry["score"] for entry in found], float)
        return PictureMatches(scores, matched, on_ignored, (~ignored).sum(axis=1))

    def _outside(self, entries):
        """Whether entries are too small or too large for each area, `(A, N)`."""
        sizes = np.array([entry["area"] for entry in entries], float)
        smallest, largest = np.array(self.params.areaRng, float).T[..., None]
        return (sizes < smallest) | (sizes > largest)


def _index(images, entries):
    """Entries as pycocotools holds them, with the pictures that they are of."""
    coco = COCO()
    numbered = [{**entry, "id": number} for number, entry in enumerate(entries)]
    own = [images[number] for number in {entry["image_id"] for entry in entries}]
    coco.dataset = {"images": own, "annotations": numbered, "categories": []}
    coco.createIndex()
    return coco


def _truth_entry(annotation, images, task):
    """A ground-truth object with all that pycocotools reads of it."""
    where = f"annotation {annotation.get('id')} of image {annotation['image_id']}"
    box = read_field(annotation, "bbox", where)
    entry = annotation | {
        "iscrowd": int(annotation.get("iscrowd", 0)),
        "area": annotation.get("area", box[2] * box[3]),
    }
    if task == "mask":
        entry["segmentation"] = read_rle(annotation, images, where)
    if task == "keypoint":
        visible = np.count_nonzero(read_field(annotation, "keypoints", where)[2::3])
        entry["num_keypoints"] = annotation.get("num_keypoints", visible)
    return entry


def _result_entry(result, images, task):
    """A result with its area, which decides whether it counts among the small, medium or large."""
    field = TASKS[task][1]
    entry = {key: result[key] for key in ("image_id", "category_id", "score", field)}
    if task == "box":
        entry["area"] = result["bbox"][2] * result["bbox"][3]
    elif task == "mask":
        where = f"a result of image {result['image_id']}"
        entry["segmentation"] = read_rle(result, images, where)
        entry["area"] = float(coco_mask.area(entry["segmentation"]))
    else:
        entry["area"] = float(np.ptp(result[field][0::3]) * np.ptp(result[field][1::3]))
    return entry


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


class _OtherThreadsOutput:
    """Standard output for all threads but the one that makes it."""

    def __init__(self):
        self._output, self._silent = sys.stdout, threading.get_ident()

    def write(self, text):
        return len(text) if threading.get_ident() == self._silent else self._output.write(text)

    def __getattr__(self, name):
        return getattr(self._output, name)


# One at a time: two threads that swap standard output could put it back in the wrong order.
_OUTPUT_LOCK = threading.Lock()


@contextlib.contextmanager
def quiet_in_this_thread():
    """Drops what pycocotools prints, and only that."""
    with _OUTPUT_LOCK, contextlib.redirect_stdout(_OtherThreadsOutput()):
        yield
