"""The same seed, the same weights, bit by bit."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_backbone, tiny_config

from kmaskrcnn.config import Recipe, TrainingConfig
from kmaskrcnn.training.resuming import seed_states
from kmaskrcnn.training.trainer import build_model


@pytest.mark.slow  # three trainings, a minute and a half of CPU
def test_two_deterministic_trainings_end_with_the_same_bits(tmp_path):
    script = Path(__file__).with_name("deterministic.py")
    command = [sys.executable, str(script), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    first, again, other_seed = run.stdout.split()
    assert first == again != other_seed


def test_weights_and_draws_depend_on_the_seed_alone(monkeypatch):
    monkeypatch.setattr("kmaskrcnn.components.build_backbone", lambda *_, **__: tiny_backbone())
    monkeypatch.setattr("kmaskrcnn.training.trainer.freeze_backbone", lambda *_: None)
    models = []
    for number, seed in enumerate((1, 1, 2)):
        random.seed(number)
        models.append(build_model(Recipe(tiny_config(), training=TrainingConfig(seed=seed))))
    one, same, other = ([np.array(v) for v in model.variables] for model in models)
    for a, b in zip(one, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not all(np.array_equal(a, b) for a, b in zip(one, other))
    draws = [[np.array(state).tolist() for state in seed_states(model)] for model in models]
    assert len(draws[0]) == 2 and draws[0] == draws[1] and draws[0] != draws[2]
