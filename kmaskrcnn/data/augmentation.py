"""What training may do to a picture and its objects: moved, turned, recoloured, covered, and pasted into each other.

    ImageRecord + pixels -> (one affine map, colours, holes, another picture's objects) -> ImageRecord + pixels

Everything is drawn from one generator a picture, so the same draw gives the same picture. Geometry goes through one
map: pixels are sampled once, polygons moved exactly, boxes taken from what is still to be seen.
"""

import dataclasses

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from kmaskrcnn.config import AugmentationConfig
from kmaskrcnn.geometry import affine
from kmaskrcnn.geometry.keypoints import mirror_order
from kmaskrcnn.geometry.resizing import resize_shape
from kmaskrcnn.geometry.segmentations import to_rle

# ImageNet's mean: what the picture does not reach looks to the network as padding does.
FILL = (124, 116, 104)
LEAST_SIDE = 1.0  # pixels: of what is less than this no box can be learnt
LEAST_SHOWN = 0.1  # share of an object that must be seen after another one is pasted over it


@dataclasses.dataclass(frozen=True)
class Move:
    """Where a picture goes: an affine map, the size of the result, and whether it is seen as in a mirror."""

    matrix: np.ndarray
    size: tuple
    mirrored: bool


class Augmentation:
    """Draws and applies what an `AugmentationConfig` allows.

    Args:
        config: `AugmentationConfig`.
        min_size, max_size: of the network image, see `resize_shape`; `config.min_sizes` takes the former's place.
        flip: probability of a mirror.
        flip_pairs: pairs of keypoints that a mirror swaps.
        resize_rule: see `geometry/resizing.py`.

    Call arguments:
        pixels: `(H, W, 3)` uint8 RGB.
        record: its `ImageRecord`.
        generator: `numpy.random.Generator`.
        other: a call without arguments that gives another picture's `(pixels, record)`, for copy-paste.

    Returns:
        `(pixels, record)` in the network image's pixels; objects that left the picture are gone.

    Reference:
        scale jitter and copy-paste: [Simple Copy-Paste](https://arxiv.org/abs/2012.07177), section 3; cutout:
        [Improved Regularization of Convolutional Neural Networks](https://arxiv.org/abs/1708.04552)
    """

    def __init__(
        self, config, min_size=800, max_size=1333, flip=0.5, flip_pairs=(), resize_rule="opencv"
    ):
        self.config, self.flip, self.flip_pairs = config, flip, tuple(flip_pairs)
        self.min_size, self.max_size, self.resize_rule = min_size, max_size, resize_rule

    def __call__(self, pixels, record, generator, other=None):
        c = self.config
        move = self.draw_move((record.height, record.width), generator)
        pixels, record = self.apply_move(pixels, record, move)
        if other is not None and generator.random() < c.copy_paste:
            pasted = other()
            move = self.draw_move(pasted[0].shape[:2], generator)
            pixels, record = paste(
                pixels, record, *self.apply_move(*pasted, move, size=move.size), generator
            )
        pixels = recolour(pixels, c, generator)
        return cut_out(pixels, c.cutout, generator), record

    def draw_move(self, size, generator):
        """A map for a picture of `(height, width)`: mirror, turn, scale, crop, in this order."""
        c, (height, width) = self.config, size
        min_size = int(generator.choice(c.min_sizes)) if c.min_sizes else self.min_size
        base = resize_shape(height, width, min_size, self.max_size, self.resize_rule)
        factor = generator.uniform(*c.scale_jitter)
        scaled = [max(1, round(side * factor)) for side in base]
        canvas = tuple(min(pair) for pair in zip(base, scaled))
        mirrored = bool(generator.random() < self.flip)
        top, left = (generator.integers(s - c + 1) for s, c in zip(scaled, canvas))
        matrix = affine.mirror(width) if mirrored else np.eye(3)
        if c.vertical_flip and generator.random() < c.vertical_flip:
            # What is seen from behind has its left and right swapped; half a turn swaps nothing.
            matrix, mirrored = affine.turn_over(height) @ matrix, not mirrored
        if c.rotation:
            angle = generator.uniform(-c.rotation, c.rotation)
            matrix = affine.rotation(angle, (width / 2, height / 2)) @ matrix
        matrix = affine.scaling(scaled[1] / width, scaled[0] / height) @ matrix
        return Move(affine.translation(-left, -top) @ matrix, canvas, mirrored)

    def apply_move(self, pixels, record, move, size=None):
        """A picture and its objects, moved."""
        size = size or move.size
        moved = affine.move_pixels(pixels, move.matrix, size, FILL)
        instances = (self._move_instance(i, record, move, size) for i in record.instances)
        instances = tuple(instance for instance in instances if instance is not None)
        return moved, dataclasses.replace(
            record, height=size[0], width=size[1], instances=instances
        )

    def _move_instance(self, instance, record, move, size):
        """An object, moved; `None` where no pixel of it is left."""
        source = record.height, record.width
        if instance.segmentation is None:
            segmentation, box = None, affine.move_box(instance.box, move.matrix, size)
        else:
            segmentation = affine.move_segmentation(
                instance.segmentation, move.matrix, size, source
            )
            box = segmentation and affine.segmentation_box(segmentation)
        if not box or min(box[2] - box[0], box[3] - box[1]) < LEAST_SIDE:
            return None
        area = instance.area * abs(np.linalg.det(move.matrix[:2, :2]))
        return dataclasses.replace(
            instance,
            box=box,
            segmentation=segmentation,
            area=area,
            keypoints=self._move_keypoints(instance.keypoints, move, size),
        )

    def _move_keypoints(self, keypoints, move, size):
        """COCO's keypoints, moved; those that left the picture are no longer labelled."""
        if keypoints is None:
            return None
        points = np.array(keypoints, np.float64)
        # COCO's keypoints are numbers of pixels: a pixel's centre lies half a pixel on.
        points[:, :2] = affine.move_points(points[:, :2] + 0.5, move.matrix)
        inside = (points[:, :2] >= 0).all(axis=1) & (points[:, :2] < size[::-1]).all(axis=1)
        points[:, :2] -= 0.5
        points = np.where((inside & (points[:, 2] > 0))[:, None], points, 0.0)
        if move.mirrored:
            points = points[mirror_order(len(points), self.flip_pairs)]
        return tuple(map(tuple, points.tolist()))


