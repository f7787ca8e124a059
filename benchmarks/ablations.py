"""The tables of the Mask R-CNN paper in small: does each choice help here in the direction it helped there?

    python benchmarks/ablations.py --output runs/ablations            # all runs, 2 to 10 CPU minutes each
    python benchmarks/ablations.py --output runs/ablations --only roi_16 softmax --seeds 3
    python benchmarks/ablations.py --output runs/ablations --report   # the tables so far

Each run trains one variant from one seed for a few hundred steps and adds a line to `runs.jsonl`; a run that has its
line is not repeated. Two processes at once want an output each, as each writes the data anew. The variants of a table
differ by what the table names alone: pictures, their order and the flips follow the seed, and so do the initial
weights of the layers that they share. The data: shapes with fine outlines and stick persons with keypoints, made up
by `fine_shapes.py`, and the nuclei of `../shared/data`, left out where they are absent. What the variants and the
tables are stands in `ablation_variants.py`.
"""

import argparse
import dataclasses
import gc
import json
import logging
import statistics
import time
from pathlib import Path

import keras
from ablation_variants import SHARED, TABLES, VARIANTS
from fine_shapes import FINE_SHAPES, KEYPOINT_NAMES, PERSONS

from kmaskrcnn.allocation import keep_freed_memory
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.evaluation import evaluate_model
from kmaskrcnn.training.optimizers import make_optimizer
from kmaskrcnn.training.trainer import build_model, name_classes, recipe_dataset

logger = logging.getLogger("ablations")

# ---------------------------------------------------------------------------------------------------------------------
# One run


def start_again(model, recipe):
    """A model with the initial weights of the seed: `model` itself where there is one, which spares its trace."""
    keras.utils.set_random_seed(recipe.training.seed)
    fresh = build_model(recipe)
    if model is None:
        return fresh
    for variable, initial in zip(model.variables, fresh.variables, strict=True):
        variable.assign(initial)
    for variable in model.optimizer.variables:
        variable.assign(keras.ops.zeros_like(variable))
    return model


def train_and_evaluate(variant, seed, train_data, validation_data, model=None):
    """Train one variant from one seed.

    Returns:
        AP, `{"box": {"AP": ...}, ...}`; the last losses; the model, to be given for the variant's next seed.
    """
    recipe = variant.recipe(seed)
    records = load_coco(*train_data)
    held_out = load_coco(*validation_data, class_names=records.class_names)
    recipe = dataclasses.replace(recipe, model=name_classes(recipe.model, records))
    dataset = recipe_dataset(recipe, records, training=True)
    model = start_again(model, recipe)
    if not model.compiled:
        model.compile(optimizer=make_optimizer(recipe, model, int(dataset.cardinality())))
    history = model.fit(dataset, epochs=recipe.training.epochs, shuffle=False, verbose=2).history
    held_out_dataset = recipe_dataset(recipe, held_out, training=False)
    metrics = evaluate_model(model, held_out_dataset, held_out, progress=False)
    kept = ("AP", "AP50", "AP75")
    metrics = {task: {name: values[name] for name in kept} for task, values in metrics.items()}
    return metrics, {name: values[-1] for name, values in history.items()}, model


def write_data(folder):
    """(train, validation) of each dataset, each `(json, images)`; made up where they can be."""
    common = {"num_train": 480, "num_validation": 100, "image_size": (128, 128), "max_objects": 2}
    made = {
        "fine": {"shapes": FINE_SHAPES, "radii": (0.22, 0.36)},
        "persons": {"shapes": PERSONS, "radii": (0.25, 0.42), "keypoint_names": KEYPOINT_NAMES},
    }
    data = {}
    for name, changes in made.items():
        paths = write_shapes(folder / name, **common, **changes)
        data[name] = paths[:2], paths[2:]
    nuclei = SHARED / "nuclei"
    if nuclei.exists():
        jsons = (nuclei / f"annotations/instances_{split}.json" for split in ("train", "val"))
        data["nuclei"] = tuple((path, nuclei / "images") for path in jsons)
    return data


def run_all(output, variants, seeds):
    """Train what is not finished, variant by variant."""
    data = write_data(output / "data")
    for name in variants:
        done = {run["seed"] for run in read_runs(output) if run["variant"] == name}
        if VARIANTS[name].data in data:
            of_variant = data[VARIANTS[name].data]
            run_variant(
                output / "runs.jsonl", name, [s for s in range(seeds) if s not in done], of_variant
            )
        else:
            logger.warning("%s: left out, there is no %s", name, SHARED / VARIANTS[name].data)


def run_variant(path, name, seeds, data):
    """Train a variant from each of the seeds, and add a line a run."""
    model = None
    for seed in seeds:
        logger.info("%s, seed %d", name, seed)
        start = time.process_time()
        metrics, losses, model = train_and_evaluate(VARIANTS[name], seed, *data, model)
        seconds = round(time.process_time() - start)
        run = {"variant": name, "seed": seed, "metrics": metrics, "losses": losses}
        with path.open("a") as file:
            file.write(json.dumps({**run, "cpu_seconds": seconds}) + "\n")
    keras.backend.clear_session()
    gc.collect()


# ---------------------------------------------------------------------------------------------------------------------
# The tables


def read_runs(output):
    """The finished runs of a folder."""
    path = output / "runs.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def format_tables(runs):
    """The tables of which two rows have runs as Markdown: percent, mean and standard deviation over seeds."""
    values = {}
    for run in runs:
        values.setdefault(run["variant"], {})[run["seed"]] = run["metrics"]
    begun = [t for t in TABLES.values() if sum(row[0] in values for row in t.rows) > 1]
    return "\n\n".join(_format_table(table, values) for table in begun)


def _format_table(table, values):
    head = ["", *table.columns, f"{table.columns[0]}, seed by seed", "seeds"]
    lines = [f"**{table.title}**", "", _line(head + [f"paper: {', '.join(table.columns)}"])]
    lines.append("|---" * (len(head) + 1) + "|")
    first = values.get(table.rows[0][0], {})
    for name, label, paper in table.rows:
        by_seed = values.get(name, {})
        columns = [[_value(m, column) for m in by_seed.values()] for column in table.columns]
        shared = sorted(set(first) & set(by_seed)) if name != table.rows[0][0] else []
        gains = [_gain(first[seed], by_seed[seed], table.columns[0]) for seed in shared]
        gains = " ".join(f"{gain:+.1f}" for gain in gains if gain is not None)
        paper = ", ".join("-" if number is None else f"{number}" for number in paper)
        lines.append(
            _line([label, *map(_mean_and_spread, columns), gains or "-", len(by_seed), paper])
        )
    return "\n".join(lines)


def _value(metrics, column):
    """Percent, or `None` where the variant has no such number."""
    task, name = column.split()
    value = metrics.get(task, {}).get(name)
    return None if value is None else 100 * value


def _gain(reference, metrics, column):
    before, after = _value(reference, column), _value(metrics, column)
    return None if before is None or after is None else after - before


def _mean_and_spread(numbers):
    numbers = [number for number in numbers if number is not None]
    if not numbers:
        return "-"
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{spread}"


def _line(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--only", nargs="+", choices=sorted(TABLES), default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="print the tables, train nothing")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    options.output.mkdir(parents=True, exist_ok=True)
    if not options.report:
        keep_freed_memory()
        wanted = {row[0] for table in options.only for row in TABLES[table].rows}
        run_all(options.output, [name for name in VARIANTS if name in wanted], options.seeds)
    print(format_tables(read_runs(options.output)))


if __name__ == "__main__":
    main()
