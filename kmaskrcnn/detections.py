"""The result that a user holds: everything found in one picture, in that picture's own pixels.

N detections, best first as the model gives them; K keypoints; M x M mask cells in a box's frame
"""

import dataclasses

import numpy as np
from pycocotools import mask as coco_mask

from kmaskrcnn.geometry.masks import masks_to_rles, paste_masks


@dataclasses.dataclass(frozen=True, eq=False)
class Detections:
    """Objects found in one picture, checked when they are made.

    Args:
        boxes: `(N, 4)` float32, xyxy in the original picture's pixels.
        labels: `(N,)` int32, 0 .. number of classes - 1.
        scores: `(N,)` float32 in [0, 1].
        image_size: `(height, width)` of the original picture.
        masks: `(N, M, M)` float32 probabilities in the boxes' frames, or None. `full_masks` and
            `rles` bring them into the picture.
        keypoints: `(N, K, 3)` float32, x, y and score or visibility in the original picture's
            pixels, or None.
        class_names: names by label; empty where they are not known.
        paste_rule: how masks come into the picture, see `geometry.masks.paste_windows`.
        keypoint_skeleton: pairs of keypoints that a line joins when drawn.
        keypoint_rule: of the model's configuration: `"torchvision"` where a pixel's centre has its number for its
            coordinate, as in COCO's json, `"window"` where it lies half a pixel further.

    Raises:
        ValueError: a field has a wrong shape or values that mean nothing. The error names the
            field.

    Example:
        >>> found = Detections([[0, 0, 9, 9]], [1], [0.9], (20, 30), class_names=("cat", "dog"))
        >>> found.names
        ['dog']
        >>> len(found.filter(min_score=0.95))
        0
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    image_size: tuple
    masks: np.ndarray | None = None
    keypoints: np.ndarray | None = None
    class_names: tuple = ()
    paste_rule: str = "half_pixel"
    keypoint_skeleton: tuple = ()
    keypoint_rule: str = "window"

    def __post_init__(self):
        for name in _ARRAYS:
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _as_array(name, getattr(self, name)))
        object.__setattr__(self, "image_size", _as_size(self.image_size))
        object.__setattr__(self, "class_names", tuple(self.class_names))
        lines = tuple(tuple(int(end) for end in line) for line in self.keypoint_skeleton)
        object.__setattr__(self, "keypoint_skeleton", lines)
        self._check_counts()
        self._check_values()

    def __len__(self):
        return len(self.scores)

    def __getitem__(self, which):
        """Part of the detections.

        Args:
            which: a slice, a `(N,)` bool array, an array of indices, or one index (which gives one
                detection).

        Returns:
            `Detections`.

        Raises:
            IndexError: an index lies outside 0 .. N - 1.
        """
        if isinstance(which, (int, np.integer)):
            which = [which]
        elif not isinstance(which, slice):
            which = np.asarray(which)
            which = which.astype(int) if which.size == 0 else which
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        parts = {name: array[which] for name, array in arrays.items() if array is not None}
        return dataclasses.replace(self, **parts)

    @property
    def names(self):
        """The class name of each detection; the label as text where names are not known."""
        return [
            self.class_names[label] if self.class_names else str(label) for label in self.labels
        ]

    def filter(self, min_score=None, labels=None, names=None):
        """Keep what fulfils every condition given.

        Args:
            min_score: the lowest score to keep.
            labels: labels to keep.
            names: class names to keep.

        Returns:
            `Detections`, in the same order.

        Raises:
            ValueError: a name is not among `class_names`.
        """
        keep = np.ones(len(self), bool)
        if min_score is not None:
            keep &= self.scores >= min_score
        if labels is not None:
            keep &= np.isin(self.labels, list(labels))
        if names is not None:
            unknown = sorted(set(names) - set(self.class_names))
            if unknown:
                raise ValueError(
                    f"names: {unknown} not among the class names {list(self.class_names)}."
                )
            keep &= np.isin(self.labels, [self.class_names.index(name) for name in names])
        return self[keep]

    def full_masks(self, threshold=0.5):
        """Masks of the whole picture, `(N, height, width)` bool: `geometry.masks.paste_masks`."""
        return paste_masks(self._masks(), self.boxes, self.image_size, threshold, self.paste_rule)

    def rles(self, threshold=0.5):
        """Masks of the whole picture as N COCO RLEs: `geometry.masks.masks_to_rles`."""
        return masks_to_rles(self._masks(), self.boxes, self.image_size, threshold, self.paste_rule)

    def to_coco(self, image_id, category_ids=None):
        """COCO results, ready for json.

        Args:
            image_id: the picture's id.
            category_ids: COCO's category id by label; label + 1 where not given.

        Returns:
            A list of N dicts: `image_id`, `category_id`, `bbox` as `[x, y, width, height]`, `area`,
            `score`, with masks `segmentation` (RLE; `area` is then the mask's) and with keypoints
            `keypoints` (3 K numbers, in COCO's count, where a pixel's centre is its number).
        """
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        labels = self.labels.tolist()
        ids = [label + 1 if category_ids is None else int(category_ids[label]) for label in labels]
        boxes = np.concatenate([self.boxes[:, :2], sizes], axis=1).tolist()
        results = [
            {
                "image_id": int(image_id),
                "category_id": category_id,
                "bbox": box,
                "area": area,
                "score": score,
            }
            for category_id, box, area, score in zip(
                ids, boxes, sizes.prod(axis=1).tolist(), self.scores.tolist()
            )
        ]
        if self.masks is not None:
            for result, rle in zip(results, self.rles()):
                result.update(segmentation=rle, area=float(coco_mask.area(rle)))
        if self.keypoints is not None:
            centre = 0.0 if self.keypoint_rule == "torchvision" else 0.5
            for result, points in zip(results, self.keypoints):
                result["keypoints"] = (points - [centre, centre, 0]).ravel().tolist()
        return results

    def to_dict(self):
        """Everything as lists and numbers, ready for json; `from_dict` is its inverse."""
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        lists = {name: None if array is None else array.tolist() for name, array in arrays.items()}
        return lists | {
            "image_size": list(self.image_size),
            "class_names": list(self.class_names),
            "paste_rule": self.paste_rule,
            "keypoint_skeleton": [list(line) for line in self.keypoint_skeleton],
            "keypoint_rule": self.keypoint_rule,
        }

    @classmethod
    def from_dict(cls, values):
        """`Detections` from what `to_dict` gave.

        Raises:
            ValueError: a key is missing or unknown, or a value is refused by the class.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        wrong = sorted(fields ^ set(values))
        if wrong:
            raise ValueError(
                f"a dict of detections has the keys {sorted(fields)}; missing or unknown: {wrong}."
            )
        return cls(**values)

    @classmethod
    def from_outputs(
        cls,
        outputs,
        index,
        image_size,
        original_size,
        class_names=(),
        paste_rule="half_pixel",
        keypoint_skeleton=(),
        keypoint_rule="window",
    ):
        """One picture of what `model.predict` returns.

        Args:
            outputs: dict of batch arrays: `boxes (B, D, 4)` in the network image's pixels,
                `labels (B, D)` (-1 pads), `scores (B, D)`, `num_detections (B,)`, optionally
                `masks (B, D, M, M)` and `keypoints (B, D, K, 3)`.
            index: the picture's place in the batch.
            image_size: `(height, width)` of the part of the network image that is picture.
            original_size: `(height, width)` of the picture before it was resized.
            class_names: names by label.
            paste_rule, keypoint_skeleton, keypoint_rule: of the model's configuration.

        Returns:
            `Detections` in the original picture's pixels, boxes clipped to it.
        """
        count = int(outputs["num_detections"][index])
        rows = {
            name: np.asarray(outputs[name][index])[:count] for name in _ARRAYS if name in outputs
        }
        height, width = (float(size) for size in original_size)
        scale = np.array([width / float(image_size[1]), height / float(image_size[0])])
        boxes = rows.pop("boxes").astype(np.float64) * np.tile(scale, 2)
        if "keypoints" in rows:
            rows["keypoints"] = rows["keypoints"] * np.array([*scale, 1])
        return cls(
            boxes=np.clip(boxes, 0, [width, height, width, height]),
            image_size=original_size,
            class_names=class_names,
            paste_rule=paste_rule,
            keypoint_skeleton=keypoint_skeleton,
            keypoint_rule=keypoint_rule,
            **rows,
        )

    def _masks(self):
        if self.masks is None:
            raise ValueError(
                "masks: these detections have none; the model was built with `with_mask=False`."
            )
        return self.masks

    def _check_counts(self):
        for name in _ARRAYS:
            array = getattr(self, name)
            if array is not None and len(array) != len(self.scores):
                raise ValueError(
                    f"{name}: {len(self.scores)} wanted, one a score, got {len(array)}."
                )

    def _check_values(self):
        x1, y1, x2, y2 = self.boxes.T
        if not np.all((x1 <= x2) & (y1 <= y2)):
            row = int(np.argmin((x1 <= x2) & (y1 <= y2)))
            raise ValueError(
                f"boxes: x1 <= x2 and y1 <= y2 wanted, got {self.boxes[row].tolist()} in row {row}."
            )
        if np.any((self.scores < 0) | (self.scores > 1)):
            raise ValueError(
                f"scores: 0 .. 1 wanted, got {self.scores.min()} .. {self.scores.max()}."
            )
        highest = len(self.class_names) - 1 if self.class_names else np.iinfo(np.int32).max
        if np.any((self.labels < 0) | (self.labels > highest)):
            raise ValueError(
                f"labels: 0 .. {highest} wanted, got {self.labels.min()} .. {self.labels.max()} "
                f"for class names {list(self.class_names)}."
            )


# name: (dtype, shape behind N; None is any size)
_ARRAYS = {
    "boxes": (np.float32, (4,)),
    "labels": (np.int32, ()),
    "scores": (np.float32, ()),
    "masks": (np.float32, (None, None)),
    "keypoints": (np.float32, (None, 3)),
}


def _as_array(name, values):
    """A field as an array of finite numbers; an empty list gets its shape from the field."""
    dtype, shape = _ARRAYS[name]
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: an array of numbers wanted, got {values!r}.") from error
    if array.shape == (0,):
        array = array.reshape(0, *(size or 0 for size in shape))
    fits = array.ndim == 1 + len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, array.shape[1:])
    )
    if not fits:
        wanted = ", ".join(["N", *(str(size or "any") for size in shape)])
        raise ValueError(f"{name}: shape ({wanted}) wanted, got {array.shape}.")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name}: finite numbers wanted, got {array[~np.isfinite(array)][0]}.")
    if dtype is np.int32 and np.any(array != np.trunc(array)):
        raise ValueError(f"{name}: whole numbers wanted, got {array.tolist()}.")
    return array.astype(dtype)


def _as_size(size):
    """`(height, width)` as two positive ints."""
    values = np.asarray(size)
    if values.shape != (2,) or values.dtype.kind not in "iu" or np.any(values < 1):
        raise ValueError(
            f"image_size: (height, width) as two positive whole numbers wanted, got {size!r}."
        )
    return int(values[0]), int(values[1])
