"""Exported files against their model on real pictures: SavedModel, ONNX Runtime, the LiteRT interpreter.

    python benchmarks/exported.py runs/nuclei/model.keras --pictures ../shared/data/nuclei/images

Takes pictures that the network sees in one size, the first one's, since ONNX and LiteRT files are made for it. Objects
are compared that the model is sure of (a score of 0.5 or more), each with the one of its class that overlaps it most;
one that overlaps it by less than half is not found. Prints the greatest differences as a markdown table.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

FORMATS = {
    "SavedModel": ("saved_model", {}),
    "SavedModel, bfloat16": ("saved_model", {"dtype": "bfloat16"}),
    "ONNX": ("onnx", {}),
    "ONNX, float16": ("onnx", {"quantise": "float16"}),
    "ONNX, int8": ("onnx", {"quantise": "int8"}),
    "LiteRT": ("litert", {}),
    "LiteRT, float16": ("litert", {"quantise": "float16"}),
    "LiteRT, int8": ("litert", {"quantise": "int8"}),
}


def open_exported(model, name, canvas, folder):
    """Export a model and open the file.

    Args:
        model: a `MaskRCNN`.
        name: of `FORMATS`.
        canvas: `(height, width)` of the padded network image.
        folder: where the file is written.

    Returns:
        A function from the path of a picture to its `Detections`.
    """
    from kmaskrcnn.export.exporter import export_model
    from kmaskrcnn.serving.predictor import Predictor

    format, options = FORMATS[name]
    path = Path(folder) / name.replace(", ", "_")
    if format == "saved_model":
        return Predictor(export_model(model, path, format, **options))
    if format == "onnx":
        path = path.with_suffix(".onnx")
        return Predictor(export_model(model, path, format, image_size=canvas, **options))
    path = path.with_suffix(".tflite")
    return LiteRT(export_model(model, path, format, image_size=canvas, **options), model.config)


class LiteRT:
    """What a device does with a LiteRT file: the interpreter alone.

    Args:
        path: of the file.
        config: the model's `MaskRCNNConfig`.
    """

    def __init__(self, path, config):
        self.runner, self.config = interpreter(path).get_signature_runner(), config
        self.canvas = tuple(self.runner.get_input_details()["images"]["shape"][1:3].tolist())

    def __call__(self, picture):
        from kmaskrcnn.data.pictures import read_picture
        from kmaskrcnn.serving.detectors import as_detections, prepare

        pixels = read_picture(picture)
        inputs, size = prepare(pixels, self.config, self.canvas)
        return as_detections(self.runner(**inputs), 0, size, pixels.shape[:2], self.config)


def interpreter(path):
    """The LiteRT interpreter of a file: of ai-edge-litert, else TensorFlow's own."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite import Interpreter
    return Interpreter(str(path))


def pictures_of_one_size(config, folder, count):
    """The first pictures of a folder that have the first one's network size, and that size once padded."""
    from kmaskrcnn.data.pictures import read_picture
    from kmaskrcnn.serving.detectors import prepare

    chosen, canvas = [], None
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix in (".png", ".jpg")):
        shape = prepare(read_picture(path), config)[0]["images"].shape[1:3]
        canvas = canvas or shape
        chosen += [path] if shape == canvas else []
        if len(chosen) == count:
            break
    return chosen, canvas


def differences(wanted, found):
    """What two detections of one picture differ by.

    Args:
        wanted, found: `Detections` of the model and of an exported file.

    Returns:
        A dict: `objects` that the model is sure of, `found` of them, and the greatest differences of these: `boxes` in
        pixels, `scores`, `masks` (probabilities), `mask_iou` (the least, of masks in the picture).
    """
    from kmaskrcnn.geometry.boxes import pairwise_iou

    sure = wanted.filter(min_score=0.5)
    overlap = np.asarray(pairwise_iou(sure.boxes, found.boxes)).reshape(len(sure), len(found))
    overlap = np.where(sure.labels[:, None] == found.labels[None], overlap, 0.0)
    places = overlap.argmax(1) if found.scores.size else np.zeros(0, int)
    hit = overlap.max(1, initial=0.0) >= 0.5
    ours, theirs = sure[hit], found[places[hit]]
    ours_full, theirs_full = ours.full_masks(), theirs.full_masks()
    both, either = ours_full & theirs_full, ours_full | theirs_full
    ious = both.sum((1, 2)) / np.maximum(either.sum((1, 2)), 1)
    return {
        "objects": len(sure),
        "found": int(hit.sum()),
        "boxes": greatest(ours.boxes - theirs.boxes),
        "scores": greatest(ours.scores - theirs.scores),
        "masks": greatest(ours.masks - theirs.masks),
        "mask_iou": float(ious.min(initial=1.0)),
    }


def greatest(values):
    return float(np.abs(values).max(initial=0.0))


def compare(model, names, pictures, canvas, folder):
    """`{name: differences}` over all pictures."""
    from kmaskrcnn.serving.predictor import Predictor

    predict, table = Predictor(model), {}
    for name in names:
        exported = open_exported(model, name, canvas, folder)
        rows = [differences(predict(path), exported(path)) for path in pictures]
        joined = {"objects": sum, "found": sum, "mask_iou": min}
        table[name] = {key: joined.get(key, max)(row[key] for row in rows) for key in rows[0]}
    return table


def to_markdown(table):
    """The numbers as a table."""
    lines = [
        "| File | objects found | boxes, px | scores | masks | least mask IoU |",
        "|---" * 6 + "|",
    ]
    for name, row in table.items():
        numbers = " | ".join(f"{row[key]:.1e}" for key in ("boxes", "scores", "masks"))
        lines.append(
            f"| {name} | {row['found']} of {row['objects']} | {numbers} | {row['mask_iou']:.4f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", metavar="MODEL", help="a .keras file with masks")
    parser.add_argument("--pictures", required=True, metavar="FOLDER")
    parser.add_argument("--count", type=int, default=4, help="of pictures: 4")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    options = parser.parse_args()
    from kmaskrcnn.serving.loading import load_model

    model = load_model(options.model)
    pictures, canvas = pictures_of_one_size(model.config, options.pictures, options.count)
    with tempfile.TemporaryDirectory() as folder:
        table = compare(model, options.formats, pictures, canvas, folder)
    sys.stdout.write(to_markdown(table))
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
