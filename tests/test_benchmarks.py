"""Every script of benchmarks/ starts: it can be imported and says what it takes."""

import importlib
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PATHS = sorted(BENCHMARKS.glob("*.py"))
SCRIPTS = [path.stem for path in PATHS if "__main__" in path.read_text()]
PARTS = [path.stem for path in PATHS if path.stem not in SCRIPTS]
NOT_OURS = {"ray", "torch", "torchvision"}  # what a script may need beside the package


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def skip_or_raise(error):
    if error.name not in NOT_OURS:
        raise error
    pytest.skip(f"{error.name} is not installed")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_what_it_takes(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    except ModuleNotFoundError as error:
        skip_or_raise(error)
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.startswith(f"usage: {name}.py")
    assert len(text.splitlines()) > 4  # more than the line of --help itself


@pytest.mark.parametrize("name", PARTS)
def test_what_scripts_share_can_be_imported(name):
    module = importlib.import_module(name)
    assert module.__doc__


def test_arithmetic_is_counted_by_its_definition():
    """2 for each product: 16 channels of 8 x 8 from 3 x 3 x 4, and a 5 x 7 from 6 rows each."""
    tf, measuring = importlib.import_module("tensorflow"), importlib.import_module("measuring")

    @tf.function
    def work(maps, kernel, a, b):
        return tf.nn.conv2d(maps, kernel, 1, "SAME"), tf.matmul(a, b, transpose_a=True)

    shapes = ((1, 8, 8, 4), (3, 3, 4, 16), (6, 5), (6, 7))
    traced = work.get_concrete_function(*map(tf.zeros, shapes))
    expected = 2 * 8 * 8 * 16 * 3 * 3 * 4 + 2 * 5 * 7 * 6
    assert measuring.giga_operations(traced) == pytest.approx(expected / 1e9, rel=1e-6)
