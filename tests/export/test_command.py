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


@pytest.mark.parametrize(
    "option, format",
    [
        (["--image-size", "64", "64"], "saved_model"),
        (["--dtype", "bfloat16"], "onnx"),
        (["--quantise", "int8"], "saved_model"),
    ],
)
def test_an_option_of_another_format_is_an_error_of_one_line(option, format, saved, capsys):
    assert main(["export", saved, "nowhere", "--format", format, *option]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"kmaskrcnn export: error: {option[0]} is for") and format in error
    assert error.count("\n") == 1
