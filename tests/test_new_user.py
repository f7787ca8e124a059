"""The README's way from VIA's json and a folder of photos to a served model, with its own commands."""

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from tiny import TINY

from kmaskrcnn.cli import main

ROOT = Path(__file__).parents[1]
SECTION = re.search(
    r"## From VIA's json.*?```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S
)
COMMANDS = [shlex.split(line, comments=True) for line in SECTION[1].splitlines()]
SIZE = (64, 80)
# The recipe, only smaller: no download, one epoch of pictures of 64 pixels.
SMALL = {
    **{key: value for key, value in TINY.items() if key != "class_names"},
    "backbone_weights": None,
    "epochs": 1,
    "evaluate_every": 1,
    "trainable_stages": 5,
}


def draw_photo(number):
    """A photo with a disc and a box on it, and what VIA writes down of them."""
    generator = np.random.default_rng(number)
    photo = generator.integers(0, 60, (*SIZE, 3)).astype("uint8")
    x, y = generator.integers(14, 26), generator.integers(14, 50)
    cv2.circle(photo, (int(x), int(y)), 10, (255, 120, 0), -1)
    left, top = generator.integers(40, 55), generator.integers(2, 30)
    cv2.rectangle(photo, (int(left), int(top)), (int(left) + 20, int(top) + 30), (0, 200, 255), -1)
    disc = {"name": "circle", "cx": int(x), "cy": int(y), "r": 10}
    sides = {"x": int(left), "y": int(top), "width": 20, "height": 30}
    regions = [(disc, "disc"), ({"name": "rect", **sides}, "box")]
    return photo, [
        {"shape_attributes": shape, "region_attributes": {"kind": kind}} for shape, kind in regions
    ]


@pytest.fixture
def annotated(tmp_path):
    """A folder as VIA's user has it: `photos/` and a project of version 2."""
    (tmp_path / "photos").mkdir()
    pictures = {}
    for number in range(5):
        photo, regions = draw_photo(number)
        name = f"{number}.jpg"
        cv2.imwrite(str(tmp_path / "photos" / name), photo)
        size = (tmp_path / "photos" / name).stat().st_size
        described = {"filename": name, "size": size, "regions": regions, "file_attributes": {}}
        pictures[f"{name}{size}"] = described
    project = {"_via_settings": {}, "_via_img_metadata": pictures, "_via_attributes": {}}
    (tmp_path / "via.json").write_text(json.dumps(project))
    return tmp_path


def test_five_commands_or_less():
    names = [words[1] for words in COMMANDS]
    assert len(names) <= 5 and {words[0] for words in COMMANDS} == {"kmaskrcnn"}
    assert {"train", "evaluate", "export"} <= set(names)


@pytest.mark.slow
def test_they_lead_from_photos_to_a_served_model(annotated, monkeypatch, capsys):
    monkeypatch.chdir(annotated)
    for _, command, *words in COMMANDS:
        words = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
        if command == "train":
            words += ["--set", *(f"{key}={json.dumps(value)}" for key, value in SMALL.items())]
        assert main([command, *words]) == 0, command
    shown = capsys.readouterr().out
    assert "5 pictures, 10 objects, 2 classes, 0 faulty" in shown and "mask AP" in shown
    served = tf.saved_model.load("exported").signatures
    assert served["metadata"]()["class_names"].numpy().tolist() == [b"box", b"disc"]
    found = served["predict_jpeg"](encoded=tf.constant([Path("photos/0.jpg").read_bytes()]))
    assert found["errors"].numpy().tolist() == [b""] and found["num_detections"].numpy()[0] > 0
