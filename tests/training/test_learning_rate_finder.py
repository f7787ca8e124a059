"""Sweeps over problems whose stable rates are known."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.training import learning_rate_finder
from kmaskrcnn.training.learning_rate_finder import (
    ExponentialSweep,
    LearningRateCurve,
    find_learning_rate,
)


def parabola(optimizer, curvature, dtype="float32"):
    """One weight w, and the loss curvature / 2 * w^2 at every step: descent diverges beyond 2 / curvature."""
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype=dtype)
    model = keras.Sequential([keras.Input((1,)), layer])
    model.dtype_policy = keras.DTypePolicy(dtype)  # by which `compile` scales the loss
    model.compile(optimizer, loss="mse")
    inputs = np.full((1, 1), np.sqrt(curvature / 2), "float32")
    return model, tf.data.Dataset.from_tensors((inputs, np.zeros((1, 1), "float32")))


@pytest.mark.parametrize("curvature", [0.5, 40.0])
def test_the_loss_is_lowest_where_descent_begins_to_diverge(curvature):
    model, dataset = parabola(keras.optimizers.SGD(0.1), curvature)
    limit = 2 / curvature
    curve = find_learning_rate(model, dataset, limit / 20, limit * 20, steps=60)
    assert curve.rates[int(np.argmin(curve.losses))] == pytest.approx(limit, rel=0.15)
    # Smoothed over three updates, each 10 % above the one before.
    assert curve.rates[curve.lowest] == pytest.approx(limit, rel=0.25)
    assert curve.suggestion == curve.rates[curve.lowest] / 10
    assert curve.steepest < limit
    assert len(curve.rates) < 60 and curve.losses[-1] > min(curve.losses)


def test_losses_and_rates_by_hand():
    """w = 1, curvature 2: the loss is w^2, and an update makes it (1 - 2 rate)^2 times as large."""
    model, dataset = parabola(keras.optimizers.SGD(0.1), 2.0)
    curve = find_learning_rate(model, dataset, 0.1, 0.4, steps=3)
    np.testing.assert_allclose(curve.rates, [0.1, 0.2, 0.4], rtol=1e-5)
    np.testing.assert_allclose(curve.losses, [1, 0.64, 0.64 * 0.36], rtol=1e-5)


def test_half_precision_sweeps_as_well():
    """`compile` wraps the optimizer to scale the loss; numbers as above, rounded to float16's 11 bits."""
    model, dataset = parabola(keras.optimizers.SGD(0.1), 2.0, "mixed_float16")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    # A gradient of 2 times the first scale, 2^15, overflows: that update is skipped.
    curve = find_learning_rate(model, dataset, 0.1, 0.8, steps=4)
    np.testing.assert_allclose(curve.rates, [0.1, 0.2, 0.4], rtol=1e-5)
    np.testing.assert_allclose(curve.losses, [1, 0.64, 0.64 * 0.36], rtol=2e-3)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_updates_that_loss_scaling_skips_are_not_in_the_curve():
    """Gradients of 2 overflow with a scale of 2^127, and fit with its half."""
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=2.0**127)
    model, dataset = parabola(scaled, 2.0)
    curve = find_learning_rate(model, dataset, 0.1, 0.4, steps=3)
    np.testing.assert_allclose(curve.rates, [0.1, 0.2], rtol=1e-5)
    np.testing.assert_allclose(curve.losses, [1, 0.64], rtol=1e-5)


@pytest.mark.parametrize(
    "rate",
    [0.125, keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)],
    ids=["number", "schedule"],
)
def test_all_is_as_before_and_training_goes_on_as_if_nothing_had_been(rate):
    def trained(sweep):
        model, dataset = parabola(keras.optimizers.SGD(rate, momentum=0.9), 2.0)
        model.fit(dataset, epochs=2, verbose=0)
        if sweep:
            find_learning_rate(model, dataset, 1e-3, 10, steps=20)
        assert int(model.optimizer.iterations) == 2
        model.fit(dataset, epochs=2, verbose=0)
        return float(model.layers[0].kernel[0, 0]), float(model.optimizer.learning_rate)

    assert trained(True) == trained(False)


