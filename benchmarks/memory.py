"""How time and memory of a prediction grow with pixels, pictures, detections, classes and proposals.

    python benchmarks/memory.py --json memory.json --plot memory.png
    python benchmarks/memory.py --only classes

R50-FPN with random weights, float32; each point is a process of its own.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

SERIES = {
    "pixels": [{"case": f"1x{side}x{side}"} for side in (256, 512, 800, 1088)],
    "pictures": [{"case": f"{batch}x320x320"} for batch in (1, 2, 4, 8)],
    "detections": [{"max_detections": count} for count in (10, 100, 300)],
    "classes": [{"classes": count} for count in (1, 80, 400, 1203)],
    "proposals": [{"rpn_post_nms_topk": count} for count in (100, 300, 1000, 2000)],
}


def measure(case="1x512x512", classes=80, **changes):
    """One point: seconds of a prediction and this process's peak memory."""
    from measuring import parse_case, peak_memory_mb, pictures, seconds, summary

    import kmaskrcnn
    from kmaskrcnn.allocation import keep_freed_memory
    from kmaskrcnn.serving.detectors import KerasDetector

    keep_freed_memory()
    names = tuple(f"class {i}" for i in range(classes))
    height = parse_case(case)[1]
    config = kmaskrcnn.MaskRCNNConfig(
        class_names=names, min_size=height, max_size=height, score_threshold=0.0, **changes
    )
    detector = KerasDetector(kmaskrcnn.MaskRCNN(config))
    images = list(pictures(parse_case(case)))
    first, times = seconds(lambda: detector.detect(images), 1, 3)
    return {**summary(times), "first_call_s": round(first, 2), "peak_mb": peak_memory_mb()}


def run(point):
    """One point in a process of its own."""
    command = [sys.executable, __file__, "--point", json.dumps(point)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{point} failed:\n{done.stderr[-3000:]}")
    return {**point, **json.loads(done.stdout.splitlines()[-1])}


def plot(found, path):
    """A row of panels, one a series: seconds, and memory."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, len(found), figsize=(3 * len(found), 5), squeeze=False)
    for column, (name, points) in enumerate(found.items()):
        labels = [str(next(iter(point.values()))) for point in points]
        for row, key in enumerate(("median_s", "peak_mb")):
            panels[row][column].plot(labels, [point[key] for point in points], "o-")
            panels[row][column].set_ylim(bottom=0)
            panels[row][column].set(title=name, ylabel=("seconds", "MB")[row])
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
