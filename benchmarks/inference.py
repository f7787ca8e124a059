"""How long a prediction takes, R50-FPN with 90 classes: as a whole, or stage by stage.

    python benchmarks/inference.py --case 1x800x1216
    python benchmarks/inference.py --case 2x512x512 --bf16 --paste
    python benchmarks/inference.py --stages          # each stage beside what the machine needs for it

1000 proposals, 100 detections, torchvision's thresholds. `--weights` and `--images` take what a peer's script wrote, so
that both see the same network and pictures. Batch norms are folded as they are on export. One JSON line.
"""

import argparse
import statistics
import time
from typing import Callable, NamedTuple

START = time.perf_counter()


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="1x800x1216", help="PICTURESxHEIGHTxWIDTH")
    parser.add_argument("--weights", help=".npz of torchvision's state dict; default: random")
    parser.add_argument("--images", help=".npz of the pictures; default: noise")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 convolutions and products")
    parser.add_argument("--paste", action="store_true", help="masks in full-size pictures, too")
    parser.add_argument("--no-mask", action="store_true", help="Faster R-CNN")
    parser.add_argument("--no-fold", action="store_true", help="leave batch norms as they are")
    parser.add_argument("--jit", action="store_true", help="compile with XLA (portable layers)")
    parser.add_argument("--stages", action="store_true", help="time the stages one by one")
    parser.add_argument(
        "--threads",
        type=int,
        nargs=2,
        metavar=("WITHIN", "BESIDE"),
        help="of an operation, and operations at a time",
    )
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="append the line to this file, too")
    return parser.parse_args()


