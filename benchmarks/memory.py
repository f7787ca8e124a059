"""How time and memory grow with what there is to do.

Of a prediction: pixels, pictures, detections, classes and proposals; of a training step: pictures and objects.

    python benchmarks/memory.py --json memory.json --plot memory.png
    python benchmarks/memory.py --only classes

R50-FPN with random weights, float32; each point is a process of its own.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

# Of each series what grows, and its points: the number to draw, and what is measured there.
SERIES = {
    "megapixels": [(side**2 / 1e6, {"case": f"1x{side}x{side}"}) for side in (256, 512, 800, 1088)],
    "pictures": [(count, {"case": f"{count}x320x320"}) for count in (1, 2, 4, 8)],
    "detections": [(count, {"max_detections": count}) for count in (10, 100, 300)],
    "classes": [(count, {"classes": count}) for count in (1, 80, 400, 1203)],
    "proposals": [(count, {"rpn_post_nms_topk": count}) for count in (100, 300, 1000, 2000)],
    "training: pictures": [
        (count, {"train": True, "case": f"{count}x320x320"}) for count in (1, 2, 4)
    ],
    "training: objects": [(count, {"train": True, "objects": count}) for count in (1, 10, 50, 100)],
}


def measure(case="1x512x512", classes=80, train=False, objects=5, **changes):
    """One point: seconds of a prediction or of a training step, and this process's peak memory."""
    from measuring import ellipses, parse_case, peak_memory_mb, pictures, seconds, summary

    import kmaskrcnn
    from kmaskrcnn.allocation import keep_freed_memory

    keep_freed_memory(one_heap=train)  # as the commands do
    names = tuple(f"class {i}" for i in range(max(classes, 90 * train)))
    shape = parse_case(case)
    config = kmaskrcnn.MaskRCNNConfig(
        class_names=names, min_size=shape[1], max_size=shape[1], score_threshold=0.0, **changes
    )
    model = kmaskrcnn.MaskRCNN(config)
    images = pictures(shape)
    if train:
        call, count = training_step(model, images, ellipses(shape, objects))
    else:
        call, count = prediction(model, images)
    first, times = seconds(call, 1, 3)
    record = {**summary(times), "first_call_s": round(first, 2), "peak_mb": peak_memory_mb()}
    return record | {"masks": count()}


def prediction(model, images):
    """A call that predicts, and one that says how many masks it came to."""
    from kmaskrcnn.serving.detectors import KerasDetector

    detector, images = KerasDetector(model), list(images)
    return lambda: detector.detect(images), lambda: sum(map(len, detector.detect(images)))


def training_step(model, images, truth):
    """A call that trains a step, and one that says of how many masks."""
    import keras
    from train_step import count_regions, step_of

    model.compile(optimizer=keras.optimizers.SGD(1e-5, momentum=0.9))
    regions = count_regions(model.mask_branch.head)
    return step_of(model, images, truth), lambda: int(regions)


def run(point):
    """One point in a process of its own."""
    number, what = point
    command = [sys.executable, __file__, "--point", json.dumps(what)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} failed:\n{done.stderr[-3000:]}")
    return {"number": number, **json.loads(done.stdout.splitlines()[-1])}


def plot(found, path):
    """A row of panels, one a series: seconds, and memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(found), figsize=(3 * len(found), 5), squeeze=False)
    for column, (name, points) in enumerate(found.items()):
        numbers = [point["number"] for point in points]
        for row, key in enumerate(("median_s", "peak_mb")):
            panel = panels[row][column]
            values = [point[key] for point in points]
            panel.plot(numbers, values, "o-", color="tab:green")
            panel.set_xlim(0, 1.08 * max(numbers))
            panel.set_ylim(0, 1.1 * max(values))
            panel.set(title=name * (row == 0), ylabel=("seconds", "MB")[row] * (column == 0))
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=tuple(SERIES), help="one series instead of all")
    parser.add_argument("--json", type=Path, help="write the points to this file")
    parser.add_argument("--plot", type=Path, help="draw them into this PNG")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.point:
        print(json.dumps(measure(**json.loads(args.point))))
        return
    found = {}
    for name in [args.only] if args.only else SERIES:
        found[name] = [run(point) for point in SERIES[name]]
        for point in found[name]:
            print(name, json.dumps(point), flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
