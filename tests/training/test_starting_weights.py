"""What a training begins with: whose weights, and which of them it moves."""

import logging
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from tiny import batch, tiny_backbone, tiny_config

from kmaskrcnn.config import Recipe, TrainingConfig
from kmaskrcnn.layers.backbones import build_backbone, freeze_backbone
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.training import trainer
from kmaskrcnn.training.trainer import build_model
from kmaskrcnn.weights.backbones import load_backbone_weights
from kmaskrcnn.weights.convert import named_weights

C4 = {"pyramid": "c4", "box_pool_size": 14, "box_head_dense": 0, "mask_head_convs": 0}


@pytest.fixture
def small_trunks(monkeypatch):
    """Recipes are built around the tests' small backbone."""
    monkeypatch.setattr("kmaskrcnn.components.build_backbone", lambda *_, **__: tiny_backbone())


@pytest.fixture
def before(small_trunks, tmp_path):
    """A trained model's file, and the model."""
    model = MaskRCNN(tiny_config(min_size=60))
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(weight + 0.25)
    model.save(tmp_path / "before.keras")
    return str(tmp_path / "before.keras"), model


def begin(config, source):
    return build_model(Recipe(config, training=TrainingConfig(initial_weights=source)))


def test_the_same_classes_take_every_weight_and_other_settings_are_told(before, caplog):
    source, expected = before
    with caplog.at_level(logging.INFO):
        model = begin(tiny_config(), source)
    for path, weight in named_weights(expected).items():
        np.testing.assert_array_equal(named_weights(model)[path], weight, path)
    assert "other min_size 60 (here 64)" in caplog.text


def test_as_many_other_classes_take_the_trunk_alone(before):
    source, expected = before
    model = begin(tiny_config(class_names=("c", "b", "a")), source)
    for path, weight in named_weights(expected).items():
        taken = np.array_equal(named_weights(model)[path], weight)
        knows_classes = any(
            layer in path for layer in ("class_logits/", "box_deltas/", "mask_head/logits/")
        )
        assert taken != knows_classes, path


def test_a_trained_model_and_a_trunk_at_once_are_refused():
    with pytest.raises(ValueError, match="backbone_weights: got 'imagenet', accepted is null with"):
        TrainingConfig(initial_weights="model.keras", backbone_weights="imagenet")


def test_heads_alone_leave_a_last_stage_that_is_a_head_as_it_is(tmp_path):
    """Counted by hand: ResNet-18's C5 has five convolutions."""
    model = MaskRCNN(tiny_config(**C4))
    trained = len(model.trainable_variables)
    freeze_backbone(model.backbone, 1, model.stage5)
    assert not model.backbone.trainable_weights and len(model.stage5.trainable_weights) == 5
    freeze_backbone(model.backbone, 0, model.stage5)
    assert not model.stage5.trainable_weights
    assert len(model.trainable_variables) == trained - 20
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert not loaded.stage5.trainable_weights
    assert len(loaded.trainable_variables) == len(model.trainable_variables)


def test_a_recipe_freezes_the_last_stage_of_a_c4_model_too():
    recipe = Recipe(tiny_config(**C4), training=TrainingConfig(trainable_stages=0))
    paths = [weight.path for weight in build_model(recipe).trainable_variables]
    assert paths and not [path for path in paths if path.startswith(("stem", "C"))]


def test_a_trunk_without_its_last_stage_is_told(tmp_path, caplog):
    trunk = build_backbone("resnet18", last_stage="C4")
    trunk.save_weights(tmp_path / "trunk.weights.h5")
    load_backbone_weights(trunk, tmp_path / "trunk.weights.h5")
    assert "pass stage5=model.stage5" in caplog.text


def test_a_trunks_own_file_does_not_pass_for_its_last_stage_too(tmp_path, caplog):
    model = MaskRCNN(tiny_config(**C4))
    model.backbone.save_weights(tmp_path / "trunk.weights.h5")
    load_backbone_weights(model.backbone, tmp_path / "trunk.weights.h5", model.stage5)
    assert "trunk.weights.h5 holds the trunk alone" in caplog.text


def test_weights_that_keras_numbers_are_found_again(tmp_path):
    """ConvNeXt's scales have no names of their own, and other numbers in each model of a process."""
    config = tiny_config(backbone="convnext_tiny", with_mask=False)
    expected = MaskRCNN(config)
    generator = np.random.default_rng(0)
    for weight in expected.backbone.variables:
        weight.assign(generator.uniform(0, 0.1, weight.shape))
    expected.save(tmp_path / "before.keras")
    model = begin(config, str(tmp_path / "before.keras"))
    pairs = zip(model.backbone.variables, expected.backbone.variables, strict=True)
    for weight, given in pairs:
        np.testing.assert_array_equal(weight, given, weight.path)


@pytest.mark.slow
def test_a_c4_model_of_an_application_learns_and_is_kept(tmp_path):
    """The trunk of `keras.applications` in two: its last stage sees regions, moves and is saved."""
    model = MaskRCNN(tiny_config(**C4, backbone="mobilenet_v2", norm="batch_norm"))
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    before = [np.array(weight) for weight in model.stage5.trainable_variables]
    inputs, targets = batch(np.random.default_rng(0))
    losses = model.train_on_batch(inputs, targets, return_dict=True)
    assert np.isfinite(list(losses.values())).all()
    after = [np.array(weight) for weight in model.stage5.trainable_variables]
    # Of 36 weights four shifts move by less than 1e-9, the others by 1e-5 and more.
    moved = [np.abs(new - old).max() > 1e-6 for old, new in zip(before, after, strict=True)]
    assert len(moved) == 36 and sum(moved) >= 32
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    kept = named_weights(loaded)
    for path, weight in named_weights(model).items():
        np.testing.assert_array_equal(kept[path], weight, path)
    expected = model.predict_on_batch(inputs)
    for name, values in loaded.predict_on_batch(inputs).items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "config, stages, warned",
    [
        ({"head_norm": "sync_batch_norm"}, 3, "head_norm: 'sync_batch_norm'"),
        ({"head_norm": "frozen_batch_norm", "norm": "batch_norm"}, 3, ""),
        ({**C4, "norm": "batch_norm"}, 1, "norm: 'batch_norm'"),
        ({**C4, "norm": "batch_norm"}, 0, ""),  # the fifth stage stands still
    ],
)
def test_statistics_of_empty_places_are_warned_of(config, stages, warned, caplog, monkeypatch):
    stub = SimpleNamespace(backbone=None, stage5=None)
    monkeypatch.setattr(trainer, "MaskRCNN", lambda *_, **__: stub)
    monkeypatch.setattr(trainer, "freeze_backbone", lambda *_: None)
    recipe = Recipe(tiny_config(**config), training=TrainingConfig(trainable_stages=stages))
    assert build_model(recipe) is stub
    assert warned in caplog.text and bool(warned) == bool(caplog.records)
