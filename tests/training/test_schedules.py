"""Learning rates against hand numbers."""

import keras
import numpy as np
import pytest

from kmaskrcnn.config import TrainingConfig
from kmaskrcnn.training.schedules import WarmupSchedule, make_optimizer


def test_warm_up_is_linear():
    schedule = WarmupSchedule(0.1, total_steps=1000, warmup_steps=100, kind="constant")
    np.testing.assert_allclose(
        [float(schedule(step)) for step in (0, 50, 100, 999)], [1e-4, 0.05, 0.1, 0.1], rtol=1e-5
    )


def test_steps_drop_tenfold_at_two_thirds_and_eight_ninths():
    schedule = WarmupSchedule(1.0, total_steps=900, kind="step")
    rates = [float(schedule(step)) for step in (0, 599, 600, 799, 800, 899)]
    np.testing.assert_allclose(rates, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-5)


def test_cosine_ends_at_zero():
    schedule = WarmupSchedule(1.0, total_steps=100, kind="cosine")
    np.testing.assert_allclose(
        [float(schedule(s)) for s in (0, 50, 100, 150)], [1, 0.5, 0, 0], atol=1e-6
    )


def test_schedule_survives_a_round_trip():
    schedule = WarmupSchedule(0.1, 10, 3, "cosine")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert copy.get_config() == schedule.get_config()


def test_unknown_kind_is_named():
    with pytest.raises(ValueError, match="kind.*'linear'"):
        WarmupSchedule(0.1, 10, kind="linear")


def test_accumulated_batches_do_not_speed_up_the_schedule():
    config = TrainingConfig(
        epochs=2, learning_rate=1.0, schedule="step", warmup_steps=0, gradient_accumulation_steps=4
    )
    optimizer = make_optimizer(config, steps_per_epoch=18)  # drops at batches 24 and 32 of 36
    variable = keras.Variable(np.zeros(1, "float32"))
    optimizer.build([variable])
    rates = []
    for _ in range(36):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply_gradients([(np.zeros(1, "float32"), variable)])
    np.testing.assert_allclose(rates, [1.0] * 24 + [0.1] * 8 + [0.01] * 4, rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_spares_biases_and_norms(name):
    optimizer = make_optimizer(
        TrainingConfig(optimizer=name, learning_rate=1.0, weight_decay=0.1, epochs=1), 1
    )
    variables = [
        keras.Variable(np.ones(2, "float32"), name=n) for n in ("kernel", "bias", "gamma", "beta")
    ]
    optimizer.build(variables)
    optimizer.apply_gradients([(np.zeros(2, "float32"), v) for v in variables])
    assert variables[0].numpy()[0] < 1
    assert all((v.numpy() == 1).all() for v in variables[1:])
