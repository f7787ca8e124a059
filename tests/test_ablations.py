"""The ablations: every variant is a model that can be, and the tables say what the runs say."""

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import batch, tiny_backbone

from kmaskrcnn.config import Recipe, TrainingConfig
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.data.shapes import paint_scene, write_shapes
from kmaskrcnn.training.optimizers import make_optimizer

CLASSES = ("a", "b", "c")  # those of the made-up batches
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def ablations(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("ablations")


@pytest.fixture
def fine_shapes(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fine_shapes")


def test_every_variant_has_a_recipe_and_every_row_a_variant(ablations):
    seeds = [ablations.VARIANTS[name].recipe(seed=2) for name in ablations.VARIANTS]
    assert {(r.training.seed, r.data.seed) for r in seeds} == {(2, 2)}
    named = {row[0] for table in ablations.TABLES.values() for row in table.rows}
    assert named == set(ablations.VARIANTS)
    for table in ablations.TABLES.values():
        assert all(len(row[2]) == len(table.columns) for row in table.rows)


@pytest.fixture
def build_tiny(ablations, monkeypatch):
    """A function that builds a variant around the tests' small backbone."""
    monkeypatch.setattr("kmaskrcnn.components.build_backbone", lambda *_, **__: tiny_backbone())
    monkeypatch.setattr("kmaskrcnn.training.trainer.freeze_backbone", lambda *_: None)

    def build(name, seed=0, model=None):
        recipe = ablations.VARIANTS[name].recipe(seed)
        points = ("head", "left_hand", "right_hand") if recipe.model.with_keypoints else ()
        config = dataclasses.replace(recipe.model, class_names=CLASSES, keypoint_names=points)
        training = dataclasses.replace(recipe.training, backbone_weights=None)
        return ablations.start_again(
            model, dataclasses.replace(recipe, model=config, training=training)
        )

    return build


@pytest.mark.parametrize("name", ["warp_32", "persons_all"])
def test_a_variant_builds(build_tiny, name):
    """Those left out differ from these by a word."""
    model = build_tiny(name)
    config = model.config
    inputs, _ = batch(np.random.default_rng(0), size=(128, 128))
    found = model(inputs)
    assert found["masks"].shape[-2:] == (28, 28) and config.mask_head_channels == 32
    assert ("keypoints" in found) == config.with_keypoints == (name == "persons_all")


@pytest.mark.slow
def test_the_next_seed_finds_nothing_of_the_last(build_tiny):
    """Weights, random states and optimizer are those of a model that never trained."""
    model = build_tiny("no_mask", seed=0)
    recipe = Recipe(model.config, training=TrainingConfig(optimizer="adamw"))
    model.compile(optimizer=make_optimizer(recipe, model, 10), run_eagerly=True)
    model.train_on_batch(*batch(np.random.default_rng(0), masks=False))
    assert int(model.optimizer.iterations) == 1
    again, new = build_tiny("no_mask", seed=1, model=model), build_tiny("no_mask", seed=1)
    assert again is model and len(new.variables) > 40
    for variable, expected in zip(again.variables, new.variables, strict=True):
        np.testing.assert_array_equal(variable, expected)
    assert not any(np.any(np.array(variable)) for variable in model.optimizer.variables)


def test_tables_hold_mean_spread_and_each_seed_against_the_first_row(ablations):
    runs = [
        {"variant": name, "seed": seed, "metrics": {"mask": {"AP75": v, "AP": v, "AP50": v}}}
        for name, values in {"softmax": (0.1, 0.2), "default": (0.4, 0.3)}.items()
        for seed, v in enumerate(values)
    ]
    text = ablations.format_tables(json.loads(json.dumps(runs)))
    # Standard deviation of 10 and 20, and of 40 and 30: sqrt(50) = 7.1.
    assert "| softmax | 15.0 ± 7.1 | 15.0 ± 7.1 | 15.0 ± 7.1 | - | 2 | 25.1, 24.8, 44.1 |" in text
    assert "| sigmoid | 35.0 ± 7.1 | 35.0 ± 7.1 | 35.0 ± 7.1 | +30.0 +10.0 | 2 |" in text
    assert "MLP" not in text  # one row alone compares nothing
    text = ablations.format_tables(runs + [{"variant": "mlp", "seed": 2, "metrics": {}}])
    assert "| FCN | 35.0 ± 7.1 | 35.0 ± 7.1 | 35.0 ± 7.1 | - | 2 |" in text
    assert "| MLP | - | - | - | - | 1 |" in text


def test_fine_shapes_have_holes_and_persons_their_keypoints(fine_shapes, tmp_path):
    """A ring's hole of radius 0.55 leaves 1 - 0.55^2 of the circle."""
    only_ring = {"ring": fine_shapes.FINE_SHAPES["ring"]}
    scene = paint_scene(np.random.default_rng(0), 200, 200, 1, only_ring, (0.3, 0.3))
    rows, columns = np.nonzero(scene.masks[0])
    box_area = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    assert scene.masks[0].sum() == pytest.approx((1 - 0.55**2) * np.pi / 4 * box_area, rel=0.03)
    assert not scene.masks[0][int(rows.mean().round()), int(columns.mean().round())]

    names = fine_shapes.KEYPOINT_NAMES
    options = {"shapes": fine_shapes.PERSONS, "keypoint_names": names, "image_size": (96, 96)}
    paths = write_shapes(tmp_path, num_train=12, num_validation=1, **options)
    records = load_coco(paths.train_json, paths.train_images)
    assert records.keypoints.names == names and records.keypoints.flip_pairs == ((1, 2), (3, 4))
    seen = 0
    for instance in (i for image in records.images for i in image.instances):
        for x, y, visibility in instance.keypoints:
            x1, y1, x2, y2 = instance.box
            if visibility == 2:  # in sight, so within the box of what is in sight
                seen += 1
                # COCO's numbers of pixels: the centre of the first is 0.
                assert x1 <= x + 0.5 <= x2 and y1 <= y + 0.5 <= y2
    assert seen > 40
