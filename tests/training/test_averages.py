"""The average of the weights: evaluated between epochs, kept at the end."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import TINY, tiny_backbone

from kmaskrcnn.config import DataConfig, MaskRCNNConfig, Recipe, TrainingConfig
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.training import callbacks, trainer
from kmaskrcnn.training.callbacks import AverageWeights
from kmaskrcnn.training.optimizers import LayerDecayAdamW

RATE, MOMENTUM = 0.5, 0.75


class OneWeight(keras.Model):
    """Its gradient is its input."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(), initializer="zeros")

    def call(self, inputs):
        return keras.ops.sum(self.weight * inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred


class Stop(keras.callbacks.Callback):
    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == self.epoch


def loop(gradients):
    """The weight and its average after each step."""
    weight, average, seen = 0.0, None, []
    for gradient in gradients:
        weight -= RATE * gradient
        average = weight if average is None else MOMENTUM * average + (1 - MOMENTUM) * weight
        seen.append((weight, average))
    return seen


def fit(gradients, epochs, *more, precision=None):
    """The model, and its weight at the end of each step and of each epoch."""
    model = OneWeight()
    optimizer = keras.optimizers.SGD(RATE, use_ema=True, ema_momentum=MOMENTUM)
    if precision:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    model.compile(optimizer)
    steps, ends = [], []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: steps.append(float(model.weight)),
        on_epoch_end=lambda epoch, logs: ends.append(float(model.weight)),
    )
    data = tf.data.Dataset.from_tensor_slices(np.reshape(gradients, (-1, 1)).astype("float32"))
    options = {"epochs": epochs, "steps_per_epoch": 3, "verbose": 0, "shuffle": False}
    model.fit(data, callbacks=[AverageWeights(), look, *more], **options)
    return model, steps, ends


GRADIENTS = np.random.default_rng(0).normal(0, 1, 9)


@pytest.mark.parametrize("precision", [None, "mixed_float16"])
def test_epochs_end_with_the_average_and_training_goes_on_with_the_weights(precision):
    model, steps, ends = fit(GRADIENTS, 3, precision=precision)
    weights, averages = zip(*loop(GRADIENTS))
    np.testing.assert_allclose(steps, weights, atol=1e-6)
    np.testing.assert_allclose(ends, averages[2::3], atol=1e-6)
    assert float(model.weight) == pytest.approx(averages[-1], abs=1e-6)


def test_a_training_that_is_stopped_ends_with_the_average():
    model, steps, _ = fit(GRADIENTS, 3, Stop(1))
    assert len(steps) == 6
    assert float(model.weight) == pytest.approx(loop(GRADIENTS)[5][1], abs=1e-6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What a recipe with averages evaluated at the ends of its two epochs, and the model that it saved."""
    folder = tmp_path_factory.mktemp("averages")
    shapes = write_shapes(folder, num_train=4, num_validation=1, image_size=(64, 64))
    training = TrainingConfig(
        epochs=2,
        optimizer="adamw",
        learning_rate=0.04,
        base_batch_size=8,
        weight_decay=0.1,
        layer_decay=0.5,
        ema_momentum=0.9,
        warmup_steps=0,
    )
    config = MaskRCNNConfig(**{**TINY, "with_mask": False})
    recipe = Recipe(config, DataConfig(batch_size=2), training)
    evaluated = []

    def evaluate(model, *_):
        evaluated.append([variable.numpy() for variable in model.trainable_variables])
        return {"box": {"AP": 0.0}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks, "evaluate_model", evaluate)
        build = lambda recipe: MaskRCNN(recipe.model, backbone=tiny_backbone())  # noqa: E731
        patch.setattr(trainer, "build_model", build)
        # Four steps are sooner done than traced.
        eager = functools.partialmethod(MaskRCNN.compile, run_eagerly=True)
        patch.setattr(MaskRCNN, "compile", eager)
        trainer.train(recipe, shapes[:2], shapes[2:], folder / "run", pictures=0, verbose=0)
    return evaluated, keras.models.load_model(folder / "run" / "model.keras")


def test_a_recipe_saves_the_average_that_it_evaluated(trained):
    evaluated, model = trained
    assert len(evaluated) == 2
    averages = model.optimizer._model_variables_moving_average
    moved = 0
    for variable, average, last, first in zip(
        model.trainable_variables, averages, *evaluated[::-1]
    ):
        np.testing.assert_array_equal(variable, last)
        np.testing.assert_array_equal(variable, average)
        moved += np.abs(last - first).max() > 0
    assert moved > 10


def test_the_saved_optimizer_knows_each_layers_rate(trained):
    model = trained[1]
    assert isinstance(model.optimizer, LayerDecayAdamW)
    assert set(model.optimizer.factors) == {1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125}
    # 2 pictures an update instead of 8; 4 steps of the schedule are over
    assert model.optimizer.get_config()["learning_rate"]["config"]["learning_rate"] == 0.01
