"""A training that is killed with signal 9 in mid-epoch, and one that is not: the same weights, bit by bit."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_model

from kmaskrcnn.training.resuming import Resume, seed_states

SCRIPT = Path(__file__).with_name("resumable.py")


def start(folder, wait=0):
    command = [sys.executable, str(SCRIPT), str(folder), str(wait)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def results(process):
    lines = process.communicate(timeout=300)[0].splitlines()
    assert process.returncode == 0
    return lines[-2], lines[-1]


def test_killed_in_mid_epoch_and_started_again(tmp_path):
    killed = start(tmp_path / "a", wait=600)
    for line in killed.stdout:
        if line.startswith("epoch 1 step 1"):
            break
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    steps, weights = results(start(tmp_path / "a"))
    assert steps == "started 1 iterations 12"
    uninterrupted, expected = results(start(tmp_path / "b"))
    assert uninterrupted == "started 0 iterations 12"
    assert weights == expected
    assert not list(tmp_path.iterdir())  # the state goes when training ends


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.compile("sgd")
    return model


def saved(model, folder, epoch):
    resume = Resume(folder)
    resume.set_model(model)
    resume.on_epoch_begin(epoch)
    return resume


def test_a_kill_while_the_state_is_written_leaves_the_one_before(model, tmp_path):
    folder = tmp_path / "state"
    saved(model, folder, 4)
    (tmp_path / "state.new").mkdir()
    (tmp_path / "state.new" / "state.json").write_text("{")  # half a state
    assert Resume(folder).epoch == 4
    folder.rename(tmp_path / "state.old")  # killed between the two renames
    assert Resume(folder).epoch == 4
    Resume(folder).restore(model)
    assert saved(model, folder, 5).epoch == 5 and [p.name for p in tmp_path.iterdir()] == ["state"]


def test_draws_go_on_where_they_were(model, tmp_path):
    states = seed_states(model)
    assert len(states) == 2  # of the anchors and of the regions
    before = [np.asarray(state) for state in states]
    resume = saved(model, tmp_path / "state", 1)
    for state in states:
        state.assign(state + 5)
    resume.restore(model)
    for state, expected in zip(states, before):
        np.testing.assert_array_equal(state, expected)
