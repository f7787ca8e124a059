"""The commands on datasets of every format."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from kmaskrcnn.cli import evaluate_augmented, main
from kmaskrcnn.cli_output import counted
from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.data.records import CocoDataset, DatasetError, ImageRecord

FIXTURES = Path(__file__).parent / "fixtures"
CITYSCAPES = [str(FIXTURES / "cityscapes" / name) for name in ("gtFine", "leftImg8bit")]


def test_inspect_reads_cityscapes(capsys):
    assert main(["inspect", *CITYSCAPES]) == 0
    text = capsys.readouterr().out
    assert "pictures           3" in text and "bicycle" in text
    assert main(["inspect", *CITYSCAPES, "--format", "cityscapes"]) == 0
    assert main(["inspect", *CITYSCAPES, "--format", "coco"]) == 1


def test_advice_before_training(tmp_path, capsys):
    recipe = Path(__file__).parents[1] / "configs" / "cityscapes_r50_fpn.yaml"
    out = tmp_path / "anchors.json"
    command = ["advise-anchors", *CITYSCAPES, "--recipe", str(recipe)]
    assert main([*command, "--json", str(out)]) == 0
    advice = json.loads(out.read_text())
    text = capsys.readouterr().out
    assert advice["anchors"]["anchor_scales"] == [32, 64, 128, 256, 512]
    assert f"anchor_scales: {advice['proposed']['anchor_scales']}" in text
    assert main(["inspect", *CITYSCAPES, "--recipe", str(recipe)]) == 0
    assert "classes have no object to train on: they cannot be learnt" in capsys.readouterr().out


def test_evaluate_takes_lvis_rules_from_the_file(tmp_path, capsys):
    recorded = json.loads((FIXTURES / "lvis.json").read_text())
    truth, results, out = (tmp_path / f"{name}.json" for name in ("truth", "results", "out"))
    truth.write_text(json.dumps(recorded["ground_truth"]))
    results.write_text(json.dumps(recorded["results"]))
    command = ["evaluate", "--ground-truth", str(truth), "--results", str(results)]
    assert main([*command, "--task", "mask", "--json", str(out)]) == 0
    expected = recorded["expected"]["mask"]
    found = json.loads(out.read_text())["mask"]
    assert {n: found[n] for n in ("AP", "APr", "APc", "APf")} == pytest.approx(
        {n: expected[n] for n in ("AP", "APr", "APc", "APf")}
    )
    assert "APr" in capsys.readouterr().out
    assert main([*command, "--format", "coco", "--json", str(out)]) == 0
    assert "APr" not in json.loads(out.read_text())["box"]


def test_evaluating_results_wants_a_json(capsys):
    command = ["evaluate", "--ground-truth", CITYSCAPES[0], "--results", "dt.json"]
    assert main(command) == 1
    assert "must be a json of coco or lvis, got cityscapes" in capsys.readouterr().err


def test_convert_then_split_then_inspect(tmp_path, capsys):
    whole, parts = str(tmp_path / "all.json"), tmp_path / "parts"
    assert main(["convert-data", CITYSCAPES[0], whole]) == 0
    counts = capsys.readouterr().out.partition(":")[2]
    assert counts.startswith(" 3 pictures") and "8 classes, 0 faulty items left out" in counts
    assert main(["split", whole, "--output", str(parts), "--validation", "0.34"]) == 0
    sizes = []
    for name in ("train", "validation"):
        report = tmp_path / f"{name}.json"
        path = str(parts / f"{name}.json")
        assert main(["inspect", path, CITYSCAPES[1], "--json", str(report)]) == 0
        sizes.append(json.loads(report.read_text())["num_images"])
    assert sizes == [2, 1]


def test_no_source_is_overwritten(tmp_path, capsys):
    (tmp_path / "train.json").write_text("labels by hand")
    source = str(tmp_path / "train.json")
    for command in (
        ["split", source, "--output", str(tmp_path / "." / "..") + f"/{tmp_path.name}"],
        ["convert-data", source, source],
        ["convert-data", str(tmp_path), source],
    ):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert "train.json would be overwritten and belongs to" in error
    assert (tmp_path / "train.json").read_text() == "labels by hand"
    assert [path.name for path in tmp_path.iterdir()] == ["train.json"]


def test_convert_names_faults_or_leaves_them_out(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"shapes": 3, "imagePath": "a.png"}')
    command = ["convert-data", str(tmp_path), str(tmp_path / "out.json")]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("kmaskrcnn convert-data: error:") and "a.json" in error
    assert main([*command, "--class-name", "cat"]) == 1
    assert "'labelme' takes none, got ['class_name']" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_a_picture_that_is_gone_is_named_in_several_views_too(tmp_path, monkeypatch):
    monkeypatch.setattr("kmaskrcnn.serving.predictor.Predictor", lambda model, tta: None)
    gone = ImageRecord(7, str(tmp_path / "gone.png"), 20, 30)
    records = CocoDataset((gone,), ("cat",), (1,))
    with pytest.raises(DatasetError, match="cannot be read.*gone.png, image id 7"):
        evaluate_augmented(SimpleNamespace(config=MaskRCNNConfig()), records)


def test_one_is_not_many():
    words = [counted(n, noun) for noun in ("picture", "class") for n in (0, 1, 2)]
    assert words == "0 pictures,1 picture,2 pictures,0 classes,1 class,2 classes".split(",")
