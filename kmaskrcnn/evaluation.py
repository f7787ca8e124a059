"""Average precision of a model or of collected detections, in the original pictures' pixels.

model, dataset -> Detections of each picture -> CocoEvaluator -> {"box": {...}, "mask": {...}, "keypoint": {...}}
"""

import logging

import keras
import numpy as np

from kmaskrcnn.average_precision import evaluate_results
from kmaskrcnn.cityscapes_precision import evaluate_cityscapes
from kmaskrcnn.coco_format import to_coco
from kmaskrcnn.detections import Detections
from kmaskrcnn.lvis_precision import evaluate_lvis

__all__ = [
    "CocoEvaluator",
    "evaluate_model",
    "evaluate_pictures",
    "evaluate_results",
    "format_table",
]

logger = logging.getLogger(__name__)

COCO_KEYPOINTS = 17  # of a person, whose spreads COCO measured
SIGMA = 0.05  # of other keypoints unless the user knows better: between COCO's eyes and shoulders


class CocoEvaluator:
    """Collects the detections of a dataset picture by picture, then evaluates them.

    Masks are RLE from the moment they are added (about 1 kB a detection), so thousands of pictures
    fit. The ground truth is that of the records: what their reading left out is not asked for.

    Args:
        dataset: the records of a dataset: `class_names`, and `images` with `image_id`, `height`,
            `width` and `instances`, as `data.records` reads them from a COCO json.
        with_mask: whether masks are evaluated beside boxes; not where an object of the records has
            none, which a warning says.
        with_keypoints: whether keypoints are, by object keypoint similarity (OKS).
        sigmas: K floats, the spread of each keypoint in object sizes; by default COCO's for its 17
            of a person, and 0.05 for others.

    Example:
        >>> evaluator = CocoEvaluator(records)
        >>> evaluator.add(image_id, detections)
        >>> evaluator.summarise()["mask"].get("AP")
        0.34
    """

    def __init__(self, dataset, with_mask=True, with_keypoints=False, sigmas=None):
        self.dataset = dataset
        self.with_mask = with_mask
        self.with_keypoints = with_keypoints
        self.sigmas = sigmas
        self.results = []
        # False until the picture is added.
        self._pictures = {image.image_id: False for image in dataset.images}

    def add(self, image_id, detections):
        """Take one picture's detections.

        Args:
            image_id: the picture's COCO id.
            detections: its `Detections`, in the original picture's pixels.

        Raises:
            ValueError: the dataset has no such picture, or it was added before.
        """
        image_id = int(image_id)
        if self._pictures.get(image_id, True):
            known = image_id in self._pictures
            reason = "was added before" if known else "is not among the dataset's pictures"
            raise ValueError(f"image_id: picture {image_id} {reason}.")
        self._pictures[image_id] = True
        # Labels serve as category ids: a class that the json does not know has no id of its own.
        self.results += detections.to_coco(image_id, range(len(self.dataset.class_names)))

    def summarise(self):
        """Evaluate what was added; a picture that was not counts as one with nothing found.

        Returns:
            `{"box": {...}, "mask": {...}, "keypoint": {...}}`, each as from `evaluate_results`;
            `"mask"` and `"keypoint"` only with them. By the records' own rules: those of LVIS as
            from `evaluate_lvis`, masks of Cityscapes as from `evaluate_cityscapes`.
        """
        missing = len(self._pictures) - sum(self._pictures.values())
        if missing:
            logger.warning("%d of %d pictures were not evaluated", missing, len(self._pictures))
        ground_truth = to_coco(self.dataset, with_keypoints=self.with_keypoints)
        rules = getattr(self.dataset, "rules", "coco")
        tasks = ["box"] + ["mask"] * (self.with_mask and self._has_masks())
        metrics = {task: _evaluate(rules, ground_truth, self.results, task) for task in tasks}
        if self.with_keypoints:
            count = len(self.dataset.keypoints.names)
            sigmas = self.sigmas or (None if count == COCO_KEYPOINTS else [SIGMA] * count)
            metrics["keypoint"] = evaluate_results(ground_truth, self.results, "keypoint", sigmas)
        return metrics

    def _has_masks(self):
        objects = [instance for image in self.dataset.images for instance in image.instances]
        without = sum(instance.segmentation is None for instance in objects)
        if without:
            logger.warning("%d of %d objects have no mask: boxes alone", without, len(objects))
        return not without


def _evaluate(rules, ground_truth, results, task):
    if rules == "lvis":
        return evaluate_lvis(ground_truth, results, task)
    if rules == "cityscapes" and task == "mask":  # it has no rules for boxes
        return evaluate_cityscapes(ground_truth, results)
    return evaluate_results(ground_truth, results, task)


