"""Presets: found by name or path, downloaded with their hash checked, opened, built and saved again."""

import dataclasses
import hashlib
import logging
import re
import urllib.error
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils
from parity_stages import fixture_state, load_fixture
from tiny import tiny_config, tiny_model

from kmaskrcnn.cli import main
from kmaskrcnn.config import ConfigError, MaskRCNNConfig, save_yaml
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.detections import Detections
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.weights.architectures import ARCHITECTURES, make_config, recognise
from kmaskrcnn.weights.coco import COCO_80, COCO_90
from kmaskrcnn.weights.convert import named_weights
from kmaskrcnn.weights.presets import PRESETS, OpenedPreset, Preset, check_hash, fetch


def test_each_row_of_the_tables_is_whole():
    for name, preset in PRESETS.items():
        assert preset.architecture in ARCHITECTURES, name
        assert preset.url.startswith("https://") and preset.license, name
        assert re.fullmatch(r"[0-9a-f]{8}", preset.sha256) or preset.license == "CC-BY-SA-3.0", name
        assert preset.url.count(preset.sha256 or preset.md5), name
    for name, architecture in ARCHITECTURES.items():
        config = make_config(architecture)
        assert isinstance(config, MaskRCNNConfig), name
    assert len(COCO_80) == 80 and len(COCO_90) == 90 and COCO_90[89] == "toothbrush"
    assert COCO_90[12] == "stop sign"  # category 13, behind the empty 12


