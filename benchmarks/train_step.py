"""How long a training step takes, R50-FPN with 90 classes: forward, backward, SGD with momentum and weight decay.

    python benchmarks/train_step.py --case 2x512x512
    python benchmarks/train_step.py --case 1x800x1216 --bf16

Stem and C2 frozen, batch norms frozen, 512 regions a picture, five objects each; with `--train-all` nothing is frozen,
and trunk, pyramid and mask head have batch norms that learn, as the TF Model Garden trains. One JSON line.
"""

import argparse
import time

START = time.perf_counter()


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="2x512x512", help="PICTURESxHEIGHTxWIDTH")
    parser.add_argument("--weights", help=".npz of torchvision's state dict; default: random")
    parser.add_argument("--images", help=".npz of the pictures; default: noise")
    parser.add_argument("--objects", type=int, default=5, help="of each picture")
    parser.add_argument("--bf16", action="store_true", help="mixed precision with bfloat16")
    parser.add_argument("--train-all", action="store_true", help="nothing is frozen")
    parser.add_argument("--jit", action="store_true", help="compile with XLA (portable layers)")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="append the line to this file, too")
    return parser.parse_args()


def count_regions(head):
    """A variable with the number of regions that the mask head saw last: what a step costs depends on it."""
    import tensorflow as tf

    counted, call = tf.Variable(0), head.call

    def counting(pooled, *others, **options):
        counted.assign(tf.shape(pooled)[0])
        return call(pooled, *others, **options)

    head.call = counting
    return counted


def make_step(args, images, truth):
    """A call that trains one step on the same batch, and the model."""
    import keras
    from measuring import load_model

    from kmaskrcnn.layers.backbones import freeze_backbone

    dtype = "mixed_bfloat16" if args.bf16 else "float32"
    norms = ("norm", "fpn_norm", "head_norm") if args.train_all else ()
    changes = dict.fromkeys(norms, "batch_norm")
    model = load_model(args.weights, dtype, portable=args.jit, **changes)
    freeze_backbone(model.backbone, 5 if args.train_all else 3)
    # The rate is tiny, so that random weights stay finite; what a step costs does not depend on it.
    optimizer = keras.optimizers.SGD(1e-5, momentum=0.9, weight_decay=1e-4)
    model.compile(optimizer=optimizer, jit_compile=args.jit)
    return model, step_of(model, images, truth)


def step_of(model, images, truth):
    """A call that trains a compiled model one step on the same batch."""
    import tensorflow as tf

    sizes = tf.constant([images.shape[1:3]] * len(images), tf.int32)
    inputs = {"images": tf.constant(images), "image_sizes": sizes}
    data = inputs, {name: tf.constant(value) for name, value in truth.items()}
    model.make_train_function()
    return lambda: model.train_function(iter([data]))


def main():
    args = parse()
    import numpy as np
    from measuring import (
        ellipses,
        emit,
        parse_case,
        peak_memory_mb,
        pictures,
        seconds,
        summary,
        uses_kernels,
    )

    from kmaskrcnn.allocation import keep_freed_memory

    keep_freed_memory(one_heap=True)  # as the commands that train
    record = {"bench": "train_step", "case": args.case, "bf16": args.bf16}
    record["kernels"], record["train_all"] = uses_kernels(), args.train_all
    record["import_s"] = round(time.perf_counter() - START, 2)
    case = parse_case(args.case)
    images, truth = pictures(case, args.images), ellipses(case, args.objects)
    start = time.perf_counter()
    model, step = make_step(args, images, truth)
    regions = count_regions(model.mask_branch.head)
    record["build_s"] = round(time.perf_counter() - start, 2)
    first, times = seconds(step, args.warmup, args.runs)
    record["mask_regions"] = int(regions)
    record.update(first_call_s=round(first, 2), **summary(times))
    record["losses"] = {m.name: float(np.asarray(m.result())) for m in model.loss_parts}
    record["peak_mb"] = peak_memory_mb()
    emit(record, args.json)


if __name__ == "__main__":
    main()
