"""The README's promises: its program runs, its commands and files exist."""

import re
import shlex
from pathlib import Path

import cv2
import pytest

import kmaskrcnn
from kmaskrcnn.cli import EXAMPLES, make_parser
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.weights.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("configs/*.yaml"))]
README = (ROOT / "README.md").read_text()


def test_the_program_runs_as_it_stands(tmp_path, monkeypatch):
    """Only smaller: 64 pixels, one epoch, no download."""
    program = re.findall(r"```python\n(.*?)```", README, re.S)[0]
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 18
    shapes = write_shapes(tmp_path, num_train=3, num_validation=2, image_size=(64, 64))
    shapes.train_images.rename(tmp_path / "images")
    shapes.train_json.rename(tmp_path / "train.json")
    for picture in shapes.validation_images.glob("*.png"):
        picture.rename(tmp_path / "images" / f"val_{picture.name}")
    text = shapes.validation_json.read_text()
    (tmp_path / "val.json").write_text(re.sub(r'"file_name": "', '"file_name": "val_', text))
    cv2.imwrite(
        str(tmp_path / "picture.jpg"), cv2.imread(str(next((tmp_path / "images").glob("val_*"))))
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        kmaskrcnn, "load_backbone_weights", lambda backbone, source, stage5=None: None
    )
    program = program.replace("448", "64").replace("640", "96").replace("epochs=8", "epochs=1")
    names = {}
    exec(program, names)
    assert isinstance(names["detections"], kmaskrcnn.Detections)
    assert (tmp_path / "model.keras").exists()


@pytest.mark.parametrize(
    "path", re.findall(r"\]\(([\w/.]+)\)", README) + re.findall(r"configs/[\w.]+", README)
)
def test_linked_files_exist(path):
    assert (ROOT / path).exists()


def test_presets_exist():
    named = set(re.findall(r'from_preset\("(\w+)"', README))
    assert named and named <= set(PRESETS)


def test_commands_exist():
    commands = set(re.findall(r"^kmaskrcnn ([\w-]+)", README, re.M))
    known = next(a.choices for a in make_parser()._actions if a.dest == "command")
    assert {"train", "evaluate", "predict", "inspect"} <= commands <= set(known)
    targets = set(re.findall(r"^make ([\w-]+)", README, re.M))
    assert {"demo", "test"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def commands_of(text):
    """Every command of ours in a page, a recipe's head or a help text, whole."""
    joined = re.sub(r"\\\n#?", " ", text)
    lines = re.findall(r"^(?:#? *|.*`)(kmaskrcnn [a-z][\w-]+ [^`\n|&]+)", joined, re.M)
    plain = (
        re.sub(r" \[[^\]]*\]", "", line) for line in lines
    )  # [options] in brackets are left out
    return [shlex.split(line, comments=True)[1:] for line in plain]


TEXTS = {path.name: path.read_text() for path in PAGES} | {"cli.py": EXAMPLES}
COMMANDS = [(name, words) for name, text in TEXTS.items() for words in commands_of(text)]


@pytest.mark.parametrize(
    ("name", "words"), COMMANDS, ids=[f"{name} {words[0]}" for name, words in COMMANDS]
)
def test_commands_of_the_documentation_take_what_they_are_given(name, words):
    make_parser().parse_args(words)


def test_there_are_commands_to_try():
    assert len(COMMANDS) > 60 and len({words[0] for _, words in COMMANDS}) > 12
