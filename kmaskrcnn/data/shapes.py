"""A made-up dataset: textured, overlapping shapes on varied backgrounds, with exact masks.

Everything that trains on COCO trains on it, where nothing can be downloaded. Shapes are painted
from back to front; a mask is the part of a shape that is still seen in the end, pixel by pixel.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pycocotools import mask as coco_mask

EMPTY_SHARE = 0.05  # of the pictures, so that training without objects is met
RADII = (0.13, 0.28)  # of the picture's short side
LEAST_VISIBLE = 0.5  # share of a shape that those in front of it leave in sight
LEAST_CONTRAST = 90  # distance in RGB between a shape's colour and what lies behind it
SUPERSAMPLING = 4  # sub-pixels along each side; a pixel is the shape's where half of it is
TRIES = 30


class ShapesPaths(NamedTuple):
    """What `write_shapes` wrote: two jsons and the folders of their pictures."""

    train_json: Path
    train_images: Path
    validation_json: Path
    validation_images: Path


class Outline(NamedTuple):
    """One shape, within 1 of the origin until it is placed in a picture, in pixels from then on.

    Args:
        polygons: sequence of `(N, 2)` float xy; what any of them holds is the shape's, ...
        holes: ... but for what any of these holds.
        keypoints: `(P, 2)` float xy.
        turn: share of a whole turn, by less than which a scene turns it.
    """

    polygons: tuple
    holes: tuple = ()
    keypoints: np.ndarray = np.zeros((0, 2))
    turn: float = 1.0

    def moved(self, matrix, offset):
        """The shape with `points @ matrix + offset` in place of its points."""
        lists = ([points @ matrix + offset for points in part] for part in self[:2])
        return Outline(*lists, self.keypoints @ matrix + offset, self.turn)


def regular_polygon(corners, radii=(1.0,)):
    """`(corners, 2)` float xy around the origin, as far from it as `radii` says by turns."""
    angles = np.arange(corners) * 2 * np.pi / corners
    radii = np.resize(radii, corners)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]


def _drawn(corners, radii, generator):
    return Outline((regular_polygon(corners, radii),))


# Class name -> function that draws one such shape by chance; these always draw the same.
SHAPES = {
    "circle": functools.partial(_drawn, 64, (1.0,)),
    "square": functools.partial(_drawn, 4, (1.0,)),
    "triangle": functools.partial(_drawn, 3, (1.0,)),
    "star": functools.partial(_drawn, 10, (1.0, 0.45)),
}
CLASS_NAMES = tuple(SHAPES)


class Scene(NamedTuple):
    """A painted picture.

    Args:
        picture: `(height, width, 3)` uint8 RGB.
        labels: list of int, places among the names of the shapes.
        masks: list of `(height, width)` bool, what is seen of each shape; they are disjoint.
        keypoints: list of `(P, 2)` float xy, in pixels.
    """

    picture: np.ndarray
    labels: list
    masks: list
    keypoints: list


def write_shapes(
    directory,
    *,
    num_train=400,
    num_validation=80,
    image_size=(160, 160),
    max_objects=5,
    seed=0,
    shapes=None,
    radii=RADII,
    keypoint_names=(),
    keypoint_skeleton=(),
):
    """Writes PNG pictures and COCO jsons of made-up shapes; the same arguments give the same files.

    Args:
        directory: path of a folder, made if need be. It gets `train/`, `train.json`,
            `validation/` and `validation.json`.
        num_train: int, pictures to train on.
        num_validation: int, pictures to validate on.
        image_size: `(height, width)` in pixels, each an int or a range `(least, greatest)`.
        max_objects: int, the most shapes of a picture; about 1 picture in 20 has none.
        seed: int.
        shapes: dict of class name -> function of a `numpy.random.Generator` that draws an
            `Outline`; by default `SHAPES`.
        radii: the least and the greatest radius of a shape, as shares of the picture's short side.
        keypoint_names: P str, what the outlines' keypoints are called.
        keypoint_skeleton: pairs of ints from 0, places among the names that a line joins when drawn.

    Returns:
        `ShapesPaths`.

    Raises:
        ValueError: if a number of pictures is negative or a side is under 32 pixels.

    Example:
        >>> paths = write_shapes("demo/shapes")
        >>> records = load_coco(paths.train_json, paths.train_images)
    """
    sides = [(side, side) if isinstance(side, int) else tuple(side) for side in image_size]
    if min(num_train, num_validation) < 0 or max_objects < 1:
        raise ValueError(
            "num_train and num_validation must be 0 or more and max_objects 1 or more, "
            f"got {num_train}, {num_validation} and {max_objects}"
        )
    if any(low < 32 or high < low for low, high in sides):
        raise ValueError(f"image_size must be 32 pixels or more along each side, got {image_size}")
    shapes, paths = shapes or SHAPES, []
    for split, (name, count) in enumerate([("train", num_train), ("validation", num_validation)]):
        folder, json_path = Path(directory) / name, Path(directory) / f"{name}.json"
        folder.mkdir(parents=True, exist_ok=True)
        generators = (np.random.default_rng([seed, split, i]) for i in range(count))
        scenes = (_random_scene(g, sides, max_objects, shapes, radii) for g in generators)
        written = _write_scenes(scenes, folder)
        categories = _describe_categories(shapes, keypoint_names, keypoint_skeleton)
        json_path.write_text(json.dumps({**written, "categories": categories}))
        paths += [json_path, folder]
    return ShapesPaths(*paths)


def _random_scene(generator, sides, max_objects, shapes, radii):
    height, width = (int(generator.integers(low, high + 1)) for low, high in sides)
    empty = generator.random() < EMPTY_SHARE
    count = 0 if empty else int(generator.integers(1, max_objects + 1))
    return paint_scene(generator, height, width, count, shapes, radii)


def _write_scenes(scenes, folder):
    """Writes each scene's PNG; images and annotations of the COCO json of them all."""
    images, annotations = [], []
    for image_id, scene in enumerate(scenes, start=1):
        height, width = scene.picture.shape[:2]
        name = f"{image_id:06d}.png"
        cv2.imwrite(str(folder / name), scene.picture[..., ::-1])
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for label, mask, points in zip(scene.labels, scene.masks, scene.keypoints):
            entry = {"id": len(annotations) + 1, "image_id": image_id, "category_id": label + 1}
            entry |= {"iscrowd": 0, **_describe_mask(mask), **_describe_keypoints(points, mask)}
            annotations.append(entry)
    return {"images": images, "annotations": annotations}


