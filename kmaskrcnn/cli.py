"""The command `kmaskrcnn`: each command calls one function of the rooms below."""

import argparse
import logging
import sys
from pathlib import Path

from kmaskrcnn.allocation import keep_freed_memory
from kmaskrcnn.cli_datasets import add_dataset_commands, add_format
from kmaskrcnn.cli_output import counted, show, write_json
from kmaskrcnn.cli_training import TRAINING_COMMANDS, add_training_commands

EXAMPLES = """examples:
  kmaskrcnn demo --output demo
  kmaskrcnn inspect train.json images/
  kmaskrcnn convert-data labelme_folder/ all.json
  kmaskrcnn split all.json --output parts/ --validation 0.2
  kmaskrcnn advise-anchors train.json images/ --recipe configs/coco_r50_fpn_1x.yaml
  kmaskrcnn find-learning-rate recipe.yaml --data train.json images/ --output rates.png
  kmaskrcnn train configs/nuclei_mobilenetv2_fpn.yaml --train train.json images/ \\
      --validation val.json images/ --output runs/nuclei --set training.epochs=20
  kmaskrcnn evaluate runs/nuclei/model.keras --data val.json images/ --json metrics.json
  kmaskrcnn evaluate --ground-truth val.json --results results.json --task mask
  kmaskrcnn predict runs/nuclei/model.keras picture.jpg --output found/
  kmaskrcnn convert maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth coco.keras
  kmaskrcnn export runs/nuclei/model.keras served/nuclei/1
  kmaskrcnn serve served/nuclei --port 8501
  kmaskrcnn app runs/nuclei/model.keras
"""
KERAS_MODEL_HELP = "a .keras file, or a preset"
MODEL_HELP = "a .keras or .onnx file, a SavedModel's folder, or a preset"
EXPORT_OPTIONS = {  # which formats take them
    "image_size": ("onnx", "litert"),
    "dtype": ("saved_model",),
    "quantise": ("onnx", "litert"),
}
SERVE_LIMITS = (  # fields of serving.limits.Limits, which has the defaults
    ("max-body-bytes", int, "of a request"),
    ("max-pixels", int, "of a picture, by its header"),
    ("max-instances", int, "of a request"),
    ("concurrency", int, "requests at the same time; others get 503"),
    ("timeout", float, "seconds until an answer, or 504"),
    ("max-batch", int, "pictures in one call of the network"),
    ("batch-wait-ms", float, "how long a picture waits for others"),
)


class UsageError(ValueError):
    """The command's arguments do not go together."""


