"""Optimizers of recipes against loops in NumPy."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import tiny_config, tiny_model

from kmaskrcnn.config import DataConfig, Recipe, TrainingConfig
from kmaskrcnn.layers.backbones import build_backbone
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.training.optimizers import LayerDecayAdamW, layer_factors, make_optimizer


def recipe(batch_size=2, **training):
    return Recipe(data=DataConfig(batch_size=batch_size), training=TrainingConfig(**training))


def constant(**training):
    """A recipe whose rate stays as it is."""
    return recipe(**{"schedule": "constant", "warmup_steps": 0, **training})


def of_weights(**values):
    """As much of a model as an optimizer is made for."""
    values = {name: np.asarray(value, "float32") for name, value in values.items()}
    return SimpleNamespace(weights=[keras.Variable(v, name=n) for n, v in values.items()])


def follow(optimizer, start, gradients, look=None):
    """What `look` sees of weights, by default the weights, after each step: lists of arrays."""
    variables = [keras.Variable(value, name=name) for name, value in start.items()]
    look = look or (lambda: variables)
    seen = []
    for step in gradients:
        optimizer.apply([tf.constant(gradient) for gradient in step], variables)
        seen.append([np.array(variable) for variable in look()])
    return seen


def made(rng, steps, shapes):
    start = {name: rng.normal(0, 1, shape).astype("float32") for name, shape in shapes.items()}
    values = [rng.normal(0, 1, (steps, *shape)).astype("float32") for shape in shapes.values()]
    return start, list(zip(*values))


def test_accumulated_batches_do_not_speed_up_the_schedule():
    # drops at batches 24 and 32 of 36
    config = recipe(epochs=2, learning_rate=1.0, warmup_steps=0, gradient_accumulation_steps=4)
    model = of_weights(kernel=[[0.0]])
    optimizer = make_optimizer(config, model, steps_per_epoch=18)
    optimizer.build(model.weights)
    rates = []
    for _ in range(36):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([tf.zeros((1, 1))])
    np.testing.assert_allclose(rates, [1.0] * 24 + [0.1] * 8 + [0.01] * 4, rtol=1e-5)


# -- the rate follows the batch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch_size, accumulate, base, expected",
    [
        (2, None, None, 0.02),
        (2, None, 16, 0.0025),
        (32, None, 16, 0.04),
        (2, 1, 16, 0.0025),
        (2, 4, 16, 0.01),
    ],
)
def test_the_rate_is_in_proportion_to_the_pictures_of_an_update(
    batch_size, accumulate, base, expected
):
    config = constant(
        batch_size=batch_size,
        learning_rate=0.02,
        base_batch_size=base,
        gradient_accumulation_steps=accumulate,
    )
    assert float(make_optimizer(config, of_weights(), 10).learning_rate) == pytest.approx(expected)


# -- what decays ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_spares_biases_and_norms(name):
    weights = {"kernel": [[1, 1]], "bias": [1, 1], "gamma": [1, 1], "beta": [1, 1], "scale": [1, 1]}
    model = of_weights(**weights)
    config = constant(optimizer=name, learning_rate=1.0, weight_decay=0.1, momentum=0.0)
    optimizer = make_optimizer(config, model, 1)
    optimizer.apply([tf.zeros(w.shape) for w in model.weights], model.weights)
    kernel, *others = map(np.array, model.weights)
    np.testing.assert_allclose(kernel, [[0.9, 0.9]])
    assert all((weight == 1).all() for weight in others)


def test_the_decay_of_sgd_is_as_strong_as_if_it_were_part_of_the_gradient():
    """The loop of the published recipes: gradient + decay * weight goes through the momentum."""
    weight, velocity, rate, decay = 1.0, 0.0, 0.02, 0.001
    for _ in range(2000):
        velocity = 0.9 * velocity + decay * weight
        weight -= rate * velocity
    model = of_weights(kernel=[[1.0]])
    optimizer = make_optimizer(constant(learning_rate=rate, weight_decay=decay), model, 1)
    apply = tf.function(lambda: optimizer.apply([tf.zeros((1, 1))]))
    optimizer.build(model.weights)
    for _ in range(2000):
        apply()
    # exp(-0.4), but for the first steps, until the momentum is there
    assert float(model.weights[0][0, 0]) == pytest.approx(weight, rel=0.005)
    assert weight == pytest.approx(np.exp(-0.4), rel=0.005)


@pytest.mark.parametrize("name", ["mobilenet_v2", "convnext_tiny"])
def test_what_decays_in_a_model_are_kernels(name):
    model = build_backbone(name, norm="batch_norm")
    variables = model.trainable_variables
    optimizer = make_optimizer(constant(weight_decay=0.05, learning_rate=1.0), model, 1)
    for variable in variables:
        variable.assign(np.ones(variable.shape))
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    decayed = [v.path for v in variables if np.array(v).min() < 1]
    assert decayed == [v.path for v in variables if v.name.endswith("kernel")]
    assert 40 < len(decayed) < len(variables)


# -- a rate for each layer --------------------------------------------------------------------------------------------


def adamw_loop(weight, gradients, rate, decay):
    """Loshchilov and Hutter, algorithm 2, as Keras and PyTorch read it: the decay is multiplied by the rate."""
    mean, square, weights = 0.0, 0.0, []
    for step, gradient in enumerate(gradients, start=1):
        weight = weight - rate * decay * weight
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        unbiased = mean / (1 - 0.9**step), np.sqrt(square / (1 - 0.999**step))
        weight = weight - rate * unbiased[0] / (unbiased[1] + 1e-7)
        weights.append(weight)
    return weights


def test_layer_decay_equals_adamw_at_each_weights_own_rate():
    shapes = {"kernel": (3, 2), "bias": (2,), "kernel_2": (2, 4)}
    start, gradients = made(np.random.default_rng(0), 3, shapes)
    factors = (0.25, 0.25, 1.0)
    optimizer = LayerDecayAdamW(factors, learning_rate=0.1, weight_decay=0.4)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    seen = follow(optimizer, start, gradients)
    for i, (name, factor) in enumerate(zip(shapes, factors)):
        decay = 0.0 if name == "bias" else 0.4
        steps = [step[i].astype("float64") for step in gradients]
        expected = adamw_loop(start[name].astype("float64"), steps, 0.1 * factor, decay)
        # 1 - 0.999 ** t has lost digits in float32: 1e-4 of a step of 0.1
        np.testing.assert_allclose([weights[i] for weights in seen], expected, atol=2e-5)


@pytest.fixture(scope="module")
def model():
    return tiny_model(with_mask=False)


def test_stages_learn_the_slower_the_earlier_they_are(model):
    factors = layer_factors(model, 0.5)
    of = {id(v): factor for v, factor in zip(model.trainable_variables, factors)}
    expected = {"stem": 1 / 32, "C2": 1 / 16, "C3": 1 / 8, "C4": 1 / 4, "C5": 1 / 2}
    for name, factor in expected.items():
        weights = model.backbone.get_layer(name).trainable_variables
        assert weights and {of.pop(id(weight)) for weight in weights} == {factor}
    assert set(of.values()) == {1.0}


def test_a_stage_that_stands_apart_learns_as_the_last():
    c4 = {"pyramid": "c4", "box_pool_size": 4, "box_head_dense": 0, "with_mask": False}
    model = MaskRCNN(tiny_config(**c4))
    factors = layer_factors(model, 0.5)
    of = {id(v): factor for v, factor in zip(model.trainable_variables, factors)}
    assert {of[id(weight)] for weight in model.stage5.trainable_variables} == {0.5}
    weights = model.backbone.get_layer("C4_block2_conv2").trainable_variables
    assert weights and {of[id(weight)] for weight in weights} == {0.25}


def test_a_recipe_decays_by_layer(model):
    optimizer = make_optimizer(constant(optimizer="adamw", layer_decay=0.5), model, 1)
    assert isinstance(optimizer, LayerDecayAdamW)
    assert optimizer.factors == layer_factors(model, 0.5)


def test_layer_decay_survives_a_round_trip():
    optimizer = LayerDecayAdamW((0.5, 1), learning_rate=0.1, weight_decay=0.2, beta_1=0.8)
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    assert copy.factors == [0.5, 1.0] and copy.get_config() == optimizer.get_config()


def test_factors_are_as_many_as_weights():
    with pytest.raises(ValueError, match="factors: got 2 for 1 weights"):
        LayerDecayAdamW((1, 1)).build([keras.Variable(np.zeros(1, "float32"))])


# -- the average of the weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [None, 4])
def test_the_average_moves_by_update_not_by_batch(accumulate):
    """The batch before an update has the average of all updates until then."""
    start, gradients = made(np.random.default_rng(1), 12, {"kernel": (3,)})
    config = constant(
        learning_rate=0.1,
        weight_decay=0.0,
        ema_momentum=0.8,
        gradient_accumulation_steps=accumulate,
    )
    weights = follow(make_optimizer(config, of_weights(), 12), start, gradients)
    optimizer = make_optimizer(config, of_weights(), 12)
    averages = follow(
        optimizer, start, gradients, lambda: optimizer._model_variables_moving_average
    )
    every = accumulate or 1
    average = weights[every - 1][0]
    for update in range(1, 12 // every - (every > 1)):
        average = 0.8 * average + 0.2 * weights[(update + 1) * every - 1][0]
        batch = (update + 2) * every - 2
        np.testing.assert_allclose(averages[batch][0], average, atol=1e-6)
