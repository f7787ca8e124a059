"""What bfloat16 costs a trained model in AP: the same weights and pictures, at inference in float32 and in bfloat16.

    python benchmarks/bf16_accuracy.py runs/nuclei/model.keras \\
        --data ../shared/data/nuclei/annotations/instances_val.json ../shared/data/nuclei/images

Batch norms are folded in both, as on export. Processors without bfloat16 instructions compute the same numbers, slowly.
"""

import argparse
import json

from measuring import load_trained

from kmaskrcnn.evaluation import evaluate_model
from kmaskrcnn.export.folding import fold_batch_norms

DTYPES = ("float32", "mixed_bfloat16")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--data", nargs=2, required=True)
    options = parser.parse_args()
    model, records, dataset = load_trained(options.model, *options.data)
    found = {}
    for dtype in DTYPES:
        metrics = evaluate_model(fold_batch_norms(model, dtype), dataset, records, progress=False)
        found[dtype] = {task: round(100 * values["AP"], 2) for task, values in metrics.items()}
    before, after = (found[dtype] for dtype in DTYPES)
    found["difference"] = {task: round(after[task] - before[task], 2) for task in before}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
