"""From overlaps of detections with objects to precision and recall, by COCO's rules.

A class is matched picture by picture; the matches of all its pictures then make one curve for each threshold
of overlap and each area of objects.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PictureMatches:
    """What became of a picture's detections of one class, for A areas and T thresholds.

    Args:
        scores: `(D,)` float, falling.
        matched: `(A, T, D)` bool, whether a detection found an object.
        on_ignored: `(A, T, D)` bool, whether it counts as nothing.
        objects: `(A,)` int, how many objects count.
    """

    scores: np.ndarray
    matched: np.ndarray
    on_ignored: np.ndarray
    objects: np.ndarray

    @classmethod
    def of_nothing(cls, areas, thresholds):
        """A picture without objects and detections: a class may have no others."""
        none = np.zeros((areas, thresholds, 0), bool)
        return cls(np.zeros(0), none, none, np.zeros(areas, int))


def match_detections(overlaps, ignored, crowd, thresholds):
    """Match a picture's detections of one class to its objects, best score first.

    A detection takes the object that it overlaps most among those that are free and reach the
    threshold; objects that count come before those that are ignored. A crowd is never used up.

    Args:
        overlaps: `(D, G)` float, IoU of detections, in falling order of score, with objects.
        ignored: `(A, G)` bool, objects that do not count in an area.
        crowd: `(G,)` bool.
        thresholds: `(T,)` float, rising.

    Returns:
        `(matched, on_ignored)`, both `(A, T, D)` bool: whether a detection is matched, and whether
        to an object that does not count.

    Reference:
        COCO's `cocoeval.py`, `evaluateImg`.
    """
    shape = len(ignored), len(thresholds)
    matched, on_ignored = np.zeros((2, *shape, len(overlaps)), bool)
    near = overlaps >= thresholds[0]
    # Where neither has another, there is nothing to choose: most objects of most pictures, all at once.
    alone = near & (near.sum(axis=1, keepdims=True) == 1) & (near.sum(axis=0) == 1)
    detection, taken = np.nonzero(alone)
    hit = np.broadcast_to(overlaps[detection, taken] >= thresholds[:, None], (*shape, len(taken)))
    matched[..., detection] = hit
    on_ignored[..., detection] = hit & ignored[:, None, taken]
    contested = np.flatnonzero((near & ~alone).any(axis=1))
    if not contested.size:
        return matched, on_ignored
    free = np.ones((*shape, len(crowd)), bool)
    area, threshold = np.indices(shape)
    for detection in contested:
        rivals = np.flatnonzero(near[detection])
        overlap = overlaps[detection, rivals]
        allowed = (overlap >= thresholds[:, None]) & (free[..., rivals] | crowd[rivals])
        # Any object that counts comes before all that do not; of equals COCO takes the last.
        counted = np.where(ignored[:, None, rivals], overlap - 2, overlap)
        preference = np.where(allowed, counted, -np.inf)
        taken = rivals[len(rivals) - 1 - preference[..., ::-1].argmax(axis=-1)]
        hit = allowed.any(axis=-1)
        matched[..., detection] = hit
        on_ignored[..., detection] = hit & ignored[area, taken]
        free[area, threshold, taken] &= ~hit
    return matched, on_ignored


def precision_and_recall(pictures, limits, places):
    """The curves of one class over all its pictures.

    Args:
        pictures: list of `PictureMatches`, one at least.
        limits: L ints, detections of a picture that count.
        places: `(R,)` float, rising: values of recall at which precision is read.

    Returns:
        Precision `(T, R, A, L)`, at each place the best that is reached there or beyond, 0 where recall does
        not get; and recall `(T, A, L)` with all detections that count. Both -1 in areas without objects.

    Reference:
        COCO's `cocoeval.py`, `accumulate`.
    """
    objects = np.sum([picture.objects for picture in pictures], axis=0)
    scores = np.concatenate([picture.scores for picture in pictures])
    rank = np.concatenate([np.arange(len(picture.scores)) for picture in pictures])
    counts = ~np.concatenate([picture.on_ignored for picture in pictures], axis=2)
    right = np.concatenate([picture.matched for picture in pictures], axis=2) & counts
    order = np.argsort(-scores, kind="stable")
    areas, thresholds, _ = right.shape
    precision = np.full((thresholds, len(places), areas, len(limits)), -1.0)
    recall = np.full((thresholds, areas, len(limits)), -1.0)
    for column, limit in enumerate(limits):
        best = order[rank[order] < limit]
        for area in np.flatnonzero(objects):
            running = (np.cumsum(flags[area][:, best], axis=1) for flags in (right, counts))
            curve = _read_curve(*running, objects[area], places)
            precision[..., area, column], recall[:, area, column] = curve
    return precision, recall


def _read_curve(right, taken, objects, places):
    """Precision `(T, R)` and last recall `(T,)`, from running counts `(T, N)` of right detections and of all."""
    if not right.size:
        return np.zeros((len(right), len(places))), np.zeros(len(right))
    reached = right / objects
    share = right / np.maximum(taken, 1)
    best = np.maximum.accumulate(share[:, ::-1], axis=1)[:, ::-1]
    first = np.stack([np.searchsorted(row, places, side="left") for row in reached])
    best = np.pad(best, ((0, 0), (0, 1)))  # 0 beyond the last
    return np.take_along_axis(best, first, axis=1), reached[:, -1]
