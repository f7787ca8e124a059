"""docs/tensorflow_addons.md: each replacement, and the page's programs, against values of tensorflow-addons 0.23."""

import re
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.geometry.overlap_losses import overlap_loss
from kmaskrcnn.training.optimizers import LayerDecayAdamW

ROOT = Path(__file__).parents[1]
RECORDED = np.load(ROOT / "tests" / "fixtures" / "tensorflow_addons.npz")
PAGE = (ROOT / "docs" / "tensorflow_addons.md").read_text()
STEPS = 10


@pytest.fixture(scope="module")
def page():
    """What the programs of the page define."""
    names = {}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S)), names)
    return names


def recorded(prefix):
    """Name -> array of what was recorded below a prefix."""
    return {k.removeprefix(prefix): RECORDED[k] for k in RECORDED.files if k.startswith(prefix)}


def test_the_page_names_tests_that_exist():
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    written = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 15 and not [name for name in named if f"def {name}(" not in written]


# -- losses -----------------------------------------------------------------------------------------------------------


def smooth_pairs(boxes, targets):
    """Which pairs stand on no kink: at a side of length 0, or where boxes only touch, any slope between is right."""
    sides = [box[:, 2:] - box[:, :2] for box in (boxes, targets)]
    shared = np.minimum(boxes[:, 2:], targets[:, 2:]) - np.maximum(boxes[:, :2], targets[:, :2])
    return ((sides[0] > 0) & (sides[1] > 0) & (shared != 0)).all(1)


@pytest.mark.parametrize("mode", ["giou", "iou"])
def test_overlap_losses_with_gradients(mode):
    boxes, targets = tf.constant(RECORDED["overlap/boxes"]), RECORDED["overlap/targets"]
    with tf.GradientTape() as tape:
        tape.watch(boxes)
        loss = overlap_loss(boxes, targets, mode)
    gradient = tape.gradient(loss, boxes).numpy()
    np.testing.assert_allclose(loss, RECORDED[f"overlap/{mode}_loss"], atol=1e-6)
    smooth = smooth_pairs(boxes.numpy(), targets)
    assert smooth.sum() > 45
    expected = RECORDED[f"overlap/{mode}_gradient"]
    np.testing.assert_allclose(gradient[smooth], expected[smooth], atol=1e-6)
    # On the kinks, too, no slope is out of proportion.
    assert np.abs(gradient).max() <= np.abs(expected).max() + 0.1


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.75, 1.5), (0.25, 0.0)])
def test_focal_loss_with_gradients(page, alpha, gamma, from_logits):
    logits, labels = RECORDED["focal/logits"], RECORDED["focal/labels"]
    predicted = tf.constant(logits) if from_logits else tf.sigmoid(logits)
    with tf.GradientTape() as tape:
        tape.watch(predicted)
        loss = page["focal_loss"](labels, predicted, alpha, gamma, from_logits)
    name = f"focal/{alpha}_{gamma}_{'logits' if from_logits else 'probabilities'}"
    # Of probabilities both take the logarithm of 1 - p, where p is near 1: 1e-4 of the value is float32's share.
    tolerance = 1e-5 if from_logits else 1e-4
    np.testing.assert_allclose(loss, RECORDED[f"{name}_loss"], rtol=tolerance, atol=1e-6)
    gradient = tape.gradient(loss, predicted)
    np.testing.assert_allclose(gradient, RECORDED[f"{name}_gradient"], rtol=tolerance, atol=1e-6)


# -- layers -----------------------------------------------------------------------------------------------------------

NORMS = {f"groups_{n}": {"groups": n} for n in (1, 2, 3, 6)} | {
    "axis_1": {"groups": 2, "axis": 1},
    "epsilon": {"groups": 3, "epsilon": 0.1},
    "instance": {"groups": -1},
}


@pytest.mark.parametrize("name", NORMS)
def test_group_normalization_with_gradients(name):
    features = tf.constant(RECORDED["norm/features"])
    layer = keras.layers.GroupNormalization(**NORMS[name])
    layer.build(features.shape)
    layer.set_weights(RECORDED["norm/weights"][:, : layer.gamma.shape[0]])
    with tf.GradientTape() as tape:
        tape.watch(features)
        out = layer(features)
    np.testing.assert_allclose(out, RECORDED[f"norm/{name}"], atol=1e-5)
    gradient = tape.gradient(out, features, RECORDED["norm/slope"])
    np.testing.assert_allclose(gradient, RECORDED[f"norm/{name}_gradient"], atol=1e-5)


def test_activations():
    values = RECORDED["activation/values"]
    gelu, mish = keras.activations.gelu(values), keras.activations.mish(values)
    np.testing.assert_allclose(gelu, RECORDED["activation/gelu"], atol=1e-6)
    np.testing.assert_allclose(mish, RECORDED["activation/mish"], atol=1e-6)