def recolour(pixels, config: AugmentationConfig, generator):
    """Brightness, contrast, saturation and hue, each drawn from `1 - x ... 1 + x` (hue: turns, `-x ... x`).

    Not Keras's preprocessing layers: their draws depend on the order of threads, these on the generator alone.
    """
    strengths = config.brightness, config.contrast, config.saturation
    brightness, contrast, saturation = (generator.uniform(1 - x, 1 + x) for x in strengths)
    hue = generator.uniform(-config.hue, config.hue)
    if not any((*strengths, config.hue)):
        return pixels
    values = pixels.astype(np.float32) * brightness
    mean = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY).mean()
    values = (values - mean) * contrast + mean
    grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
    values = (values - grey) * saturation + grey
    if config.hue:
        hsv = cv2.cvtColor(values.clip(0, 255) / 255, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0] + hue * 360) % 360
        values = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB) * 255
    return np.round(values.clip(0, 255)).astype(np.uint8)


def cut_out(pixels, count, generator):
    """Cover up to `count` rectangles, each with sides of a twentieth to a fifth of the picture's.

    Objects stay as they are labelled: the network learns to see them by their other parts.
    """
    pixels = pixels.copy() if count else pixels
    for _ in range(generator.integers(count + 1) if count else 0):
        sides = [max(1, int(side * generator.uniform(0.05, 0.2))) for side in pixels.shape[:2]]
        top, left = (generator.integers(p - s + 1) for p, s in zip(pixels.shape, sides))
        pixels[top : top + sides[0], left : left + sides[1]] = FILL
    return pixels


def paste(pixels, record, other_pixels, other, generator):
    """Put some objects of another picture into this one; what they cover is taken off the masks beneath.

    Args:
        pixels, record: the picture that stays; its objects need segmentations to be covered rightly.
        other_pixels, other: of any size; cut or placed at the upper left.
        generator: chooses each object with probability 1/2.

    Returns:
        `(pixels, record)`.
    """
    size = record.height, record.width
    here = np.eye(3)
    chosen = []
    for instance in other.instances:
        if instance.is_crowd or instance.segmentation is None or generator.random() < 0.5:
            continue
        cut = affine.move_segmentation(
            instance.segmentation, here, size, (other.height, other.width)
        )
        box = cut and affine.segmentation_box(cut)
        if box and min(box[2] - box[0], box[3] - box[1]) >= LEAST_SIDE:
            chosen.append(dataclasses.replace(instance, segmentation=cut, box=box))
    if not chosen:
        return pixels, record
    covered = coco_mask.merge([to_rle(i.segmentation, *size) for i in chosen])
    over = coco_mask.decode(covered).astype(bool)
    canvas = affine.move_pixels(other_pixels, here, size)
    shown = [_uncovered(instance, over, size) for instance in record.instances]
    instances = (*(i for i in shown if i is not None), *chosen)
    return np.where(over[..., None], canvas, pixels), dataclasses.replace(
        record, instances=instances
    )


def _uncovered(instance, over, size):
    """What of an object still shows; `None` where next to nothing does."""
    if instance.segmentation is None:
        return instance
    mask = coco_mask.decode(to_rle(instance.segmentation, *size)).astype(bool)
    left = mask & ~over
    if left.sum() == mask.sum():
        return instance
    if left.sum() < max(1, LEAST_SHOWN * mask.sum()):
        return None
    rle = coco_mask.encode(np.asfortranarray(left.astype(np.uint8)))
    return dataclasses.replace(
        instance,
        segmentation=rle,
        box=affine.segmentation_box(rle),
        area=float(left.sum()),
        keypoints=_hidden(instance.keypoints, over),
    )


def _hidden(keypoints, over):
    """Keypoints under what was pasted are labelled, but no longer visible."""
    if keypoints is None:
        return None
    height, width = over.shape

    def after(x, y, visibility):
        row, column = min(int(y + 0.5), height - 1), min(int(x + 0.5), width - 1)
        return x, y, min(visibility, 1.0) if over[row, column] else visibility

    return tuple(after(*point) for point in keypoints)
