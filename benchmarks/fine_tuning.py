"""What augmentation is worth: a recipe for nuclei trained with it and without, from several seeds, and a table of AP.

    python benchmarks/fine_tuning.py --output runs/fine_tuning
    python benchmarks/fine_tuning.py --output runs/fine_tuning --report

Each run is what `kmaskrcnn train` does, so its folder holds its curve and pictures. Only `augmentation` differs: the
pictures' order, the flips and the initial weights follow the seed. A finished run is not repeated.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

from kmaskrcnn.config import AugmentationConfig, load_yaml
from kmaskrcnn.training.trainer import train

ROOT = Path(__file__).resolve().parents[1]
NUCLEI = ROOT.parent / "shared/data/nuclei"
WEIGHTS = ROOT.parent / "shared/data/weights_mobilenet_v2/mobilenet_v2_1.0_224_notop_folded.npz"
RECIPE = ROOT / "configs/nuclei_mobilenetv2_fpn_augmented.yaml"
VARIANTS = ("plain", "augmented")
COLUMNS = (("mask", "AP"), ("mask", "AP50"), ("mask", "AP75"), ("box", "AP"))


def run(recipe, seed, output):
    """Train a recipe from a seed; its numbers are kept in `output/run.json`."""
    data = [
        (NUCLEI / f"annotations/instances_{x}.json", NUCLEI / "images") for x in ("train", "val")
    ]
    seeded = dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, seed=seed),
        training=dataclasses.replace(recipe.training, seed=seed, backbone_weights=str(WEIGHTS)),
    )
    start, cpu = time.perf_counter(), time.process_time()
    metrics = train(seeded, *data, output, verbose=2)
    minutes = (time.perf_counter() - start) / 60, (time.process_time() - cpu) / 60
    kept = {"seed": seed, "metrics": metrics, "minutes": minutes[0], "cpu_minutes": minutes[1]}
    (output / "run.json").write_text(json.dumps(kept, indent=2), encoding="utf-8")


def report(output):
    """The table: percent, mean and standard deviation over seeds; then AP seed by seed, and what it cost."""
    names = [" ".join(column) for column in COLUMNS]
    head = ["", *names, "mask AP, seed by seed", "minutes", "CPU minutes"]
    lines = [head, ["---"] * len(head)]
    for variant in VARIANTS:
        runs = [json.loads(p.read_text()) for p in sorted(output.glob(f"{variant}-seed*/run.json"))]
        if not runs:
            continue
        values = [[100 * r["metrics"][task][name] for r in runs] for task, name in COLUMNS]
        minutes = [statistics.mean(r[x] for r in runs) for x in ("minutes", "cpu_minutes")]
        seeds = ", ".join(f"{value:.1f}" for value in values[0])
        cost = [f"{value:.1f}" for value in minutes]
        lines.append([variant, *map(mean_and_spread, values), seeds, *cost])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def mean_and_spread(numbers):
    """`"59.5 ± 0.4"`, without a spread for one number."""
    spread = f" ± {statistics.stdev(numbers):.1f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{spread}"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="print the table, train nothing")
    options = parser.parse_args()
    recipe = load_yaml(options.recipe)
    plain = dataclasses.replace(recipe, augmentation=AugmentationConfig())
    for seed in range(0 if options.report else options.seeds):
        for variant, wanted in zip(VARIANTS, (plain, recipe), strict=True):
            folder = options.output / f"{variant}-seed{seed}"
            if not (folder / "run.json").exists():
                run(wanted, seed, folder)
    print(report(options.output))


if __name__ == "__main__":
    main()