# Names and ids as COCO's instances_val2017.json has them, on both sides of each gap.
COCO_CATEGORIES = {
    **{"person": 1, "fire hydrant": 11, "stop sign": 13, "cow": 21, "giraffe": 25, "backpack": 27},
    **{
        "umbrella": 28,
        "handbag": 31,
        "bottle": 44,
        "wine glass": 46,
        "bed": 65,
        "dining table": 67,
    },
    **{"toilet": 70, "tv": 72, "refrigerator": 82, "book": 84, "toothbrush": 90},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_results_have_the_category_ids_of_coco(name):
    config = make_config(ARCHITECTURES[name])
    published = set(config.class_names) & set(COCO_CATEGORIES)
    assert len(published) in {80: (17,), 90: (17,), 1: (0, 1)}[config.num_classes]
    for wanted in published:
        label = [config.class_names.index(wanted)]
        found = Detections([[0, 0, 9, 9]], label, [0.9], (10, 10), class_names=config.class_names)
        (result,) = found.to_coco(1, config.category_ids or None)
        assert result["category_id"] == COCO_CATEGORIES[wanted], wanted


def test_classes_of_ones_own_have_no_ids_of_coco():
    detectron2 = ARCHITECTURES["mask_rcnn_R_50_FPN"]
    assert make_config(detectron2, 2).category_ids == ()
    assert make_config(detectron2, 80, tuple(f"my {i}" for i in range(80))).category_ids == ()
    assert make_config(detectron2, category_ids=tuple(range(80))).category_ids[-1] == 79


def files(tmp_path, monkeypatch, download):
    """Keras's downloads go to `download(url, path)`, and its cache to a folder of the test."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(file_utils, "urlretrieve", lambda url, path, *_: download(url, path))


def test_a_download_is_checked_and_kept(tmp_path, monkeypatch):
    content, asked = b"weights", []
    digest = hashlib.sha256(content).hexdigest()

    def download(url, path):
        asked.append(url)
        with open(path, "wb") as stream:
            stream.write(content)

    files(tmp_path, monkeypatch, download)
    preset = Preset("resnet18", "https://example.org/a-1.pth", sha256=digest[:8])
    monkeypatch.setitem(PRESETS, "made_up", preset)
    path = fetch("made_up")
    assert fetch("made_up") == path and asked == [preset.url]  # the second time it is there
    assert str(path) == str(tmp_path / "kmaskrcnn" / "made_up.pth")
    damaged = dataclasses.replace(preset, sha256="00000000")
    with pytest.raises(ValueError, match=f"its sha256 is {digest}, published is 00000000"):
        check_hash(path, damaged)
    with pytest.raises(ValueError, match="its md5 is"):
        check_hash(path, dataclasses.replace(preset, sha256="", md5="000000"))


def test_offline_says_where_to_put_the_file(tmp_path, monkeypatch):
    def offline(url, path):
        raise urllib.error.URLError("no route to host")

    files(tmp_path, monkeypatch, offline)
    place = tmp_path / "kmaskrcnn" / "maskrcnn_resnet50_fpn_coco.pth"
    with pytest.raises(OSError, match="no route to host.*bf2d0c1e.pth elsewhere.*" + str(place)):
        MaskRCNN.from_preset("maskrcnn_resnet50_fpn_coco")


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="'maskrcnn' is no file, and none of maskrcnn_res"):
        MaskRCNN.from_preset("maskrcnn")
    np.savez(tmp_path / "x.npz", something=np.zeros(3))
    with pytest.raises(ValueError, match="names such as something are of none of"):
        MaskRCNN.from_preset(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="architecture: got 'vgg', accepted are maskrcnn_resnet50"):
        MaskRCNN.from_preset(tmp_path / "x.npz", architecture="vgg")


@pytest.mark.parametrize("name", ["maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"])
def test_a_file_tells_its_architecture(name):
    names = {n: np.zeros(s) for n, s in small_shapes(load_fixture(name)).items()}
    assert recognise(names) == name
    boxes = {n: x for n, x in names.items() if ".mask_" not in n}
    assert recognise(boxes) == name.replace("mask", "faster", 1)


def small_shapes(fixture):
    import json

    return {
        name: [1] * len(shape) if "cls_score" not in name else [91] + [1] * (len(shape) - 1)
        for name, shape in json.loads(str(fixture["shapes"])).items()
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file of torchvision's names and shapes, as a user has it."""
    path = tmp_path_factory.mktemp("weights") / "published.npz"
    np.savez(path, **fixture_state(load_fixture("maskrcnn_resnet50_fpn")))
    return path


def test_own_classes_and_grey_pictures(published, caplog):
    with caplog.at_level(logging.INFO):
        model = MaskRCNN.from_preset(
            published, class_names=("nucleus",), in_channels=1, score_threshold=0.3
        )
    assert "301 of 307 weights loaded; left as initialised, the file has 90 classes" in caplog.text
    config = model.config
    assert config.class_names == ("nucleus",) and config.score_threshold == 0.3
    assert config.norm_epsilon == 0 and not config.roi_aligned and config.size_divisor == 32
    assert config.pixel_mean == pytest.approx([np.mean([123.675, 116.28, 103.53])])
    assert model.backbone.get_layer("stem").kernel.shape == (7, 7, 1, 64)
    images = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 1)).astype("float32")
    sizes = np.array([[64, 64]], "int32")
    found = model.predict_graph({"images": images, "image_sizes": sizes})
    assert np.isfinite(found["boxes"]).all()


def test_given_names_are_kept_also_where_there_are_as_many_as_published(published):
    opened = OpenedPreset(published)
    mine = tuple(f"my {i}" for i in range(90))
    assert opened.config(90, mine).class_names == opened.config(None, mine).class_names == mine
    assert opened.config(90).class_names == opened.config().class_names == COCO_90


@pytest.mark.slow
@pytest.mark.parametrize("output", ["model.keras", "folder"])
def test_the_command_converts(published, tmp_path, output, capsys):
    output = tmp_path / "new" / output
    arguments = ["convert", str(published), str(output), "--architecture", "maskrcnn_resnet50_fpn"]
    assert main(arguments) == 0 and "resnet50, 90 classes" in capsys.readouterr().out
    again = MaskRCNN.from_preset(output)
    kernel = np.load(published)["rpn.head.cls_logits.weight"]
    np.testing.assert_array_equal(again.rpn_head.logits.kernel, kernel.transpose(2, 3, 1, 0))
    assert again.config.class_names == COCO_90


def test_the_command_names_what_it_cannot_read(tmp_path, capsys):
    (tmp_path / "x.pth").write_bytes(b"no weights at all")
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "x.pth" in error and "begins with" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    model = MaskRCNN(tiny_config())
    folder = tmp_path_factory.mktemp("preset")
    model.save_preset(folder)
    return model, folder