def _describe_categories(shapes, keypoint_names, keypoint_skeleton):
    lines = [[start + 1, end + 1] for start, end in keypoint_skeleton]  # COCO counts from 1
    points = {"keypoints": list(keypoint_names), "skeleton": lines} if keypoint_names else {}
    return [{"id": i, "name": name, **points} for i, name in enumerate(shapes, start=1)]


def _describe_mask(mask):
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": int(mask.sum()),
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
    }


def _describe_keypoints(points, mask):
    """COCO's fields: visibility 2 where the shape is seen, 1 behind others, 0 off the picture."""
    if not len(points):
        return {}
    x, y = np.floor(points).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < mask.shape[1]) & (y < mask.shape[0])
    seen = mask[np.where(inside, y, 0), np.where(inside, x, 0)]
    # COCO's numbers of pixels: a pixel's centre lies half a pixel behind its number.
    triples = np.column_stack([points - 0.5, 1 + seen]) * inside[:, None]
    return {"keypoints": triples.ravel().tolist(), "num_keypoints": int(inside.sum())}


def paint_scene(generator, height, width, count, shapes=None, radii=RADII):
    """Paints up to `count` shapes, fewer where no place is found that hides no other too much.

    Args:
        generator: `numpy.random.Generator`.
        height: int, pixels.
        width: int, pixels.
        count: int.
        shapes, radii: as for `write_shapes`.

    Returns:
        `Scene`.
    """
    shapes = shapes or SHAPES
    picture = _texture(generator, height, width, generator.uniform(40, 215, 3))
    labels, masks, whole_areas, keypoints = [], [], [], []
    for _ in range(count):
        label = int(generator.integers(len(shapes)))
        draw = list(shapes.values())[label]
        outline, coverage = _place(generator, draw, radii, masks, whole_areas, (height, width))
        if outline is None:
            continue
        behind = picture[coverage >= 0.5].mean(axis=0)
        shape = _texture(generator, height, width, _contrasting_colour(generator, behind))
        picture += coverage[..., None] * (shape - picture)
        masks = [mask & (coverage < 0.5) for mask in masks] + [coverage >= 0.5]
        whole_areas.append(masks[-1].sum())
        labels.append(label)
        keypoints.append(outline.keypoints)
    picture += generator.normal(0, generator.uniform(1, 6), picture.shape)
    return Scene(picture.clip(0, 255).astype(np.uint8), labels, masks, keypoints)


