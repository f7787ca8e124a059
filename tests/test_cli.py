"""The commands as a user types them: what they write, and one clear line where they fail."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import yaml
from tiny import TINY

from kmaskrcnn.cli import main, unique_stems
from kmaskrcnn.config import Recipe, from_dict, load_yaml
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.serving.predictor import Predictor
from kmaskrcnn.training.demo import run_demo

SHARED = Path(__file__).parents[2] / "shared" / "data"
RECIPE = {
    "model": {
        **{k: list(v) if isinstance(v, tuple) else v for k, v in TINY.items()},
        "class_names": ["object"],
    },
    "data": {"batch_size": 2},
    "training": {"epochs": 1, "learning_rate": 0.001, "trainable_stages": 5},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with pictures, and what `kmaskrcnn train` made of them."""
    folder = tmp_path_factory.mktemp("cli")
    shapes = write_shapes(folder / "shapes", num_train=4, num_validation=3, image_size=(64, 80))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    train, validation = shapes[:2], shapes[2:]
    code = main(
        ["train", str(folder / "recipe.yaml"), "--train", *map(str, train)]
        + [
            "--validation",
            *map(str, validation),
            "--output",
            str(folder / "run"),
            "--set",
            "epochs=2",
        ]
    )
    assert code == 0
    return folder, [str(path) for path in validation]


def test_train_writes_what_it_promises(trained):
    run = trained[0] / "run"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"AP", "AP50", "AP75"} <= set(metrics["box"]) and "AP50" in metrics["mask"]
    lines = (run / "history.csv").read_text().splitlines()
    assert len(lines) == 3 and "val_mask_AP50" in lines[0] and "mask_loss" in lines[0]
    recipe = load_yaml(run / "recipe.yaml")
    assert recipe.training.epochs == 2 and "circle" in recipe.model.class_names
    assert cv2.imread(str(run / "history.png")) is not None
    assert len(list((run / "pictures").glob("*.png"))) == 3
    assert (run / "model.keras").stat().st_size > 10_000


def test_a_sweep_of_learning_rates_says_one(trained, capsys):
    folder = trained[0]
    data = [str(folder / "shapes" / "train.json"), str(folder / "shapes" / "train")]
    out = folder / "rates.json"
    command = ["find-learning-rate", str(folder / "recipe.yaml"), "--data", *data]
    changes = ["--set", "data.batch_size=1", "base_batch_size=8", "with_mask=false"]
    sweep = ["--lowest", "1e-4", "--highest", "1e-3", "--steps", "3", "--output", str(out)]
    assert main([*command, *sweep, *changes]) == 0
    curve = json.loads(out.read_text())
    assert curve["rates"] == pytest.approx([1e-4, 10**-3.5, 1e-3], rel=1e-4)
    assert all(loss > 0 for loss in curve["losses"]) and curve["scale"] == 8
    assert yaml.safe_load(capsys.readouterr().out.partition("training:")[2])["learning_rate"] > 0
    assert main([*command, "--output", "rates.txt"]) == 1
    assert "accepted are .png and .json" in capsys.readouterr().err


def test_evaluate_a_model_finds_what_its_predictions_found(trained, capsys):
    """The ground truth is what the model finds itself, picture by picture: nothing is missed."""
    folder, (path, images) = trained
    model = str(folder / "run" / "model.keras")
    document = json.loads(Path(path).read_text())
    predictor = Predictor(model)
    by_label = sorted(category["id"] for category in document["categories"])
    found = [
        annotation
        for image in document["images"]
        for annotation in predictor(Path(images) / image["file_name"]).to_coco(
            image["id"], by_label
        )
    ]
    found = [annotation for annotation in found if annotation["area"]]  # its mask is not empty
    assert len(found) > 10 and len({annotation["category_id"] for annotation in found}) > 1
    numbered = [annotation | {"id": n, "iscrowd": 0} for n, annotation in enumerate(found, start=1)]
    truth, out = folder / "own_truth.json", folder / "metrics" / "again.json"
    truth.write_text(json.dumps(document | {"annotations": numbered}))
    assert main(["evaluate", model, "--data", str(truth), images, "--json", str(out)]) == 0
    assert "AP50" in capsys.readouterr().out
    metrics = json.loads(out.read_text())
    assert metrics["box"]["AR100"] == pytest.approx(1)
    assert metrics["mask"]["AR100"] == pytest.approx(1)