def main(arguments=None) -> int:
    """Run one command; 0 if it went well, 1 after an error that stderr names, in one line but for several faults."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    keep_freed_memory(one_heap=options.command in TRAINING_COMMANDS)
    try:
        options.run(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # every error becomes clear words, whatever raised it
        if options.debug:
            raise
        # TensorFlow appends the traceback of what failed inside its graph.
        text = str(error).partition("Traceback (most recent call last)")[0]
        if len(getattr(error, "faults", ())) < 2:  # several faults keep a line each
            text = " ".join(text.split())
        text = text.strip() or type(error).__name__
        sys.stderr.write(f"kmaskrcnn {options.command}: error: {text}\n")
        return 1
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(
        prog="kmaskrcnn",
        description="Mask R-CNN for Keras 3: train, evaluate, predict.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(run, help_text):
        name = run.__name__.removeprefix("run_").replace("_", "-")
        own = commands.add_parser(name, help=help_text, description=run.__doc__)
        own.add_argument("--debug", action="store_true", help="show the traceback of an error")
        own.set_defaults(run=run)
        return own

    def add_tta(own):
        own.add_argument(
            "--tta",
            action="store_true",
            help="look at every picture in three sizes and mirrored: slower, often better",
        )

    add_training_commands(command)

    evaluate = command(run_evaluate, "AP of a model, or of results in COCO's format")
    evaluate.add_argument("model", nargs="?", metavar="MODEL", help=KERAS_MODEL_HELP)
    evaluate.add_argument("--data", nargs=2, metavar=("JSON", "IMAGES"))
    add_format(evaluate)
    evaluate.add_argument("--batch-size", type=int, default=1)
    evaluate.add_argument("--on-error", choices=("raise", "skip"), default="raise")
    add_tta(evaluate)
    evaluate.add_argument("--ground-truth", metavar="GT.json")
    evaluate.add_argument("--results", metavar="DT.json")
    evaluate.add_argument("--task", choices=("box", "mask", "keypoint"), default="box")
    evaluate.add_argument("--json", metavar="FILE", help="write the numbers there")

    predict = command(run_predict, "find objects in pictures; draw them and write COCO results")
    predict.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    predict.add_argument("pictures", nargs="+", metavar="PICTURE")
    add_tta(predict)
    predict.add_argument("--output", required=True, metavar="DIR")
    predict.add_argument("--min-score", type=float, default=0.5, help="draw from this score on")

    export = command(run_export, "write a model for a server or a device")
    export.add_argument("model", metavar="MODEL", help=KERAS_MODEL_HELP)
    export.add_argument("output", metavar="OUTPUT")
    export.add_argument(
        "--format", choices=("saved_model", "onnx", "litert"), default="saved_model"
    )
    export.add_argument(
        "--image-size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="of the network image, for ONNX and LiteRT",
    )
    export.add_argument("--dtype", choices=("float32", "bfloat16"), help="a SavedModel computes in")
    export.add_argument("--quantise", choices=("float16", "int8"), help="weights of ONNX, LiteRT")

    serve = command(run_serve, "answer requests as TensorFlow Serving's REST protocol has them")
    serve.add_argument("model", metavar="SAVED_MODEL", help="the folder that `export` wrote")
    serve.add_argument("--host", default="127.0.0.1", help="by default, this machine alone")
    serve.add_argument("--port", type=int, default=8501)
    serve.add_argument("--name", help="of the model; by default the folder's")
    for name, kind, help_text in SERVE_LIMITS:
        serve.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=help_text)

    app = command(run_app, "a page in the browser to try a model on pictures")
    app.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    app.add_argument("--host", default="127.0.0.1", help="by default, this machine alone")
    app.add_argument("--port", type=int, default=7860)

    convert = command(
        run_convert, "bring weights of torchvision, Detectron2, matterport or Keras into a model"
    )
    convert.add_argument("source", metavar="SOURCE_FILE", help="a file, or the name of a preset")
    convert.add_argument("output", metavar="OUTPUT", help="a .keras file, or a folder")
    convert.add_argument("--architecture", metavar="NAME", help="by default the file tells")

    add_dataset_commands(command)

    kernels = command(run_build_kernels, "compile faster RoIAlign and convolutions, once")
    kernels.add_argument(
        "--cuda", action=argparse.BooleanOptionalAction, help="default: where there is a GPU"
    )
    kernels.add_argument("--force", action="store_true", help="also where it is there already")
    return parser


def run_evaluate(options):
    """AP: of MODEL on --data, or of --results against --ground-truth, which needs no model."""
    if options.model and options.data and not (options.ground_truth or options.results):
        metrics = evaluate_saved_model(options)
    elif options.ground_truth and options.results and not (options.model or options.data):
        metrics = {options.task: evaluate_files(options)}
    else:
        raise UsageError("give MODEL and --data JSON IMAGES, or --ground-truth and --results")
    from kmaskrcnn.evaluation import format_table

    show(format_table(metrics, per_class=True))
    if options.json:
        write_json(options.json, metrics)


def evaluate_files(options):
    """AP of the results that `evaluate` was given, by the rules of the ground truth's format."""
    from kmaskrcnn.average_precision import evaluate_results
    from kmaskrcnn.data.formats import detect_format
    from kmaskrcnn.lvis_precision import evaluate_lvis

    format = options.format if options.format != "auto" else detect_format(options.ground_truth)
    evaluate = {"coco": evaluate_results, "lvis": evaluate_lvis}.get(format)
    if evaluate is None:
        raise UsageError(f"--ground-truth must be a json of coco or lvis, got {format}")
    return evaluate(options.ground_truth, options.results, options.task)


def evaluate_saved_model(options):
    """AP of the model that `evaluate` was given."""
    from kmaskrcnn.data.formats import load_dataset
    from kmaskrcnn.data.pipeline import make_dataset
    from kmaskrcnn.evaluation import evaluate_model
    from kmaskrcnn.serving.loading import load_model

    model = load_model(options.model)
    config = model.config
    records = load_dataset(
        *options.data,
        format=options.format,
        class_names=config.class_names,
        on_error=options.on_error,
    )
    if options.tta:
        return evaluate_augmented(model, records)
    dataset = make_dataset(
        records,
        batch_size=options.batch_size,
        min_size=config.min_size,
        max_size=config.max_size,
        size_divisor=config.size_divisor,
        resize_rule=config.resize_rule,
        with_masks=False,
    )
    return evaluate_model(model, dataset, records, progress=sys.stdout.isatty())


def evaluate_augmented(model, records):
    """AP of a model that looks at every picture in several views."""
    from kmaskrcnn.data.loading import read_record
    from kmaskrcnn.evaluation import evaluate_pictures
    from kmaskrcnn.serving.augmented import TestTimeAugmentation
    from kmaskrcnn.serving.predictor import Predictor

    pictures = ((record.image_id, read_record(record)) for record in records.images)
    sigmas = model.config.keypoint_sigmas
    predict = Predictor(model, tta=TestTimeAugmentation())
    return evaluate_pictures(predict, pictures, records, sys.stdout.isatty(), sigmas)


