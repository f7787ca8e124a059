"""What is allowed in a dataset, and still spoils a training: told in plain words before it starts."""

import logging
from collections import Counter

import numpy as np

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.data.anchor_advice import best_ious, network_boxes

logger = logging.getLogger(__name__)

SHOWN = 5  # names or ids in one sentence
FEW_OBJECTS = 20  # of a class, to learn from
IMBALANCE = 50  # times as many objects of one class as of another
MATCHED = 0.5  # IoU with an anchor from which an object is met
FEW_MET = 0.02  # share of the objects that may be too small before it is said


def training_advice(records, validation=None, config: MaskRCNNConfig | None = None):
    """What one should know before training on a dataset.

    Args:
        records: `CocoDataset` to train on.
        validation: `CocoDataset` to evaluate on, of the same classes.
        config: the model, for what depends on its classes, anchors and limits.

    Returns:
        A list of sentences with numbers, classes and image ids; an empty one where all is well.
    """
    said = [_absent(records, "to train on: they cannot be learnt"), *_imbalance(records)]
    if validation is not None:
        said += [_absent(validation, "in the validation data: AP says nothing of them")]
        said += [_shared_pictures(records, validation)]
    if config is not None:
        said += [
            _labels_beyond(records, config),
            _too_small(records, config),
            _too_many(records, config),
        ]
    return [sentence for sentence in said if sentence]


def log_advice(records, validation=None, config=None):
    """Write `training_advice` to the log, a warning each."""
    for sentence in training_advice(records, validation, config):
        logger.warning("%s", sentence)


def _counts(records):
    """Objects a label, crowds left out."""
    return Counter(
        instance.label
        for record in records.images
        for instance in record.instances
        if not instance.is_crowd
    )


def _absent(records, why):
    counts = _counts(records)
    names = [name for label, name in enumerate(records.class_names) if not counts[label]]
    total = len(records.class_names)
    return names and f"{len(names)} of {total} classes have no object {why}: {_few(names)}"


def _imbalance(records):
    """Which classes are few, in numbers and against the others."""
    counts = {records.class_names[label]: n for label, n in _counts(records).most_common()
              if label < len(records.class_names)}  # fmt: skip
    if not counts:
        return
    few = [f"{name} ({n})" for name, n in reversed(counts.items()) if n < FEW_OBJECTS]
    if few:
        yield f"{len(few)} classes have fewer than {FEW_OBJECTS} objects to learn from: {_few(few)}"
    (most, highest), (least, lowest) = next(iter(counts.items())), list(counts.items())[-1]
    if highest >= IMBALANCE * lowest:
        yield (
            f"classes are out of balance: {most} has {highest} objects, {least} {lowest}, "
            f"{highest / lowest:.0f} times fewer: more pictures of {least} help most"
        )


def _shared_pictures(records, validation):
    paths = {record.path for record in records.images}
    ids = [record.image_id for record in validation.images if record.path in paths]
    return ids and (
        f"{len(ids)} validation pictures are trained on, so AP will be too high: image ids {_few(ids)}"
    )


def _labels_beyond(records, config):
    beyond = [
        f"image id {record.image_id}, annotation id {instance.annotation_id}, label {instance.label}"
        for record in records.images
        for instance in record.instances
        if not 0 <= instance.label < config.num_classes
    ]
    accepted = f"0 to {config.num_classes - 1}, as the model has {config.num_classes} classes"
    return beyond and f"{len(beyond)} labels are not among {accepted}: {_few(beyond)}"


def _too_small(records, config):
    found = network_boxes(records, config)
    smallest = min(config.anchor_scales)
    missed = (found.sides < smallest) & (best_ious(found, config) < MATCHED)
    if not len(missed) or missed.mean() <= FEW_MET:
        return None
    ids = dict.fromkeys(found.image_ids[missed].tolist())
    return (
        f"{missed.sum()} of {len(missed)} objects ({missed.mean():.0%}) are too small for the smallest "
        f"anchor, {smallest:g} pixels (half of them under {np.median(found.sides[missed]):.1f}): raise "
        "min_size, or take the anchors that `kmaskrcnn advise-anchors` proposes; "
        f"image ids {_few(list(ids))}"
    )


def _too_many(records, config):
    limit = config.max_detections
    ids = [record.image_id for record in records.images if len(record.instances) > limit]
    return ids and (
        f"{len(ids)} pictures have more objects than max_detections, {limit}: image ids {_few(ids)}"
    )


def _few(items):
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(map(str, items[:SHOWN])) + more
