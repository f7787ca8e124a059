"""The largest difference of each stage between torchvision and our model with the same weights.

    python benchmarks/parity.py                    # a markdown table
    python benchmarks/parity.py --json parity.json

torchvision's side was recorded (`tests/fixtures/README.md`); its weights are made, and go through the converter that a
user's checkpoint goes through. Maps: relative to the greatest value of the stage.
"""

import argparse
import json
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
RECORDINGS = (
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "maskrcnn_resnet50_fpn_made",
    "keypointrcnn_resnet50_fpn",
)


def measure(recordings):
    """`{recording: {stage: difference}}`."""
    sys.path[:0] = [str(TESTS / "fixtures"), str(TESTS / "weights")]
    from parity_stages import build, differences, load_fixture

    found = {}
    for name in recordings:
        fixture = load_fixture(name)
        found[name] = differences(build(fixture), fixture)
    return found


def table(found):
    """The numbers as markdown."""
    lines = ["| Stage | " + " | ".join(found) + " |", "|---" * (len(found) + 1) + "|"]
    for stage in next(iter(found.values())):
        cells = (f"{values[stage]:.1e}" if stage in values else "-" for values in found.values())
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recordings", nargs="+", default=RECORDINGS, choices=RECORDINGS)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    found = measure(options.recordings)
    sys.stdout.write(table(found))
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
