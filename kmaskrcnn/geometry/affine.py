"""Affine maps of the plane, and what they do to pixels, points, boxes and segmentations.

A map is a `(3, 3)` float64 matrix that takes columns (x, y, 1) in continuous pixels, where pixel i spans [i, i + 1).
Maps compose as matrices do: `crop @ scale @ turn` turns first.
"""

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from kmaskrcnn.geometry.segmentations import to_rle

LEAST_AREA = 1e-3  # square pixels: what of a polygon is less is a line along the picture's edge


def translation(x, y):
    """Moves by `x` and `y` pixels."""
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def scaling(x, y):
    """Multiplies coordinates by `x` and `y`."""
    return np.diag([x, y, 1.0])


def mirror(width):
    """Swaps left and right in a picture of this width."""
    return np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]])


def turn_over(height):
    """Swaps top and bottom in a picture of this height."""
    return np.array([[1.0, 0, 0], [0, -1, height], [0, 0, 1]])


def rotation(degrees, centre):
    """Turns about `centre`, `(x, y)`; counter-clockwise as one sees the picture."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    # y points down, so this sign turns to the left.
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    return translation(*centre) @ turn @ translation(-centre[0], -centre[1])


def move_points(points, matrix):
    """`(N, 2)` points, moved."""
    return np.asarray(points, np.float64) @ matrix[:2, :2].T + matrix[:2, 2]


def move_pixels(pixels, matrix, size, fill=0, smooth=True):
    """A picture, moved.

    Args:
        pixels: `(H, W, C)` or `(H, W)` uint8.
        matrix: `(3, 3)`, from the picture to the result.
        size: `(height, width)` of the result.
        fill: what stands where the picture does not reach; a number, or one a channel.
        smooth: bilinear instead of the nearest pixel.

    Returns:
        `(height, width, C)` or `(height, width)` uint8.
    """
    # OpenCV's coordinates are numbers of pixels: their centres are whole.
    shifted = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    flags = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    # The picture's edge does not blend with what is beyond it: that is put there afterwards.
    moved = cv2.warpAffine(
        pixels, shifted[:2], size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    reached = cv2.warpAffine(
        np.ones(pixels.shape[:2], np.uint8), shifted[:2], size[::-1], flags=cv2.INTER_NEAREST
    )
    moved[reached == 0] = fill
    return moved


def clip_polygon(points, size):
    """The part of a polygon that lies in a picture (Sutherland and Hodgman, 1974).

    Args:
        points: `(N, 2)` x, y.
        size: `(height, width)`.

    Returns:
        `(M, 2)`; M is 0 where nothing is left. Parts that the clipping separates stay joined along the picture's edge.
    """
    for axis, limit in ((0, size[1]), (1, size[0])):
        points = _clip_below(points, axis, 0.0, 1.0)
        points = _clip_below(points, axis, float(limit), -1.0)
    return points


def _clip_below(points, axis, bound, sign):
    """What of a polygon lies on the side of a line where `sign * (coordinate - bound) >= 0`."""
    kept = []
    for previous, point in zip(np.roll(points, 1, axis=0), points):
        before, after = sign * (previous[axis] - bound), sign * (point[axis] - bound)
        if (before < 0) != (after < 0):
            kept.append(previous + (point - previous) * before / (before - after))
        if after >= 0:
            kept.append(point)
    return np.array(kept).reshape(-1, 2)


def move_segmentation(segmentation, matrix, size, source_size):
    """A COCO segmentation, moved and cut to the result's size.

    Args:
        segmentation: list of polygons, or an RLE `dict`.
        matrix: `(3, 3)`.
        size: `(height, width)` of the result.
        source_size: `(height, width)` of the picture it belongs to.

    Returns:
        List of polygons, or a compressed RLE; `None` where nothing is left.
    """
    if isinstance(segmentation, dict):
        mask = coco_mask.decode(to_rle(segmentation, *source_size))
        moved = move_pixels(mask, matrix, size, smooth=False)
        return coco_mask.encode(np.asfortranarray(moved)) if moved.any() else None
    moved = [move_points(np.reshape(polygon, (-1, 2)), matrix) for polygon in segmentation]
    clipped = [clip_polygon(points, size) for points in moved]
    return [points.ravel().tolist() for points in clipped if _area(points) > LEAST_AREA] or None


def _area(points):
    if len(points) < 3:
        return 0.0
    x, y = points.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def segmentation_box(segmentation):
    """The least box around a segmentation.

    Args:
        segmentation: list of polygons, or an RLE `dict` that is not empty.

    Returns:
        `(x1, y1, x2, y2)` floats.
    """
    if isinstance(segmentation, dict):
        x, y, width, height = coco_mask.toBbox(to_rle(segmentation, *segmentation["size"]))
        return float(x), float(y), float(x + width), float(y + height)
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())


def move_box(box, matrix, size):
    """The least box around a moved box, cut to the result; `None` where nothing is left."""
    x1, y1, x2, y2 = box
    corners = move_points([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], matrix)
    low = corners.min(axis=0).clip(0, size[::-1])
    high = corners.max(axis=0).clip(0, size[::-1])
    return (*low.tolist(), *high.tolist()) if (high > low).all() else None