# -- optimizers -------------------------------------------------------------------------------------------------------


def decaying(first):
    return keras.optimizers.schedules.ExponentialDecay(first, 1, 0.8)


def sgd(rate=0.1, decay=0.01, **options):
    return keras.optimizers.SGD(rate, weight_decay=decay / 0.1, **options)


def adamw(rate=0.1, decay=0.01, **options):
    return keras.optimizers.AdamW(rate, weight_decay=decay / 0.1, **options)


def sparing(optimizer):
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


DECAYED = {
    "sgdw": sgd,
    "sgdw_momentum": lambda: sgd(momentum=0.9),
    "sgdw_nesterov": lambda: sgd(momentum=0.9, nesterov=True),
    "sgdw_excluded": lambda: sparing(sgd(momentum=0.9)),
    "sgdw_schedule": lambda: sgd(decaying(0.1), momentum=0.9),
    "adamw": adamw,
    "adamw_epsilon": lambda: adamw(beta_1=0.8, beta_2=0.99, epsilon=1e-3),
    "adamw_excluded": lambda: sparing(adamw()),
    "adamw_schedule": lambda: adamw(decaying(0.1)),
}


def follow(optimizer, look=lambda variables: [v.numpy() for v in variables]):
    """Name -> what `look` sees of the variables after each recorded step, `(STEPS, ...)`."""
    start, gradients = recorded("optimizer/start/"), recorded("optimizer/gradients/")
    variables = [keras.Variable(value, name=name) for name, value in start.items()]
    seen = []
    for step in range(STEPS):
        optimizer.apply([tf.constant(gradients[v.name][step]) for v in variables], variables)
        seen.append(look(variables))
    return {v.name: np.stack(values) for v, values in zip(variables, zip(*seen))}


def assert_follows(weights, name, atol=2e-6):
    assert set(weights) == {"kernel", "bias"}
    for key, values in weights.items():
        np.testing.assert_allclose(values, RECORDED[f"optimizer/{name}/{key}"], atol=atol)


@pytest.mark.parametrize("name", DECAYED)
def test_decayed_optimizers(name):
    # 1 - beta ** t loses digits in float32: 1e-4 of Adam's first steps of 0.1
    assert_follows(follow(DECAYED[name]()), name, atol=1e-5 if "adam" in name else 2e-6)


def test_a_decay_that_does_not_follow_the_rate_differs():
    """Where the rate alone has a schedule, tensorflow-addons goes on decaying at full strength; Keras does not."""
    weights = follow(sgd(decaying(0.1), momentum=0.9))["kernel"]
    assert np.abs(weights - RECORDED["optimizer/sgdw_fixed_decay/kernel"]).max() > 0.01


def test_rates_by_layer():
    start, gradients, expected = (
        [RECORDED[f"layers/{kind}/{i}"] for i in range(6)]
        for kind in ("start", "gradients", "weights")
    )
    factors = np.repeat(RECORDED["layers/rates"] / 0.01, 2)  # kernel and bias of each layer
    optimizer = LayerDecayAdamW(factors, learning_rate=0.01, weight_decay=0.3)
    variables = [keras.Variable(value) for value in start]
    for step in range(STEPS):
        optimizer.apply([tf.constant(values[step]) for values in gradients], variables)
        for variable, weights in zip(variables, expected):
            np.testing.assert_allclose(variable, weights[step], atol=2e-6)


def averages_of(optimizer):
    return lambda variables: [v.numpy() for v in optimizer._model_variables_moving_average]