def test_the_model_comes_back_from_an_error_too():
    model, dataset = parabola(keras.optimizers.SGD(0.1), 2.0)

    def broken():
        yield next(iter(dataset))
        raise OSError("a picture is gone")

    with pytest.raises(OSError, match="gone"):
        find_learning_rate(model, broken(), 0.1, 0.4, steps=5)
    assert float(model.layers[0].kernel[0, 0]) == 1
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_accumulated_batches_are_one_update():
    model, dataset = parabola(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), 2.0)
    curve = find_learning_rate(model, dataset, 0.1, 0.4, steps=3)
    assert len(curve.losses) == 3
    # The second batch of an update has the same weight, and the update its rate: 0.1 * 4^(1/5).
    np.testing.assert_allclose(curve.losses[:2], [1, (1 - 0.2 * 4 ** (1 / 5)) ** 2], rtol=1e-5)
    np.testing.assert_allclose(curve.rates[:2], [0.1 * 4 ** (1 / 5), 0.1 * 4 ** (3 / 5)], rtol=1e-5)


def test_accumulation_begins_at_the_lowest_rate_after_training_too():
    """w is 1 again before the sweep: the numbers of a new optimizer."""
    model, dataset = parabola(keras.optimizers.SGD(0.1, gradient_accumulation_steps=2), 2.0)
    model.fit(dataset.repeat(20), verbose=0)
    model.layers[0].kernel.assign([[1.0]])
    curve = find_learning_rate(model, dataset, 0.1, 0.4, steps=3)
    np.testing.assert_allclose(curve.losses[:2], [1, (1 - 0.2 * 4 ** (1 / 5)) ** 2], rtol=1e-5)
    np.testing.assert_allclose(curve.rates[:2], [0.1 * 4 ** (1 / 5), 0.1 * 4 ** (3 / 5)], rtol=1e-5)
    assert int(model.optimizer.iterations) == 10


def test_a_loss_that_is_no_number_ends_the_sweep():
    model, dataset = parabola(keras.optimizers.SGD(0.1), 2.0)
    curve = find_learning_rate(model, dataset, 1e-2, 1e30, steps=40)
    assert len(curve.losses) < 10 and np.isfinite(curve.losses).all()
    nothing = tf.data.Dataset.from_tensors((np.full((1, 1), np.nan), np.zeros((1, 1))))
    with pytest.raises(ValueError, match="first loss, or every gradient, is no number"):
        find_learning_rate(model, nothing, 0.1, 0.4)


@pytest.mark.parametrize("rates", [(0.0, 1.0, 9), (1.0, 0.1, 9), (0.1, 1.0, 1)])
def test_sweeps_that_make_no_sense_are_refused(rates):
    model, dataset = parabola("sgd", 1.0)
    with pytest.raises(ValueError, match="lowest="):
        find_learning_rate(model, dataset, *rates)


def test_the_curve_says_what_to_paste_and_is_drawn(tmp_path):
    losses = (3.0, 2.9, 2.0, 1.9, 2.5)
    curve = LearningRateCurve((1e-4, 1e-3, 1e-2, 1e-1, 1.0), losses, losses, scale=8.0)
    # By halves of the neighbours' difference: -0.1, -0.5, -0.5, ... the first of the steepest
    assert (curve.suggestion, curve.steepest) == (1e-2, 1e-3)
    assert curve.to_text().endswith("training:\n  learning_rate: 0.08")
    curve.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 5000


def test_the_sweep_is_saved_with_its_optimizer():
    sweep = ExponentialSweep(0.1, 0.4, 3, first=5)
    again = keras.optimizers.SGD.from_config(keras.optimizers.SGD(sweep).get_config())
    again.iterations.assign(6)
    assert float(again.learning_rate) == pytest.approx(0.2)


def test_smoothing_has_no_lag():
    """A straight line stays one."""
    line = list(range(50))
    np.testing.assert_allclose(learning_rate_finder._smooth(line, 50), line)
    peak = [0.0] * 20 + [1.0] + [0.0] * 20
    smoothed = learning_rate_finder._smooth(peak, 100)
    assert smoothed[17:24].tolist() == pytest.approx([1 / 7] * 7) and smoothed.argmax() in range(
        17, 24
    )
