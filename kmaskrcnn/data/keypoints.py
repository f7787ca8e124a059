"""What the keypoints of a dataset are called, and which of them a mirror swaps."""

from dataclasses import dataclass

from kmaskrcnn.data.faults import Rejected

# A name on the left, the same name on the right.
SIDES = (("left", "right"), ("Left", "Right"))


@dataclass(frozen=True)
class KeypointNames:
    """The kinds of keypoints that objects have, K of them.

    Args:
        names: tuple of K str.
        skeleton: tuple of pairs of ints, places among the names that a line joins when drawn.
    """

    names: tuple
    skeleton: tuple = ()

    @property
    def flip_pairs(self):
        """Pairs of places whose names differ by left and right alone."""
        place = {name: i for i, name in enumerate(self.names)}
        pairs = [
            (i, place.get(name.replace(left, right)))
            for left, right in SIDES
            for i, name in enumerate(self.names)
            if left in name
        ]
        return tuple(pair for pair in pairs if pair[1] is not None)


def read_keypoint_names(categories):
    """The keypoints that a COCO json's categories name.

    Args:
        categories: the json's list; those without `keypoints` are left alone.

    Returns:
        `KeypointNames`, or `None` where no category names any or they name different ones: a model
        has one set of keypoints for all its classes.

    Raises:
        Rejected: `keypoints` is no list of different names, or `skeleton` no list of pairs of
            numbers from 1 to K.
    """
    known = {
        _read(category)
        for category in categories
        if isinstance(category, dict) and category.get("keypoints")
    }
    return known.pop() if len(known) == 1 else None


def _read(category):
    names, lines = category["keypoints"], category.get("skeleton") or []
    is_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not is_names or len(set(names)) < len(names):
        raise Rejected("bad keypoints", f"'keypoints' must be different names, got {names!r}")
    places = range(1, len(names) + 1)  # COCO counts from 1
    is_lines = isinstance(lines, list) and all(
        isinstance(line, list) and len(line) == 2 and all(end in places for end in line)
        for line in lines
    )
    if not is_lines:
        accepted = f"pairs of numbers from 1 to {len(names)}"
        raise Rejected("bad keypoints", f"'skeleton' must be {accepted}, got {lines!r}")
    return KeypointNames(tuple(names), tuple((start - 1, end - 1) for start, end in lines))