def test_predict_draws_and_writes_coco_results(trained):
    folder, (_, images) = trained
    pictures = sorted(map(str, Path(images).glob("*.png")))[:2]
    out = folder / "found"
    code = main(
        [
            "predict",
            str(folder / "run" / "model.keras"),
            *pictures,
            "--output",
            str(out),
            "--min-score",
            "0",
        ]
    )
    assert code == 0
    for path in pictures:
        assert cv2.imread(str(out / f"{Path(path).stem}.png")) is not None
        results = json.loads((out / f"{Path(path).stem}.json").read_text())
        assert {"bbox", "category_id", "score", "segmentation"} <= set(results[0])


@pytest.mark.slow
def test_predict_and_evaluate_in_several_views(trained):
    folder, (truth, images) = trained
    model = str(folder / "run" / "model.keras")
    picture = sorted(Path(images).glob("*.png"))[0]
    out = folder / "views"
    assert main(["predict", model, str(picture), "--tta", "--output", str(out)]) == 0
    results = json.loads((out / f"{picture.stem}.json").read_text())
    assert {"bbox", "segmentation"} <= set(results[0])
    metrics = out / "metrics.json"
    arguments = ["evaluate", model, "--data", truth, images, "--json", str(metrics)]
    assert main([*arguments, "--tta"]) == 0
    assert set(json.loads(metrics.read_text())) == {"box", "mask"}


