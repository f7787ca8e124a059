"""How much detections and objects of one picture are the same, by COCO's measures."""

import numpy as np
from pycocotools import mask as coco_mask


def box_overlaps(found, truth, crowd):
    """IoU of boxes; of a box with a crowd, the share of the box that lies in it.

    Args:
        found: `(D, 4)` boxes, `[x, y, width, height]`.
        truth: `(G, 4)` boxes.
        crowd: `(G,)` bool.

    Returns:
        `(D, G)` float.
    """
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    return coco_mask.iou(np.array(found, float), np.array(truth, float), np.array(crowd, np.uint8))


def mask_overlaps(found, truth, crowd):
    """IoU of masks, compressed RLEs; otherwise as `box_overlaps`."""
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    return coco_mask.iou(list(found), list(truth), np.array(crowd, np.uint8))


def keypoint_similarity(found, truth, sigmas):
    """Object keypoint similarity (OKS): how near keypoints are, in the object's size.

    Args:
        found: D flat lists `x, y, score` of K keypoints in turn.
        truth: G objects, each `(keypoints, box, area)`: a flat list `x, y, visibility`, of which
            visibility 0 is not labelled; `[x, y, width, height]`; pixels.
        sigmas: `(K,)` the spread of each keypoint in object sizes.

    Returns:
        `(D, G)` float. An object without labelled keypoints is compared by how far detections lie outside
        twice its box.

    Raises:
        ValueError: the numbers of keypoints are not that of the sigmas.

    Reference:
        COCO's `cocoeval.py`, `computeOks`.
    """
    found = _points("results", found, sigmas)
    points = _points("objects of the ground truth", [own for own, _, _ in truth], sigmas)
    boxes = np.array([box for _, box, _ in truth], float).reshape(-1, 1, 4)
    areas = np.array([area for _, _, area in truth], float) + np.spacing(1)
    labelled = points[..., 2] > 0
    bare = ~labelled.any(axis=1, keepdims=True)
    place = found[:, None, :, :2]
    corner, side = boxes[..., :2], boxes[..., 2:]
    outside = np.maximum(corner - side - place, 0) + np.maximum(place - (corner + 2 * side), 0)
    distance = np.where(bare[..., None], outside, place - points[..., :2])
    spread = 2 * (2 * np.asarray(sigmas, float)) ** 2
    near = np.exp(-(distance**2).sum(axis=-1) / spread / areas[:, None])
    asked = labelled | bare
    return (near * asked).sum(axis=-1) / asked.sum(axis=-1)


def _points(name, values, sigmas):
    """`(N, K, 3)`, from flat lists."""
    wrong = [len(own) for own in values if len(own) != 3 * len(sigmas)]
    if wrong:
        raise ValueError(
            f"keypoints: {name} have {wrong[0] / 3:g} of them, and there are {len(sigmas)} sigmas, "
            "which are one of each (by default COCO's 17 of a person)."
        )
    return np.array(values, float).reshape(len(values), len(sigmas), 3)