def _place(generator, draw, radii, masks, whole_areas, size):
    """A shape where the others stay in sight and its coverage, or two `None`."""
    for _ in range(TRIES):
        outline = _outline(generator, draw, radii, *size)
        coverage = _coverage(outline, *size)
        visible = [(mask & (coverage < 0.5)).sum() for mask in masks]
        if all(left >= LEAST_VISIBLE * area for left, area in zip(visible, whole_areas)):
            return outline, coverage
    return None, None


def _outline(generator, draw, radii, height, width):
    """A turned, slightly stretched shape in pixels, mostly inside the picture."""
    outline = draw(generator)
    angle = generator.uniform(0, 2 * np.pi * outline.turn)
    radius = generator.uniform(*radii) * min(height, width)
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    matrix = turned * radius * generator.uniform(0.88, 1.12, 2)
    margin = 0.7 * radius
    return outline.moved(matrix, generator.uniform(margin, np.array([width, height]) - margin))


def _coverage(outline, height, width):
    """`(height, width)` float32, the share of each pixel inside the outline."""
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    for polygons, value in ((outline.polygons, 255), (outline.holes, 0)):
        for polygon in polygons:
            # OpenCV's coordinates are pixel centres, in units of 1 / 2**4.
            points = np.round((polygon * SUPERSAMPLING - 0.5) * 16).astype(np.int32)
            cv2.fillPoly(fine, [points], value, shift=4)
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA) / np.float32(255)


def _contrasting_colour(generator, behind):
    colours = generator.uniform(0, 255, (TRIES, 3))
    distances = np.linalg.norm(colours - behind, axis=1)
    return colours[np.argmax(distances >= LEAST_CONTRAST)]


def _texture(generator, height, width, colour):
    """`(height, width, 3)` float32 around a colour: two patterns, each in a tint of its own."""
    surface = np.broadcast_to(np.asarray(colour, np.float32), (height, width, 3)).copy()
    for pattern in generator.choice(PATTERNS, size=2, replace=False):
        tint = generator.uniform(8, 24) * generator.uniform(0.4, 1, 3)
        surface += pattern(generator, height, width)[..., None] * tint.astype(np.float32)
    return surface


def _waves(generator, height, width):
    """Two phases at right angles, `(height, width)` each, for stripes and checks."""
    angle, period = generator.uniform(0, np.pi), generator.uniform(6, 20)
    y, x = np.mgrid[:height, :width].astype(np.float32) * (2 * np.pi / period)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _stripes(generator, height, width):
    return np.sin(_waves(generator, height, width)[0])


def _checks(generator, height, width):
    along, across = _waves(generator, height, width)
    return np.sign(np.sin(along) * np.sin(across))


def _clouds(generator, height, width):
    cells = int(generator.integers(3, 12))
    coarse = generator.uniform(-1.5, 1.5, (cells, cells)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _slope(generator, height, width):
    down, right = generator.uniform(-1.5, 1.5, 2)
    y = np.linspace(-down, down, height, dtype=np.float32)[:, None]
    return y + np.linspace(-right, right, width, dtype=np.float32)


PATTERNS = (_stripes, _checks, _clouds, _slope)
