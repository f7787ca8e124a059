"""The commands that train: `demo`, `train`, `find-learning-rate`."""

import sys
from pathlib import Path

from kmaskrcnn.cli_datasets import add_format
from kmaskrcnn.cli_output import show, write_json

TRAINING_COMMANDS = ("demo", "train", "find-learning-rate")


def add_training_commands(command):
    """Adds them to the parser; `command(run, help_text)` makes the parser of one."""
    demo = command(run_demo, "make pictures, train on them, evaluate and draw: a few minutes")
    demo.add_argument("--output", default="demo", metavar="DIR")
    add_set(demo)

    train = command(run_train, "train a model as a recipe in YAML says")
    train.add_argument("config", metavar="CONFIG.yaml")
    train.add_argument("--train", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    train.add_argument("--validation", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    add_format(train)
    train.add_argument("--output", required=True, metavar="DIR")
    train.add_argument(
        "--resume", action="store_true", help="go on with what was interrupted in the output folder"
    )
    add_set(train)

    find = command(run_find_learning_rate, "try learning rates from tiny to too high on a recipe")
    find.add_argument("config", metavar="CONFIG.yaml")
    find.add_argument("--data", nargs=2, required=True, metavar=("JSON", "IMAGES"))
    add_format(find)
    find.add_argument("--output", metavar="FILE", help="a curve (.png), or its numbers (.json)")
    find.add_argument("--lowest", type=float, default=1e-6, help="1e-6")
    find.add_argument("--highest", type=float, default=1.0, help="1.0")
    find.add_argument("--steps", type=int, default=100, help="updates of the weights: 100")
    add_set(find)


def add_set(own):
    """Adds `--set`, which changes the recipe, to a command's parser."""
    own.add_argument(
        "--set",
        nargs="*",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change the recipe",
    )


def read_recipe(options):
    """The recipe that a command was given, with its changes."""
    from kmaskrcnn.config import load_yaml, override

    reading = [] if options.format == "auto" else [f"data.format={options.format}"]
    return override(load_yaml(options.config), [*reading, *options.set])


def run_demo(options):
    """Make a dataset of shapes, train, evaluate and draw, all under one folder."""
    from kmaskrcnn.config import override
    from kmaskrcnn.evaluation import format_table
    from kmaskrcnn.training.demo import DEMO_RECIPE
    from kmaskrcnn.training.demo import run_demo as demo

    metrics = demo(options.output, override(DEMO_RECIPE, options.set), verbose=progress())
    show(format_table(metrics))
    task = "mask" if "mask" in metrics else "box"
    show(f"{task} AP50 {metrics[task]['AP50']}; pictures, curve and metrics in {options.output}/")


def run_train(options):
    """Train a model; writes model.keras, metrics.json, history.csv, history.png and pictures/."""
    from kmaskrcnn.evaluation import format_table
    from kmaskrcnn.training.trainer import train

    data = options.train, options.validation
    recipe, resume = read_recipe(options), options.resume
    metrics = train(recipe, *data, options.output, resume=resume, verbose=progress())
    show(format_table(metrics))


def run_find_learning_rate(options):
    """Train a recipe for some updates, each at a higher rate, and say which rates teach; nothing is kept."""
    from kmaskrcnn.training.learning_rate_finder import find_recipe_rate

    given = Path(options.output or "rates.png").suffix
    if given not in (".png", ".json"):
        raise ValueError(f"--output: got {options.output}, accepted are .png and .json")
    rates = options.lowest, options.highest, options.steps
    curve = find_recipe_rate(read_recipe(options), options.data, *rates)
    show(curve.to_text())
    if options.output and given == ".json":
        write_json(options.output, curve.to_dict())
    elif options.output:
        curve.plot(options.output)


def progress():
    """How Keras shows progress: a bar in a terminal, a line an epoch in a log."""
    return 1 if sys.stdout.isatty() else 2