def test_a_saved_preset_comes_back_the_same(saved):
    model, folder = saved
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "model.weights.h5"}
    again = MaskRCNN.from_preset(folder)
    assert again.config == model.config
    for path, weight in named_weights(model).items():
        np.testing.assert_array_equal(named_weights(again)[path], weight, path)


def test_a_saved_preset_gives_its_trunk_to_other_classes(saved):
    model, folder = saved
    again = MaskRCNN.from_preset(folder, num_classes=2)
    assert again.config.class_names == ("class 1", "class 2")
    np.testing.assert_array_equal(
        again.box_branch.head.dense[0].kernel, model.box_branch.head.dense[0].kernel
    )
    np.testing.assert_array_equal(
        again.backbone.get_layer("stem").kernel, model.backbone.get_layer("stem").kernel
    )
    assert again.box_branch.head.class_logits.kernel.shape[-1] == 3


def test_fine_tuning_as_the_pages_say(tmp_path):
    """The Python of docs/training.md, with a small model in the place of the published one."""
    import kmaskrcnn as km

    learning = dict.fromkeys(("norm", "fpn_norm", "head_norm"), "batch_norm")
    published = MaskRCNN(tiny_config(**learning, min_size=64, max_size=96))
    published.save_preset(tmp_path / "preset")
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    (code,) = [x for x in re.findall(r"```python\n(.*?)```", page, re.S) if 'load="trunk"' in x]
    code = code.replace("maskrcnn_resnet50_fpn_v2_coco", str(tmp_path / "preset"))
    shapes = write_shapes(tmp_path, num_train=3, num_validation=1, image_size=(64, 64))
    names = {"km": km, "train": km.load_coco(*shapes[:2])}
    exec(code, names)
    model = names["model"]
    assert model.config.class_names == names["train"].class_names
    kinds = {type(layer).__name__ for layer in model._flatten_layers()}
    assert "FrozenBatchNormalization" in kinds and "BatchNormalization" not in kinds
    same = [named_weights(m)["rpn_head/conv1/kernel"] for m in (model, published)]
    np.testing.assert_array_equal(*same)
    assert not model.backbone.get_layer("stem").trainable
    model.compile(keras.optimizers.SGD(1e-3))
    history = model.fit(names["dataset"], epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_other_classes_lose_the_ids_of_the_old_ones(tmp_path):
    config = tiny_config(class_names=("cat", "dog"), category_ids=(17, 18))
    save_yaml(config, tmp_path / "config.yaml")
    opened = OpenedPreset(tmp_path)
    assert opened.config(class_names=("cat", "dog")) == config == opened.config()
    assert opened.config(class_names=("bee", "ant")).category_ids == ()
    assert opened.config(5).category_ids == ()
    assert opened.config(class_names=("bee",), category_ids=(4,)).category_ids == (4,)
    with pytest.raises(
        ConfigError, match=r"category_ids: got \(4,\), accepted is .* the 2 class_n"
    ):
        opened.config(category_ids=(4,))


def test_wrong_wishes_are_refused(saved):
    _, folder = saved
    with pytest.raises(ValueError, match="num_classes: got 3 for 2 class_names"):
        MaskRCNN.from_preset(folder, 3, class_names=("a", "b"))
    with pytest.raises((ConfigError, TypeError), match="no_such_field"):
        MaskRCNN.from_preset(folder, no_such_field=1)
    with pytest.raises(ValueError, match="backbone of one's own"):
        tiny_model().save_preset(folder)


def test_a_whole_saved_model_is_a_preset_too(saved, tmp_path):
    model, _ = saved
    model.save(tmp_path / "whole.keras")
    again = MaskRCNN.from_preset(tmp_path / "whole.keras", load="backbone", num_classes=1)
    assert isinstance(again, keras.Model)
    np.testing.assert_array_equal(
        again.backbone.get_layer("stem").kernel, model.backbone.get_layer("stem").kernel
    )
    assert not np.array_equal(again.rpn_head.logits.kernel, model.rpn_head.logits.kernel)