def run_predict(options):
    """Find objects in pictures: a drawn PNG and a COCO json of results for each."""
    import keras

    from kmaskrcnn.data.pictures import read_picture, write_picture
    from kmaskrcnn.serving.augmented import TestTimeAugmentation
    from kmaskrcnn.serving.predictor import Predictor
    from kmaskrcnn.visualize import draw_detections

    output = Path(options.output)
    refuse_their_folder(options.pictures, output)
    output.mkdir(parents=True, exist_ok=True)
    stems = unique_stems(options.pictures)
    predictor = Predictor(options.model, tta=TestTimeAugmentation() if options.tta else None)
    category_ids = predictor.config.category_ids or None
    bar = keras.utils.Progbar(len(options.pictures), verbose=int(sys.stdout.isatty()))
    for image_id, (path, stem) in enumerate(zip(options.pictures, stems), start=1):
        detections = predictor(path)
        drawn = draw_detections(read_picture(path), detections, min_score=options.min_score)
        write_picture(output / f"{stem}.png", drawn)
        write_json(output / f"{stem}.json", detections.to_coco(image_id, category_ids))
        bar.add(1)
    show(f"{counted(len(options.pictures), 'picture')} with results in {output}/")


def run_export(options):
    """Write MODEL as SavedModel, ONNX or LiteRT file; docs/serving.md says how each is used."""
    from kmaskrcnn.export.exporter import export_model
    from kmaskrcnn.serving.loading import load_model

    given = {
        name: getattr(options, name)
        for name in EXPORT_OPTIONS
        if getattr(options, name) is not None
    }
    for name in given:
        if options.format not in EXPORT_OPTIONS[name]:
            formats = " and ".join(EXPORT_OPTIONS[name])
            raise UsageError(f"--{name.replace('_', '-')} is for {formats}, not {options.format}")
    export_model(load_model(options.model), options.output, options.format, **given)
    show(f"{options.output} written")


def run_serve(options):
    """Serve an exported model over HTTP until SIGTERM; docs/serving.md says what is asked and answered."""
    try:
        from kmaskrcnn.serving.limits import Limits
        from kmaskrcnn.serving.server import serve
    except ImportError as error:
        raise ImportError(
            f"{error}; `pip install '.[serve]'` in kmaskrcnn's folder brings it"
        ) from error

    names = [name.replace("-", "_") for name, _, _ in SERVE_LIMITS]
    limits = Limits(**{name: getattr(options, name) for name in names if hasattr(options, name)})
    serve(options.model, options.host, options.port, options.name, limits)


def run_app(options):
    """Open a page on this machine: drop a picture, choose threshold and classes, save the COCO json."""
    try:
        from kmaskrcnn.serving.page import run_page
    except ImportError as error:
        raise ImportError(
            f"{error}; `pip install '.[app]'` in kmaskrcnn's folder brings it"
        ) from error

    run_page(options.model, options.host, options.port)


def run_convert(options):
    """Bring others' weights into a model: a .keras file, or a folder with config and weights."""
    from kmaskrcnn.model import MaskRCNN

    model = MaskRCNN.from_preset(options.source, architecture=options.architecture)
    if options.output.endswith(".keras"):
        Path(options.output).parent.mkdir(parents=True, exist_ok=True)
        model.save(options.output)
    else:
        model.save_preset(options.output)
    show(f"{options.output}: {model.config.backbone}, {counted(model.config.num_classes, 'class')}")


def run_build_kernels(options):
    """Compile RoIAlign and convolutions against the installed TensorFlow; the models use them from then on."""
    from kmaskrcnn.kernels.builder import build_kernels

    show(f"{build_kernels(options.cuda, options.force)} built")


def unique_stems(paths):
    """A name for each picture's results: its own, with its folder's and then a number where it is taken."""
    stems = []
    for path in map(Path, paths):
        shared = sum(Path(other).stem == path.stem for other in paths) > 1
        parts = path.with_suffix("").parts[-2:] if shared else (path.stem,)
        stem = first = "_".join(part.strip("/") for part in parts)
        number = 2
        while stem in stems:
            stem, number = f"{first}_{number}", number + 1
        stems.append(stem)
    return stems


def refuse_their_folder(pictures, output):
    """Raise before results take the place of what lies beside the pictures: themselves, masks, LabelMe's json."""
    for path in map(Path, pictures):
        if output.resolve() in (path.parent.resolve(), path.resolve().parent):
            message = f"--output is the folder of {path}, where results could overwrite files"
            raise UsageError(f"{message}: choose another folder")
