"""Folding batch norms: the same features, without batch norms."""

import keras
import numpy as np
import pytest
from tiny import tiny_backbone, tiny_config, tiny_model

from kmaskrcnn.export.folding import fold_batch_norms
from kmaskrcnn.layers.norms import FrozenBatchNormalization
from kmaskrcnn.model import MaskRCNN


def shaken(model, seed=0):
    """Statistics as after a training: none of them 0 or 1."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if variable.path.endswith(("moving_variance", "gamma")):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.path.endswith(("moving_mean", "beta", "bias")):
            variable.assign(generator.normal(0, 0.2, variable.shape))
    return model


def features(model):
    images = np.random.default_rng(1).uniform(0, 255, (1, 64, 96, 3)).astype("float32")
    return model.fpn(model.backbone(model.normalizer(images, np.array([[64, 96]], "int32"))))


def keras_backbone():
    """Convolutions and batch norms as layers of their own, as in Keras's applications."""
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", use_bias=False, name="stem")(images)
    x = keras.layers.ReLU()(FrozenBatchNormalization(name="stem_bn")(x))
    stages = {}
    for stage in ("C2", "C3", "C4", "C5"):
        x = keras.layers.DepthwiseConv2D(3, 2, padding="same", name=f"{stage}_dw")(x)
        x = keras.layers.BatchNormalization(epsilon=1e-2, name=f"{stage}_dw_bn")(x)
        x = keras.layers.Conv2D(12, 1, name=stage)(x)
        stages[stage] = keras.layers.BatchNormalization(scale=False, name=f"{stage}_bn")(x)
        x = keras.layers.ReLU(name=f"{stage}_relu")(stages[stage])
    return keras.Model(images, stages, name="keras_backbone")


@pytest.mark.parametrize("backbone", [tiny_backbone, keras_backbone])
@pytest.mark.parametrize("norm", ["batch_norm", None])
def test_features_stay_and_batch_norms_go(backbone, norm):
    model = shaken(MaskRCNN(tiny_config(fpn_norm=norm, head_norm=norm), backbone=backbone()))
    folded = fold_batch_norms(model)
    assert not [v.path for v in folded.variables if "moving" in v.path]
    assert [v.path for v in model.variables if "moving" in v.path]  # the given model stays
    before, after = features(model), features(folded)
    for level, values in before.items():
        scale = float(np.abs(values).max())
        np.testing.assert_allclose(after[level], values, atol=1e-5 * scale, err_msg=level)


def test_a_fifth_stage_of_regions_is_folded_too():
    c4 = {"pyramid": "c4", "box_pool_size": 4, "box_head_dense": 0, "with_mask": False}
    model = shaken(MaskRCNN(tiny_config(**c4)))
    folded = fold_batch_norms(model)
    assert not [v.path for v in folded.variables if "moving" in v.path]
    pooled = np.random.default_rng(2).normal(size=(3, 4, 4, 256)).astype("float32")
    expected = np.array(model.stage5(pooled))
    np.testing.assert_allclose(folded.stage5(pooled), expected, atol=1e-5 * np.abs(expected).max())


def test_weights_that_keras_numbers_are_not_lost():
    """ConvNeXt's scales have no names: as built they are 1e-6, and its blocks would do nothing."""
    model = MaskRCNN(tiny_config(backbone="convnext_tiny", with_mask=False))
    generator = np.random.default_rng(0)
    for variable in model.backbone.variables:
        variable.assign(generator.uniform(0, 0.1, variable.shape))
    folded = fold_batch_norms(model)
    for given, copied in zip(model.backbone.variables, folded.backbone.variables, strict=True):
        np.testing.assert_array_equal(copied, given)


def test_an_applications_fifth_stage_keeps_its_batch_norms():
    c4 = {"backbone": "mobilenet_v2", "pyramid": "c4", "box_pool_size": 4, "with_mask": False}
    model = shaken(MaskRCNN(tiny_config(**c4)))
    folded = fold_batch_norms(model)
    kept = [v for v in folded.variables if "moving_mean" in v.path]
    assert kept and {v.path.split("/")[0] for v in kept} <= {
        layer.name for layer in folded.stage5.layers
    }
    before, after = features(model), features(folded)
    for level, values in before.items():
        scale = float(np.abs(values).max())
        np.testing.assert_allclose(after[level], values, atol=1e-4 * scale, err_msg=level)
    pooled = np.random.default_rng(2).normal(size=(3, 4, 4, 576)).astype("float32")
    np.testing.assert_array_equal(folded.stage5(pooled), model.stage5(pooled))


def test_a_batch_norm_that_follows_no_convolution_stays():
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3, 2, padding="same", name="stem", activation="relu")(images)
    x = keras.layers.BatchNormalization(name="behind_relu")(x)
    stages = {}
    for stage in ("C2", "C3", "C4", "C5"):
        x = stages[stage] = keras.layers.Conv2D(8, 3, 2, padding="same", name=stage)(x)
    model = shaken(MaskRCNN(tiny_config(), backbone=keras.Model(images, stages)))
    folded = fold_batch_norms(model)
    assert folded.backbone.get_layer("behind_relu").moving_mean.shape == (8,)
    np.testing.assert_allclose(features(folded)["P2"], features(model)["P2"], atol=1e-5)


def test_group_norms_stay():
    model = tiny_model(fpn_norm="group_norm", fpn_channels=32)
    assert fold_batch_norms(model).config.fpn_norm == "group_norm"