def test_pictures_of_one_name_do_not_overwrite_each_other(trained, tmp_path):
    folder, (_, images) = trained
    picture = cv2.imread(str(next(Path(images).glob("*.png"))))
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(str(tmp_path / name / "same.png"))
        cv2.imwrite(paths[-1], picture)
    assert (
        main(
            [
                "predict",
                str(folder / "run" / "model.keras"),
                *paths,
                "--output",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    assert {p.name for p in (tmp_path / "out").glob("*.json")} == {"one_same.json", "two_same.json"}


def test_names_of_results_are_never_shared():
    paths = ["d/x.jpg", "d/x.png", "b/a/x.jpg", "c/a/x.jpg", "y.jpg"]
    assert unique_stems(paths) == ["d_x", "d_x_2", "a_x", "a_x_2", "y"]


def test_predict_never_overwrites_what_lies_beside_its_pictures(
    trained, tmp_path, monkeypatch, capsys
):
    folder, (_, images) = trained
    picture = next(Path(images).glob("*.png")).read_bytes()
    (tmp_path / "a.png").write_bytes(picture)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("labels by hand")
    (tmp_path / "linked").symlink_to(tmp_path)
    model = str(folder / "run" / "model.keras")
    for path, output in (("a.png", "."), ("linked/a.png", str(tmp_path)), ("a.png", "linked")):
        assert main(["predict", model, path, "--output", output]) == 1
        error = capsys.readouterr().err
        assert f"folder of {path}" in error and "overwrite" in error
    assert (tmp_path / "a.png").read_bytes() == picture
    assert (tmp_path / "a.json").read_text() == "labels by hand"


def test_evaluating_results_needs_no_model(tmp_path):
    reference = SHARED / "coco_eval_reference"
    if not reference.exists():
        pytest.skip("../shared/data/coco_eval_reference is not there")
    out = tmp_path / "metrics.json"
    truth, results = (
        reference / "instances_val2014_100.json",
        reference / "instances_val2014_fakesegm100_results.json",
    )
    command = [
        "evaluate",
        "--ground-truth",
        str(truth),
        "--results",
        str(results),
        "--task",
        "mask",
    ]
    assert main([*command, "--json", str(out)]) == 0
    assert json.loads(out.read_text())["mask"]["AP"] == pytest.approx(0.3195, abs=5e-5)


def test_inspect_tells_counts_and_faults(trained, tmp_path, capsys):
    folder, (json_path, images) = trained
    assert main(["inspect", json_path, images, "--json", str(tmp_path / "report.json")]) == 0
    assert "circle" in capsys.readouterr().out and (tmp_path / "report.json").exists()
    document = json.loads(Path(json_path).read_text())
    document["annotations"][0]["category_id"] = 77
    (tmp_path / "bad.json").write_text(json.dumps(document))
    assert main(["inspect", str(tmp_path / "bad.json"), images]) == 1
    assert f"{document['annotations'][0]['id']}" in capsys.readouterr().out


def test_demo_in_small(tmp_path):
    recipe = from_dict(Recipe, RECIPE)
    metrics = run_demo(tmp_path, recipe, num_train=4, num_validation=2, verbose=0)
    assert 0 <= metrics["mask"]["AP50"] <= 1
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


@pytest.mark.parametrize(
    "command, message",
    [
        (
            ["train", "none.yaml", "--train", "a", "b", "--validation", "c", "d", "--output", "o"],
            "none.yaml",
        ),
        (["evaluate", "none.keras", "--data", "a.json", "b"], "none.keras: no such file"),
        (["evaluate", "model.keras"], "give MODEL and --data"),
        (["evaluate", "--ground-truth", "gt.json"], "give MODEL and --data"),
        (["evaluate", "--ground-truth", "gt.json", "--results", "dt.json"], "gt.json"),
        (["predict", "none.keras", "a.png", "--output", "o"], "none.keras: no such file"),
        (["inspect", "none.json", "images"], "none.json"),
        (["demo", "--set", "epoch=1"], "did you mean 'training.epochs'"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_errors_are_one_clear_line(command, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.count("\n") == 1


def test_a_folder_that_is_no_preset_is_named(tmp_path, capsys):
    for command in (
        ["evaluate", str(tmp_path), "--data", "a", "b"],
        ["export", str(tmp_path), "o"],
    ):
        assert main(command) == 1
        assert f"{tmp_path}: a folder without config.yaml" in capsys.readouterr().err


def test_several_faults_have_a_line_each(trained, tmp_path, capsys):
    """And the last line says what to do, in the words of the command."""
    folder, (json_path, images) = trained
    document = json.loads(Path(json_path).read_text())
    for annotation in document["annotations"][:2]:
        annotation["category_id"] = 77
    (tmp_path / "bad.json").write_text(json.dumps(document))
    data = ["--train", str(tmp_path / "bad.json"), images, "--validation", json_path, images]
    recipe = str(folder / "recipe.yaml")
    assert main(["train", recipe, *data, "--output", str(tmp_path / "out")]) == 1
    first, *faults, hint = capsys.readouterr().err.splitlines()
    assert first.endswith("error: 2 faults in the dataset:") and len(faults) == 2
    for annotation, fault in zip(document["annotations"], faults):
        assert f"annotation id {annotation['id']}" in fault
    assert "--set data.on_error=skip" in hint


def test_a_picture_that_is_none_is_named(trained, tmp_path, capsys):
    (tmp_path / "text.png").write_text("no picture")
    model = str(trained[0] / "run" / "model.keras")
    out = str(tmp_path / "out")
    assert main(["predict", model, str(tmp_path / "text.png"), "--output", out]) == 1
    assert "text.png" in capsys.readouterr().err


def test_help_has_examples_and_bad_arguments_exit_with_2():
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "kmaskrcnn", *arguments], capture_output=True, text=True
        )

    help_text = run("--help")
    assert (
        help_text.returncode == 0
        and "examples:" in help_text.stdout
        and "kmaskrcnn train" in help_text.stdout
    )
    wrong = run("trian")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
