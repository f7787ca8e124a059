"""One list of objects from several of the same picture: of its tiles, or of its views."""

import dataclasses

import numpy as np

COVERED = 0.5  # share of a cut box that a better box must cover to replace it


def join_detections(parts, size):
    """One `Detections` of several of one model, one after the other.

    Args:
        parts: `Detections`, one or more.
        size: `(height, width)` of the picture that all of them speak of.
    """
    first = parts[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("boxes", "labels", "scores", "masks", "keypoints")
        if getattr(first, name) is not None
    }
    return dataclasses.replace(first, **arrays, image_size=size)


def suppress_detections(detections, iou_threshold, cut=None):
    """Non-maximum suppression within each class.

    Args:
        detections: `Detections`, the better ones first.
        iou_threshold: a box goes if its IoU with a kept one of its class before it is greater.
        cut: `(N,)` bool, boxes that may be parts of objects: they go also where a kept one covers half of them, since
            a part overlaps little with the whole.

    Returns:
        `(N,)` bool, whether each box stays.
    """
    boxes, keep = detections.boxes.astype(np.float64), np.zeros(len(detections), bool)
    cut = keep if cut is None else cut
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for i, box in enumerate(boxes):
        rivals = np.flatnonzero(keep[:i] & (detections.labels[:i] == detections.labels[i]))
        sides = np.minimum(boxes[rivals, 2:], box[2:]) - np.maximum(boxes[rivals, :2], box[:2])
        shared = np.prod(np.maximum(sides, 0), axis=1)
        union = areas[rivals] + areas[i] - shared
        covered = cut[i] & (shared > COVERED * areas[i])
        keep[i] = not np.any((shared > iou_threshold * union) | covered)
    return keep
