"""Learning rates against hand numbers."""

import keras
import numpy as np
import pytest

from kmaskrcnn.training.schedules import WarmupSchedule


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
