"""Polygons of shapes that annotation tools know, as flat lists `[x0, y0, x1, y1, ...]`."""

import math

import numpy as np

SAGITTA = 0.02  # pixels that a side may cut off its arc
FEWEST, MOST = 16, 4096  # points of a curve


def rectangle(x1, y1, x2, y2):
    """The four corners."""
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def circle(x, y, radius):
    """As many points as keep it within 0.02 pixels of the true curve."""
    return ellipse(x, y, radius, radius)


def ellipse(x, y, radius_x, radius_y, angle=0.0):
    """As `circle`, turned by `angle` radians from the x axis towards the y axis."""
    radius = max(radius_x, radius_y)
    step = math.acos(max(1 - SAGITTA / radius, -1))
    count = min(max(math.ceil(math.pi / step), FEWEST), MOST) if step else MOST
    turn = np.arange(count) * (2 * math.pi / count)
    along, across = radius_x * np.cos(turn), radius_y * np.sin(turn)
    cos, sin = math.cos(angle), math.sin(angle)
    points = np.stack([x + along * cos - across * sin, y + along * sin + across * cos], axis=1)
    return points.ravel().tolist()
