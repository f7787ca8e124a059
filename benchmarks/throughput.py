"""Pictures and training steps a second on whatever device there is: ours on any Keras backend, or torchvision's model.

    KERAS_BACKEND=jax python benchmarks/throughput.py --case 8x800x1216
    python benchmarks/throughput.py --case 8x800x1216 --torchvision      # torch and torchvision alone

R50-FPN with 91 classes and random weights; ours is the portable model, compiled with XLA (`--no-jit`: without), with
batch norms folded for the prediction. The same noise, five ellipses a picture. One JSON line. Meant for GPUs: `--bf16`.
"""

import argparse
import json
import statistics
import time


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--case", default="2x512x512", help="PICTURESxHEIGHTxWIDTH")
    parser.add_argument("--torchvision", action="store_true", help="its model instead of ours")
    parser.add_argument("--bf16", action="store_true", help="mixed precision with bfloat16")
    parser.add_argument(
        "--no-jit", action="store_true", help="without XLA; torch is never compiled"
    )
    parser.add_argument("--runs", type=int, default=20)
    return parser.parse_args()


def ours(args, images, truth):
    """`(device, predict, train)`: calls that return when the work is done."""
    import keras
    import numpy as np

    from kmaskrcnn import MaskRCNN, MaskRCNNConfig
    from kmaskrcnn.export.folding import fold_batch_norms

    dtype = "mixed_bfloat16" if args.bf16 else "float32"
    names = tuple(f"class {i}" for i in range(90))
    model = MaskRCNN(MaskRCNNConfig(class_names=names, portable=True), dtype=dtype)
    folded = fold_batch_norms(model, dtype)
    folded.compile(jit_compile=not args.no_jit)
    model.compile(optimizer=keras.optimizers.SGD(1e-5, momentum=0.9), jit_compile=not args.no_jit)
    sizes = np.array([images.shape[1:3]] * len(images), "int32")
    inputs = {"images": images, "image_sizes": sizes}
    device = f"{keras.backend.backend()}: {keras.distribution.list_devices()}"
    # Both give NumPy's numbers, for which they wait.
    return (
        device,
        lambda: folded.predict_on_batch(inputs),
        lambda: model.train_on_batch(inputs, truth),
    )


def theirs(args, images, truth):
    """The same of torchvision's model."""
    import numpy as np
    import torch
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = {"min_size": min(images.shape[1:3]), "max_size": max(images.shape[1:3])}
    model = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91, **size)
    model = model.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    pictures = [torch.from_numpy(x).permute(2, 0, 1).to(device) / 255 for x in images]
    targets = []
    for boxes, labels in zip(truth["boxes"], truth["labels"]):
        masks = np.stack([_pasted(box, images.shape[1:3]) for box in boxes])
        arrays = {"boxes": boxes, "labels": labels.astype("int64") + 1, "masks": masks}
        targets.append({name: torch.from_numpy(x).to(device) for name, x in arrays.items()})

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def predict():
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, args.bf16):
            model.eval()(pictures)
        wait()

    def train():
        with torch.autocast(device.type, torch.bfloat16, args.bf16):
            loss = sum(model.train()(pictures, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wait()

    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    return f"torch: {name}", predict, train


def _pasted(box, size):
    """The ellipse within a box, in a picture's pixels."""
    import numpy as np

    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    x1, y1, x2, y2 = box
    away = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2
    return (away <= 0.25).astype(np.uint8)


def main():
    args = parse()
    import numpy as np
    from measuring import ellipses, parse_case, seconds

    case = parse_case(args.case)
    images = np.random.default_rng(0).uniform(0, 255, (*case, 3)).astype("float32")
    make = theirs if args.torchvision else ours
    start = time.perf_counter()
    device, predict, train = make(args, images, ellipses(case, 5))
    record = {"bench": "throughput", "case": args.case, "bf16": args.bf16, "device": device}
    record["build_s"] = round(time.perf_counter() - start, 2)
    for name, call, count in (("pictures", predict, case[0]), ("steps", train, 1)):
        first, times = seconds(call, 2, args.runs)
        record[f"first_{name}_s"] = round(first, 2)
        record[f"{name}_per_s"] = round(count / statistics.median(times), 2)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
