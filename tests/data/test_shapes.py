"""Made-up pictures: real files, exact and disjoint masks, all classes, the same each time."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from kmaskrcnn.data.check import inspect_dataset
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.data.shapes import (
    CLASS_NAMES,
    LEAST_VISIBLE,
    Outline,
    paint_scene,
    regular_polygon,
    write_shapes,
)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    sizes = {"image_size": ((64, 80), 96)}
    return write_shapes(folder, num_train=40, num_validation=6, seed=3, **sizes)


def test_the_files_are_a_sound_dataset(shapes):
    train = load_coco(shapes.train_json, shapes.train_images, check_images="decode")
    validation = load_coco(shapes.validation_json, shapes.validation_images)
    assert len(train.images) == 40 and len(validation.images) == 6
    assert train.class_names == validation.class_names == CLASS_NAMES
    assert all(64 <= r.height <= 80 and r.width == 96 for r in train.images)
    assert len({r.height for r in train.images}) > 5
    report = inspect_dataset(shapes.train_json, shapes.train_images)
    assert min(report.objects_per_class.values()) >= 10
    assert report.empty_images and report.objects_per_image.maximum == 5


def test_masks_are_disjoint_and_described_truly(shapes):
    document = json.loads(shapes.train_json.read_text())
    seen = {}
    for entry in document["annotations"]:
        mask = coco_mask.decode(entry["segmentation"])
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert entry["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert entry["area"] == mask.sum() > 20
        seen[entry["image_id"]] = seen.get(entry["image_id"], 0) + mask
    assert max(total.max() for total in seen.values()) == 1


def test_shapes_overlap_and_none_is_hidden():
    """A scene's shapes are painted again, each alone, to know how large each was."""
    shares = []
    for seed in range(30):
        masks = paint_scene(np.random.default_rng(seed), 96, 96, 5).masks
        for count in range(1, len(masks) + 1):
            whole = paint_prefix(seed, masks, count)
            if whole is not None:
                shares.append(masks[count - 1].sum() / whole.sum())
    assert min(shares) >= LEAST_VISIBLE and sum(share < 1 for share in shares) > 20


def paint_prefix(seed, masks, count):
    """The mask of shape `count` before any came in front; `None` if a try had found no place."""
    scene = paint_scene(np.random.default_rng(seed), 96, 96, count)
    return scene.masks[-1] if len(scene.masks) == count else None


def test_what_is_masked_is_what_is_seen():
    """Inside its mask a shape differs from the picture painted without it; outside, nothing does."""
    for seed in range(20):
        before = paint_scene(np.random.default_rng(seed), 96, 96, 1)
        after = paint_scene(np.random.default_rng(seed), 96, 96, 2)
        if len(after.masks) < 2:
            continue
        new = after.masks[1]
        # The noise over all is drawn later for two shapes than for one, so leave it some room.
        change = np.abs(after.picture.astype(int) - before.picture).sum(axis=2)
        outline = cv2.dilate(new.astype(np.uint8), np.ones((3, 3))).astype(bool)
        assert change[new].mean() > 50 > 40 > change[~outline].mean()


def test_pictures_are_varied(shapes):
    means = [cv2.imread(str(path)).mean() for path in sorted(shapes.train_images.iterdir())]
    assert len(means) == 40 and np.std(means) > 15


def test_the_same_seed_gives_the_same_files(tmp_path):
    def contents(name, seed):
        write_shapes(tmp_path / name, num_train=3, num_validation=2, image_size=(48, 48), seed=seed)
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file()]
        return {path.relative_to(tmp_path / name): path.read_bytes() for path in files}

    first, again, other = contents("a", 1), contents("b", 1), contents("c", 2)
    assert len(first) == 7 and first == again and first != other
    pictures = [data for path, data in first.items() if path.suffix == ".png"]
    assert len(set(pictures)) == 5, "training and validation pictures differ"


@pytest.mark.parametrize(
    "options", [{"num_train": -1}, {"max_objects": 0}, {"image_size": (16, 64)}]
)
def test_options_are_checked(tmp_path, options):
    with pytest.raises(ValueError, match="must be"):
        write_shapes(tmp_path, **options)


def test_keypoints_have_names_and_lines(tmp_path):
    square = regular_polygon(4)

    def kite(_):
        return Outline((square,), keypoints=square)

    names, lines = ("a", "b", "c", "d"), ((0, 2), (3, 1))
    points = {"keypoint_names": names, "keypoint_skeleton": lines}
    options = {"num_train": 1, "num_validation": 0, "image_size": (64, 64), "seed": 1}
    paths = write_shapes(tmp_path, shapes={"kite": kite}, **points, **options)
    (category,) = json.loads(paths.train_json.read_text())["categories"]
    assert category["skeleton"] == [[1, 3], [4, 2]]  # COCO counts from 1
    records = load_coco(paths.train_json, paths.train_images)
    assert records.keypoints.names == names and records.keypoints.skeleton == lines