def set_threads(within, beside):
    """As TensorFlow has them where nobody says: as many as cores, both."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(within)
    tf.config.threading.set_inter_op_parallelism_threads(beside)


def make_model(args):
    """The network to time, folded unless told otherwise."""
    from measuring import load_model

    from kmaskrcnn.export.folding import fold_batch_norms

    changes = {"with_mask": False} if args.no_mask else {}
    model = load_model(args.weights, portable=args.jit, **changes)
    dtype = "mixed_bfloat16" if args.bf16 else "float32"
    return model if args.no_fold else fold_batch_norms(model, dtype=dtype)


def make_prediction(model, args, images):
    """A call that predicts and waits for the result."""
    import tensorflow as tf

    from kmaskrcnn.geometry.masks import paste_masks

    size = images.shape[1:3]
    inputs = {
        "images": tf.constant(images),
        "image_sizes": tf.constant([size] * len(images), tf.int32),
    }
    graph = tf.function(
        lambda inputs: model.predict_graph(inputs, training=False), jit_compile=args.jit
    )

    def predict():
        found = {name: value.numpy() for name, value in graph(inputs).items()}
        if args.paste:
            for row, count in enumerate(found["num_detections"]):
                masks, boxes = found["masks"][row, :count], found["boxes"][row, :count]
                paste_masks(masks, boxes, size, rule=model.config.paste_rule)
        return found

    return predict


class Stage(NamedTuple):
    """A part of a prediction, and how much there is to compute and to move."""

    call: Callable
    giga_operations: float
    giga_bytes: float  # its inputs, outputs and weights, each once


def stages_of(model, images):
    """`{name: Stage}`, each fed with what the one before gave."""
    import tensorflow as tf
    from measuring import giga_bytes, giga_operations

    from kmaskrcnn.geometry.masks import paste_masks

    size = images.shape[1:3]
    sizes = tf.constant([size] * len(images), tf.int32)
    images = tf.constant(images)
    box, mask = model.box_branch, model.mask_branch
    stages = {}

    def stage(name, function, *inputs):
        compiled = tf.function(function)
        outputs, traced = compiled(*inputs), compiled.get_concrete_function(*inputs)
        moved = giga_bytes(inputs, outputs, traced.variables)
        stages[name] = Stage(lambda: compiled(*inputs), giga_operations(traced), moved)
        return outputs

    c = stage("backbone", lambda x: model.backbone(model.normalizer(x, sizes)), images)
    p = stage("fpn", model.fpn, c)
    anchors = model.anchors(p)
    logits, deltas = stage("rpn_head", model.rpn_head, p)
    # Decoding and suppression.
    rois = stage("proposals", lambda *x: model.proposals(*x, sizes), anchors, logits, deltas)
    pooled = stage("roi_align_box", box.align, p, rois)
    answers = stage("box_head", box.head, pooled)
    found = stage("detection", lambda *x: box.detection(*x, sizes), rois, *answers)
    boxes = tf.reshape(found["boxes"], (-1, 4))
    places = tf.repeat(tf.range(len(images)), tf.shape(found["boxes"])[1])
    pooled = stage("roi_align_mask", mask.align, p, boxes, places)
    labels = tf.reshape(found["labels"], [-1])
    masks = stage("mask_head", lambda *x: tf.sigmoid(mask.head(*x)), pooled, labels)
    to_paste = masks.numpy(), boxes.numpy()  # of all pictures into one: the same work

    def paste():
        return paste_masks(*to_paste, size, rule=model.config.paste_rule)

    stages["paste"] = Stage(paste, 0.0, giga_bytes(to_paste, paste()))
    return stages


def time_stages(stages, args):
    """Each stage's seconds, and beside them what the machine needs for its arithmetic, or for its bytes if more.

    The arithmetic is counted by definition, so that a stage whose algorithm needs less of it takes less; the bytes as
    if all inputs were moved once, as fast as memory is copied: regions leave parts of the maps unread.
    """
    from measuring import copy_rate, matrix_product_rate, seconds

    # Before and after: they drift.
    dtype = "bfloat16" if args.bf16 else "float32"
    limits = [(matrix_product_rate(dtype), copy_rate())]
    times = {}
    for name, stage in stages.items():
        times[name] = statistics.median(seconds(stage.call, args.warmup, args.runs)[1])
    limits.append((matrix_product_rate(dtype), copy_rate()))
    products, copies = map(statistics.mean, zip(*limits))
    floors = {
        name: max(stage.giga_operations / products, stage.giga_bytes / copies)
        for name, stage in stages.items()
    }
    work = {name: stage.giga_operations for name, stage in stages.items()}
    for totals in (times, floors, work):
        totals["total"] = sum(totals.values())
    shares = {name: work[name] / times[name] / products for name in times}
    return {
        "matrix_products_gflop_per_s": round(products, 1),
        "copies_gb_per_s": round(copies, 1),
        "stages_s": {name: round(value, 4) for name, value in times.items()},
        "stages_floor_s": {name: round(value, 4) for name, value in floors.items()},
        "stages_gflop": {name: round(value, 1) for name, value in work.items()},
        "stages_mb": {name: round(1000 * stage.giga_bytes, 1) for name, stage in stages.items()},
        "share_of_limit": {name: round(value, 3) for name, value in shares.items()},
    }


def main():
    args = parse()
    from measuring import (
        emit,
        parse_case,
        peak_memory_mb,
        pictures,
        seconds,
        stopwatch,
        summary,
        uses_kernels,
    )

    from kmaskrcnn.allocation import keep_freed_memory

    keep_freed_memory()
    if args.threads:
        set_threads(*args.threads)
    record = {"bench": "inference", "case": args.case, "bf16": args.bf16, "paste": args.paste}
    record["kernels"] = uses_kernels()
    record["import_s"] = round(time.perf_counter() - START, 2)
    images = pictures(parse_case(args.case), args.images)
    with stopwatch(record, "build_s"):
        model = make_model(args)
    if args.stages:
        record.update(time_stages(stages_of(model, images), args))
    else:
        predict = make_prediction(model, args, images)
        first, times = seconds(predict, args.warmup, args.runs)
        record.update(first_call_s=round(first, 2), **summary(times))
        record["detections"] = predict()["num_detections"].tolist()
        record["peak_mb"] = peak_memory_mb()
    emit(record, args.json)


if __name__ == "__main__":
    main()
