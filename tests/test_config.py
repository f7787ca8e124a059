"""Configurations: round trips, and errors that name the key."""

import dataclasses
from pathlib import Path

import pytest

from kmaskrcnn.config import (
    ConfigError,
    MaskRCNNConfig,
    Recipe,
    from_dict,
    load_yaml,
    override,
    save_yaml,
    to_dict,
)

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_yaml_gives_back_what_was_written(tmp_path):
    model = MaskRCNNConfig(class_names=("cat", "dog"), pixel_mean=(1.0, 2, 3), with_mask=False)
    recipe = Recipe(model=model)
    save_yaml(recipe, tmp_path / "recipe.yaml")
    assert load_yaml(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_and_tells_its_command(path):
    assert isinstance(load_yaml(path), Recipe)
    header = path.read_text().split("model:")[0]
    assert "kmaskrcnn train" in header and "AP" in header


@pytest.mark.parametrize(
    "values, message",
    [
        ({"modle": {}}, "unknown key 'modle'; did you mean 'model'?"),
        ({"model": {"anchor_scale": [1]}}, "'model.anchor_scale'; did you mean 'anchor_scales'?"),
        ({"model": {"min_size": "800"}}, "min_size: got '800', accepted is int"),
        ({"model": {"with_mask": 1}}, "with_mask: got 1, accepted is bool"),
        ({"model": {"norm_epsilon": None}}, "norm_epsilon: got None, accepted is float"),
        ({"model": {"class_names": ["a", "a"]}}, "class_names"),
        ({"model": {"class_names": []}}, "class_names"),
        ({"model": {"min_size": 900, "max_size": 800}}, "min_size: got 900"),
        ({"model": {"nms_threshold": 1.5}}, "nms_threshold: got 1.5"),
        ({"model": {"anchor_scales": [32]}}, "anchor_scales"),
        ({"model": {"pyramid": "c3"}}, "pyramid: got 'c3', accepted is one of fpn, c4, dc5"),
        (
            {"model": {"pyramid": "c4", "cascade_thresholds": [0.5, 0.6, 0.7]}},
            "cascade_thresholds: got (0.5, 0.6, 0.7), accepted is none where the head is the fifth",
        ),
        (
            {"model": {"pyramid": "c4", "mask_pool_size": 7}},
            "mask_pool_size: got 7, accepted is an even number",
        ),
        (
            {"model": {"pyramid": "dc5", "mask_head": "point_rend"}},
            "mask_head: got 'point_rend', accepted is 'fcn' or 'mlp' without a pyramid",
        ),
        ({"model": {"rois_per_image": 0}}, "rois_per_image: got 0"),
        ({"model": {"roi_align": "pool"}}, "roi_align: got 'pool', accepted is one of"),
        ({"model": {"pixel_mean": [1.0]}}, "pixel_mean"),
        ({"training": {"optimizer": "adam"}}, "training.optimizer: got 'adam'"),
        ({"training": {"layer_decay": 0.8}}, "training.layer_decay: got 0.8, accepted is null, or"),
        ({"training": {"layer_decay": 0, "optimizer": "adamw"}}, "training.layer_decay: got 0"),
        ({"training": {"ema_momentum": 1}}, "training.ema_momentum: got 1"),
        ({"training": {"base_batch_size": 0}}, "training.base_batch_size: got 0"),
        ({"data": {"on_error": "ignore"}}, "data.on_error"),
        ({"model": {"pixel_std": [0.0, 1.0, 1.0]}}, "pixel_std: got (0.0, 1.0, 1.0)"),
        ({"model": {"anchor_scales": [8.0, 16.0, -1.0, 3.0, 4.0]}}, "anchor_scales: got"),
        ({"model": {"box_loss_weight": float("nan")}}, "box_loss_weight: got nan"),
        ({"model": {"rpn_negative_threshold": 0.8}}, "at most rpn_positive_threshold, 0.7"),
        ({"model": {"rois_per_image": 3}}, "roi_positive_fraction: got 0.25"),
        ({"model": {"pixel_std": [0, 1, 1]}}, "pixel_std: got (0, 1, 1), accepted is more than 0"),
        ({"model": {"anchor_scales": [-32, 64, 128, 256, 512]}}, "anchor_scales: got (-32, 64"),
        ({"model": {"rpn_min_box_size": -1}}, "rpn_min_box_size: got -1, accepted is 0 or more"),
        (
            {"model": {"cascade_box_variances": [[0.1, 0.1, 0.2, 0.0]]}},
            "cascade_box_variances: got ((0.1, 0.1, 0.2, 0.0),), accepted is more than 0",
        ),
        ({"model": {"rpn_channels": 0}}, "rpn_channels: got 0, accepted is 1 or more"),
        ({"training": {"learning_rate": -1}}, "training.learning_rate: got -1"),
        ({"training": {"weight_decay": -1}}, "training.weight_decay: got -1"),
        ({"training": {"gradient_clip_norm": 0}}, "training.gradient_clip_norm: got 0"),
        ({"augmentation": {"rotation": -5}}, "augmentation.rotation: got -5"),
        ({"model": {"anchor_scales": 32}}, "anchor_scales: got 32, accepted is tuple[float, ...]"),
        ({"model": {"pixel_std": "no"}}, "got 'no', accepted is tuple[float, ...] | None"),
        ({"data": {"seed": -1}}, "data.seed: got -1, accepted is 0 or more"),
        (
            {"model": {"max_size": 900}, "augmentation": {"min_sizes": [800, 1000]}},
            "augmentation.min_sizes: got (800, 1000), accepted is at most model.max_size, 900",
        ),
        ({"training": {"learning_rate": -0.1}}, "training.learning_rate: got -0.1"),
        ({"training": {"learning_rate": float("inf")}}, "training.learning_rate: got inf"),
        ({"training": {"weight_decay": -1e-4}}, "training.weight_decay: got -0.0001"),
        ({"training": {"evaluate_every": 0}}, "training.evaluate_every: got 0"),
        ({"training": {"gradient_accumulation_steps": 0}}, "accumulation_steps: got 0"),
        ({"training": {"momentum": 1.0}}, "training.momentum: got 1.0"),
        ({"training": {"warmup_steps": -1}}, "training.warmup_steps: got -1"),
        ({"model": 3}, "model: expected keys and values, got 3"),
    ],
)
def test_errors_name_the_key_and_what_is_accepted(values, message):
    with pytest.raises(ConfigError) as error:
        from_dict(Recipe, values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "name", ["rpn_min_box_size", "smooth_l1_beta", "box_loss_weight", "norm_epsilon"]
)
def test_a_whole_zero_is_as_good_as_one_with_a_dot(name):
    assert MaskRCNNConfig(**{name: 0}) == MaskRCNNConfig(**{name: 0.0})


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MaskRCNNConfig().min_size = 3


def test_overrides_take_full_and_short_keys():
    recipe = override(Recipe(), ["training.epochs=3", "batch_size=7", "model.class_names=[a, b]"])
    assert (recipe.training.epochs, recipe.data.batch_size) == (3, 7)
    assert recipe.model.class_names == ("a", "b")


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("epochs", "expected key=value"),
        ("epoch=3", "did you mean 'training.epochs'"),
        ("seed=3", "data.seed or training.seed"),
        ("epochs=[", "not YAML"),
        ("epochs=many", "epochs: got 'many'"),
    ],
)
def test_wrong_overrides_say_what_is_wrong(assignment, message):
    with pytest.raises(ConfigError, match="(?s)" + message.replace("[", r"\[")):
        override(Recipe(), [assignment])


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ConfigError, match="none.yaml: no such file"):
        load_yaml(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("model: [")
    with pytest.raises(ConfigError, match="bad.yaml"):
        load_yaml(tmp_path / "bad.yaml")


def test_numbers_may_lack_a_dot():
    assert override(Recipe(), ["learning_rate=1e-4"]).training.learning_rate == 1e-4
    model = override(Recipe(), ["box_variance=[1e-1, 0.1, 2e-1, 2e-1]"]).model
    assert model.box_variance == (0.1, 0.1, 0.2, 0.2)
    stages = override(Recipe(), ["cascade_box_variances=[[1e-1, 1, 2, 3]]"]).model
    assert stages.cascade_box_variances == ((0.1, 1, 2, 3),)
    names = override(Recipe(), ["class_names=[1e-4, b]"]).model.class_names
    assert names == ("1e-4", "b")


def test_plain_values_only():
    values = to_dict(Recipe())
    assert isinstance(values["model"]["class_names"], list)
    assert from_dict(Recipe, values) == Recipe()
