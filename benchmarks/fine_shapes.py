"""Made-up shapes with fine outlines, and made-up persons with keypoints, for `benchmarks/ablations.py`.

Thin parts are where a region that was rounded to whole cells shows: half a cell off is another mask.
"""

import numpy as np

from kmaskrcnn.data.shapes import Outline, regular_polygon

LIMB = 0.09  # half the width of a person's limb, in heights of half a person
KEYPOINT_NAMES = ("head", "left_hand", "right_hand", "left_foot", "right_foot")


def _box(x1, y1, x2, y2):
    return np.array([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], float)


def _bar(start, end, half_width):
    """The four corners of a thick line."""
    along = np.subtract(end, start) / np.linalg.norm(np.subtract(end, start))
    across = half_width * np.array([-along[1], along[0]])
    return np.stack([start + across, end + across, end - across, start - across])


def _arc(centre, radius, first, last, steps=40):
    angles = np.linspace(first, last, steps)
    return np.stack([centre + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def star(generator):
    """Five spikes."""
    return Outline((regular_polygon(10, (1.0, 0.45)),))


def ring(generator):
    """A circle with a large round hole."""
    return Outline((regular_polygon(64),), (regular_polygon(64, (0.55,)),))


def frame(generator):
    """A square with a large square hole."""
    return Outline((regular_polygon(4),), (regular_polygon(4, (0.5,)),))


def crescent(generator):
    """A circle of radius 1 without the one of radius 0.9 at x = 0.45; they meet at x = 0.436, y = +-0.9."""
    outer, inner = np.arctan2(0.9, 0.436), np.arctan2(0.9, 0.436 - 0.45)
    arcs = _arc(0.0, 1.0, outer, 2 * np.pi - outer), _arc(0.45, 0.9, 2 * np.pi - inner, inner)
    return Outline((np.concatenate(arcs),))


def comb(generator):
    """A bar with three teeth."""
    teeth = [_box(x, -0.1, x + 0.3, 0.6) for x in (-0.8, -0.15, 0.5)]
    return Outline((_box(-0.8, -0.5, 0.8, -0.1), *teeth))


def cross(generator):
    """Two bars."""
    return Outline((_box(-1.0, -0.22, 1.0, 0.22), _box(-0.22, -1.0, 0.22, 1.0)))


def person(generator):
    """A stick figure seen from the front, arms and legs at angles by chance."""
    neck, hips = np.array([0.0, -0.45]), np.array([0.0, 0.25])
    arms = generator.uniform(-0.9, 1.1, 2)  # radians below the horizontal
    legs = generator.uniform(0.1, 0.8, 2)  # radians from straight down
    sides = np.array([1.0, -1.0])  # a person who faces us has the left hand at our right
    hands = neck + 0.7 * np.stack([sides * np.cos(arms), np.sin(arms)], axis=1)
    feet = hips + 0.75 * np.stack([sides * np.sin(legs), np.cos(legs)], axis=1)
    limbs = [_bar(neck, hand, LIMB) for hand in hands] + [_bar(hips, foot, LIMB) for foot in feet]
    head = np.array([[0.0, -0.75]])
    parts = regular_polygon(24, (0.22,)) + head, _bar((0.0, -0.6), hips, 0.13), *limbs
    points = np.concatenate([head, hands, feet])
    return Outline(parts, keypoints=points, turn=0.08)


FINE_SHAPES = {draw.__name__: draw for draw in (star, ring, frame, crescent, comb, cross)}
PERSONS = {"person": person}
