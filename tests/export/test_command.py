"""`kmaskrcnn export`."""

import pytest
import tensorflow as tf

from kmaskrcnn.cli import main


@pytest.fixture(scope="module")
def saved(served_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.keras"
    served_model.save(path)
    return str(path)


@pytest.mark.slow
def test_it_writes_a_saved_model(saved, tmp_path, capsys):
    assert main(["export", saved, str(tmp_path / "1")]) == 0
    assert "written" in capsys.readouterr().out
    assert "predict_jpeg" in tf.saved_model.load(str(tmp_path / "1")).signatures


def test_a_size_for_a_saved_model_is_an_error_of_one_line(saved, tmp_path, capsys):
    arguments = ["export", saved, str(tmp_path / "1"), "--image-size", "64", "64"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("kmaskrcnn export: error: --image-size") and error.count("\n") == 1
