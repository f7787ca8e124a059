"""A training that is killed with signal 9 in mid-epoch, and one that is not: the same weights, bit by bit."""

import functools
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY, tiny_backbone, tiny_model

from kmaskrcnn.config import DataConfig, MaskRCNNConfig, Recipe, TrainingConfig
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.training import callbacks, trainer
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
    assert not list(tmp_path.iterdir())  # the state is gone for good


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


def test_a_kill_while_the_model_is_saved_costs_one_epoch_and_no_file(tmp_path, monkeypatch):
    shapes = write_shapes(tmp_path, num_train=2, num_validation=1, image_size=(64, 64))
    recipe = Recipe(
        MaskRCNNConfig(**{**TINY, "with_mask": False}),
        DataConfig(batch_size=2),
        TrainingConfig(epochs=2, warmup_steps=0),
    )
    run, steps, save = tmp_path / "run", [], MaskRCNN.save
    train = functools.partial(
        trainer.train, recipe, shapes[:2], shapes[2:], run, pictures=0, verbose=0
    )
    build = lambda recipe: MaskRCNN(recipe.model, backbone=tiny_backbone())  # noqa: E731
    monkeypatch.setattr(trainer, "build_model", build)
    monkeypatch.setattr(callbacks, "evaluate_model", lambda *_: {"box": {"AP": 0.0}})
    eager = functools.partialmethod(MaskRCNN.compile, run_eagerly=True)
    monkeypatch.setattr(MaskRCNN, "compile", eager)

    def killed(model, path):
        steps.append(int(model.optimizer.iterations))
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    def whole(model, path):
        steps.append(int(model.optimizer.iterations))
        assert Resume(run / "resume").epoch == 1
        save(model, path)

    run.mkdir()
    (run / "model.keras").write_bytes(b"of another training")
    monkeypatch.setattr(MaskRCNN, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train()
    assert (run / "model.keras").read_bytes() == b"of another training"
    assert Resume(run / "resume").epoch == 1
    monkeypatch.setattr(MaskRCNN, "save", whole)
    train(resume=True)
    assert steps == [2, 2]
    assert (run / "model.keras").stat().st_size > 10_000
    assert not list(run.glob("resume*")) and not list(run.glob("*.part*"))
    rows = (run / "history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["0", "1"]  # the repeated epoch stands there once


def test_nothing_to_go_on_with_is_told(tmp_path, caplog, monkeypatch):
    shapes = write_shapes(tmp_path, num_train=2, num_validation=1, image_size=(64, 64))

    def build(recipe):
        raise KeyboardInterrupt  # what follows is not of interest

    monkeypatch.setattr(trainer, "build_model", build)
    for resume in (False, True):
        caplog.clear()
        with pytest.raises(KeyboardInterrupt):
            trainer.train(Recipe(), shapes[:2], shapes[2:], tmp_path / "run", resume=resume)
        assert ("nothing was interrupted" in caplog.text) == resume