def evaluate_model(model, dataset, records, progress=True, sigmas=None, paste_rule=None):
    """COCO AP of a model on a dataset.

    Args:
        model: whatever has `predict_on_batch(inputs)` that returns detections as in the contract
            of tensors (docs/architecture.md).
        dataset: `tf.data.Dataset` of `(inputs, targets)`, each picture once; of the targets,
            `image_ids` and `original_sizes` are read.
        records: the records that the dataset was made of, as for `CocoEvaluator`.
        progress: whether to draw a progress bar.
        sigmas: of keypoints, as for `CocoEvaluator`; by default the model's own.
        paste_rule: how masks come into the picture; by default the model's own.

    Returns:
        `{"box": {...}, "mask": {...}, "keypoint": {...}}`, each as from `CocoEvaluator.summarise`;
        `"mask"` and `"keypoint"` only if the model predicts them and the records have them.

    Raises:
        ValueError: a picture comes twice or is not among the records, or the model's classes or keypoints are others.
    """
    config = getattr(model, "config", None)
    if config is not None:
        _check_classes(config.class_names, records.class_names)
        _check_keypoints(config, records)
        sigmas, paste_rule = sigmas or config.keypoint_sigmas, paste_rule or config.paste_rule
    paste_rule = paste_rule or "half_pixel"
    evaluator = CocoEvaluator(records, with_mask=False, sigmas=sigmas)
    bar = keras.utils.Progbar(len(records.images), verbose=int(progress), unit_name="picture")
    for inputs, targets in dataset:
        outputs = model.predict_on_batch(inputs)
        evaluator.with_mask = "masks" in outputs
        evaluator.with_keypoints = "keypoints" in outputs and records.keypoints is not None
        image_ids = np.asarray(targets["image_ids"])
        for index, image_id in enumerate(image_ids):
            size = _image_size(inputs, index)
            original_size = np.asarray(targets["original_sizes"][index])
            evaluator.add(
                image_id,
                Detections.from_outputs(
                    outputs,
                    index,
                    size,
                    original_size,
                    records.class_names,
                    paste_rule,
                    keypoint_rule=getattr(config, "keypoint_rule", "window"),
                ),
            )
        bar.add(len(image_ids))
    return evaluator.summarise()


def evaluate_pictures(predict, pictures, records, progress=True, sigmas=None):
    """AP of whatever finds objects in one picture after another, such as a `Predictor` with test-time augmentation.

    Args:
        predict: from a picture's pixels to `Detections`; what it has for a `config` is held against the records.
        pictures: iterable of `(image_id, pixels)`, each picture of the records once.
        records, progress, sigmas: as for `evaluate_model`.

    Returns:
        As from `evaluate_model`.

    Raises:
        ValueError: as `evaluate_model`.
    """
    if getattr(predict, "config", None) is not None:
        _check_keypoints(predict.config, records)
    evaluator = CocoEvaluator(records, with_mask=False, sigmas=sigmas)
    bar = keras.utils.Progbar(len(records.images), verbose=int(progress), unit_name="picture")
    for image_id, pixels in pictures:
        detections = predict(pixels)
        _check_classes(detections.class_names, records.class_names)
        evaluator.with_mask = detections.masks is not None
        has_keypoints = detections.keypoints is not None
        evaluator.with_keypoints = has_keypoints and records.keypoints is not None
        evaluator.add(image_id, detections)
        bar.add(1)
    return evaluator.summarise()


def _check_classes(known, given):
    if tuple(known) != tuple(given):
        raise ValueError(
            f"records: classes {given} are not the model's {known}; load them with class_names="
        )


def _check_keypoints(config, records):
    """Names in another order would be compared with each other's places."""
    if not getattr(config, "with_keypoints", False) or records.keypoints is None:
        return
    known, given = tuple(config.keypoint_names), tuple(records.keypoints.names)
    if known != given:
        raise ValueError(f"records: keypoints {given} are not the model's {known}")


def format_table(metrics, per_class=False):
    """A table of AP to read.

    Args:
        metrics: `{"box": {...}, "mask": {...}}` as from `evaluate_model`.
        per_class: whether each class's AP follows.

    Returns:
        str of several lines; `-` where there are no such objects.

    Example:
        >>> print(format_table({"box": {"AP": 0.505, "AP50": 0.697, "per_class": {}}}))
               AP   AP50
        box  0.505  0.697
    """
    # Keypoints have other numbers than boxes and masks: a dict keeps the order, and each name once.
    columns = list(dict.fromkeys(name for row in metrics.values() for name in row))
    columns.remove("per_class")
    table = _lay_out(
        columns, {task: [row.get(name) for name in columns] for task, row in metrics.items()}
    )
    if not per_class:
        return table
    classes = next(iter(metrics.values()))["per_class"]
    rows = {name: [row["per_class"][name] for row in metrics.values()] for name in classes}
    return table + "\n\n" + _lay_out([f"{task} AP" for task in metrics], rows)


def _lay_out(columns, rows):
    first = max(map(len, rows), default=0)
    width = max(5, *map(len, columns)) + 2
    lines = [" " * first + "".join(f"{column:>{width}}" for column in columns)]
    for name, values in rows.items():
        cells = ("-" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"{name:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells))
    return "\n".join(lines)


def _image_size(inputs, index):
    """The part of a network image that is picture; all of it where the inputs do not say."""
    if "image_sizes" in inputs:
        return np.asarray(inputs["image_sizes"][index])
    return tuple(inputs["images"].shape[1:3])