def test_moving_average():
    """Keras's average begins at the weights after the first step: tensorflow-addons' `start_step=1`."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.7)
    assert_follows(follow(optimizer, averages_of(optimizer)), "average_from_1/average")


def test_moving_average_from_the_first_weights():
    """With `start_step=0` the averages differ by what is left of the first weights."""
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.7)
    averages = follow(optimizer, averages_of(optimizer))
    for name in averages:
        first = RECORDED[f"optimizer/average/{name}"][0] - RECORDED[f"optimizer/start/{name}"]
        left = 0.7 ** np.arange(1, STEPS + 1).reshape(-1, *[1] * first.ndim)
        averages[name] = averages[name] - left * first
    assert_follows(averages, "average/average")


def test_dynamic_moving_average():
    step = tf.Variable(0)
    average = tf.train.ExponentialMovingAverage(0.7, num_updates=step)

    def look(variables):
        variables = [v.value for v in variables]
        average.apply(variables)
        step.assign_add(1)
        return [average.average(v).numpy() for v in variables]

    start = recorded("optimizer/start/")
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(variables := [keras.Variable(v, name=n) for n, v in start.items()])
    average.apply([v.value for v in variables])
    gradients, seen = recorded("optimizer/gradients/"), []
    for i in range(STEPS):
        optimizer.apply([tf.constant(gradients[v.name][i]) for v in variables])
        seen.append(look(variables))
    averages = {v.name: np.stack(values) for v, values in zip(variables, zip(*seen))}
    assert_follows(averages, "average_dynamic/average")


class OneWeight(keras.Model):
    """Its loss is the sum of weight times input, so the inputs are the gradients."""

    def __init__(self, start):
        super().__init__()
        self.weight = self.add_weight(shape=start.shape, initializer="zeros")
        self.weight.assign(start)

    def call(self, inputs):
        return keras.ops.sum(self.weight * inputs[0])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return y_pred


def test_stochastic_weight_averaging(page):
    """From the 4th update on, every 2nd: with two steps an epoch, the ends of all epochs but the first."""
    model = OneWeight(RECORDED["optimizer/start/kernel"])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    gradients = tf.data.Dataset.from_tensor_slices(RECORDED["optimizer/gradients/kernel"])
    steps = {"epochs": STEPS // 2, "steps_per_epoch": 2, "verbose": 0}
    model.fit(gradients.batch(1), callbacks=[page["AverageOfEpochs"](first=1)], **steps)
    expected = RECORDED["optimizer/swa/average/kernel"][-1]
    np.testing.assert_allclose(model.weight, expected, atol=2e-6)


# -- pictures ---------------------------------------------------------------------------------------------------------

HOW = [(i, f) for i in ("nearest", "bilinear") for f in ("constant", "reflect", "nearest", "wrap")]


@pytest.mark.parametrize("interpolation, fill_mode", HOW)
def test_rotate_and_translate(page, interpolation, fill_mode):
    pictures = RECORDED["picture/float"]
    how = {"interpolation": interpolation, "fill_mode": fill_mode, "fill_value": 7.0}
    for name, amount in (("rotate", "angles"), ("translate", "shifts")):
        moved = page[name](pictures, RECORDED[f"picture/{amount}"], **how)
        expected = RECORDED[f"picture/{name}_{interpolation}_{fill_mode}"]
        # 1e-6 of a pixel's place, times 255 of its neighbour's grey
        np.testing.assert_allclose(moved, expected, atol=1e-3)


@pytest.mark.parametrize("interpolation, fill_mode", HOW)
def test_random_layers_move_as_far(interpolation, fill_mode):
    """Keras's layers count an angle in turns and a shift in sides, down before right."""
    picture = RECORDED["picture/float"][:1]
    how = {"interpolation": interpolation, "fill_mode": fill_mode, "fill_value": 7.0}
    turns = RECORDED["picture/angles"][0] / (2 * np.pi)
    right, down = RECORDED["picture/shifts"][0] / picture.shape[2:0:-1]
    rotated = keras.layers.RandomRotation((turns, turns), **how)(picture, training=True)
    moved = keras.layers.RandomTranslation((down, down), (right, right), **how)
    for out, name in ((rotated, "rotate"), (moved(picture, training=True), "translate")):
        expected = RECORDED[f"picture/{name}_{interpolation}_{fill_mode}"][:1]
        np.testing.assert_allclose(out, expected, atol=1e-3)


def test_cutout(page):
    pictures, offsets = RECORDED["picture/uint8"], RECORDED["picture/offsets"]
    out = page["cutout"](pictures, (4, 6), offsets, 9)
    np.testing.assert_array_equal(out, RECORDED["picture/cutout"])


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.75])
def test_sharpness_within_the_border(factor):
    """tensorflow-addons leaves the outermost pixels alone and rounds; Keras does neither."""
    layer = keras.layers.RandomSharpness((factor / 2, factor / 2))
    out = layer(RECORDED["picture/uint8"].astype("float32"), training=True)
    expected = RECORDED[f"picture/sharpness_{factor}"]
    np.testing.assert_allclose(out[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=0.501)


def test_objects_of_a_mask():
    labels, last = RECORDED["blobs/labels"], 0
    for mask, expected in zip(RECORDED["blobs/masks"], labels):
        count, found = cv2.connectedComponents(mask.astype("uint8"), connectivity=4)
        # tensorflow-addons goes on counting from picture to picture
        np.testing.assert_array_equal(found, np.where(expected > 0, expected - last, 0))
        last += count - 1
    assert labels.max() == last


def test_distance_to_the_background():
    for mask, expected in zip(RECORDED["blobs/masks"], RECORDED["blobs/distances"]):
        found = cv2.distanceTransform(mask.astype("uint8"), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        np.testing.assert_allclose(found, expected, atol=1e-5)
