"""Mutated JPEG, PNG and json inputs against the graph's decoder, the COCO importer and the server's protocol, as JSON.

    nice python benchmarks/mutations.py --count 12000

Each target runs in a process of its own. An input may be read or refused by the target's own error; any other error, a
crash, an input that takes longer than the limit, or memory above the limit is a failure, and the report names the
input's seed: `--target TARGET --start SEED --count 1` gives it again.
"""

import argparse
import base64
import binascii
import copy
import io
import json
import logging
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

SHARES = {"decoder": 0.5, "importer": 0.25, "protocol": 0.25}
# Of one input; of all inputs together, above what the target holds at its start.
SECONDS, MEGABYTES = 10, 512
MAX_PIXELS = 1_000_000
NUMBERS = (0, 1, -1, 0.5, -1e308, 1e308, 2**31, 2**63, 2**64, 10**30)
ODD = (
    *NUMBERS,
    None,
    True,
    "",
    "a",
    "\u0000",
    "é" * 50,
    [],
    {},
    [[]],
    [None],
    {"b64": 3},
    {"a": [1]},
)
PATCHES = (
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xd9",
)


class TooLong(Exception):
    """An input took longer than the limit."""


def mutate_bytes(data, draw):
    """A few edits: bits, bytes, patches, parts lost, doubled or moved, an end cut off."""
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        if not data:
            return b""
        at, length = draw.randrange(len(data)), draw.choice((1, 2, 4, 16, 64))
        kind = draw.randrange(6)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.randrange(256)
        elif kind == 2:
            patch = draw.choice(PATCHES)
            data[at : at + len(patch)] = patch
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))
        elif draw.random() < 0.3:
            del data[at:]
    return bytes(data)


def mend_png(data):
    """Right checksums, without which a PNG's reader would look no further."""
    data, at = bytearray(data), 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            break
        data[end : end + 4] = binascii.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(data)


def mutate_json(document, draw):
    """A copy with a few values replaced, lost, doubled, or wrapped in lists."""
    document = copy.deepcopy(document)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = list(walk(document))
        if not places:
            break
        parent, key = draw.choice(places)
        kind = draw.randrange(6)
        if kind == 0:
            del parent[key]
        elif kind == 1 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif kind == 2:
            for _ in range(draw.choice((1, 3, 200))):
                parent[key] = [parent[key]]
        elif kind == 3 and isinstance(parent[key], (int, float)):
            parent[key] = parent[key] * draw.choice((-1, 0.5, 1000, 1e300))
        else:
            parent[key] = copy.deepcopy(draw.choice(ODD))  # later edits change it
    return document


def walk(value):
    """`(parent, key)` of every value in a document."""
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        yield value, key
        if isinstance(value[key], (list, dict)) and value[key]:
            yield from walk(value[key])


def encode(picture, kind, **options):
    """The bytes of a Pillow image."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def pictures():
    """Small files of many kinds, so that few bytes of them are pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 4)).astype(np.uint8)
    image = Image.fromarray(pixels[..., :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encode(image, "JPEG"),
        encode(image, "JPEG", progressive=True, exif=exif),
        encode(image.convert("L"), "JPEG"),
        encode(image.convert("CMYK"), "JPEG"),
        encode(image, "PNG"),
        encode(image, "PNG", exif=exif),
        encode(Image.fromarray(pixels), "PNG"),
        encode(image.quantize(8), "PNG", transparency=2),
        encode(image.convert("1"), "PNG"),
        encode(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"),
    ]


def decoder():
    """Runs one mutated picture through the graph that `predict_jpeg` decodes with."""
    import tensorflow as tf

    from kmaskrcnn.export.decode import decode_picture

    files = pictures()
    signature = [tf.TensorSpec((), tf.string)]
    decode = tf.function(lambda data: decode_picture(data, MAX_PIXELS), input_signature=signature)

    def run(draw):
        data = mutate_bytes(draw.choice(files), draw)
        data = mend_png(data) if data.startswith(b"\x89PNG") and draw.random() < 0.8 else data
        picture, error = decode(tf.constant(data))
        height, width, channels = picture.shape
        if (height * width > 0) == bool(error.numpy()) or channels != 3:
            raise ValueError(f"a picture of {picture.shape} with the error {error.numpy()}")
        return "refused" if error.numpy() else "read"

    return run


def dataset_document():
    """A sound COCO json with all kinds of annotations, without picture files."""
    square = [10, 10, 30, 10, 30, 30, 10, 30]
    common = {"image_id": 5, "category_id": 3, "bbox": [10, 10, 20, 20], "iscrowd": 0, "area": 400}
    counts = [60 * 10 + 10, 20, 40, 20, 60 * 80 - 60 * 10 - 90]
    rle = {"size": [60, 80], "counts": counts}
    points = {"keypoints": [12, 12, 2, 20, 20, 1, 0, 0, 0], "num_keypoints": 2}
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 5, "file_name": "a.png", "height": 60, "width": 80},
            {"id": 9, "file_name": "b/c.png", "height": 60, "width": 80},
        ],
        "annotations": [
            {"id": 1, **common, "segmentation": [square]},
            {"id": 2, **common, "segmentation": rle, "iscrowd": 1},
            {"id": 3, **common, "segmentation": [square, square], **points},
            {"id": 4, **common, "image_id": 9, "category_id": 8},
        ],
        "categories": [
            {"id": 3, "name": "cat", "keypoints": ["a", "b", "c"], "skeleton": [[1, 2], [2, 3]]},
            {"id": 8, "name": "dog"},
        ],
    }


def importer():
    """Reads one mutated COCO json, and asks for all of its masks."""
    from kmaskrcnn.data.records import DatasetError, load_coco

    logging.getLogger("kmaskrcnn").setLevel(logging.ERROR)
    document, folder = dataset_document(), tempfile.TemporaryDirectory()
    path, text = Path(folder.name, "data.json"), json.dumps(document).encode()

    def run(draw):
        if draw.random() < 0.8:
            path.write_text(json.dumps(mutate_json(document, draw)))
        else:
            path.write_bytes(mutate_bytes(text, draw))
        on_error = draw.choice(("raise", "skip"))
        try:
            records = load_coco(path, folder.name, on_error=on_error, check_images=False)
        except DatasetError:
            return "refused"
        return "read in part" if records.faults else "read"

    run.folder = folder
    return run


def protocol():
    """Reads the body of one mutated predict request, and its pictures' headers."""
    import tensorflow as tf

    from kmaskrcnn.serving.limits import check_pixels
    from kmaskrcnn.serving.protocol import RequestError, parse_predict

    files = pictures()
    signatures = {
        "serving_default": {"images": tf.TensorSpec((None, None, None, 3), tf.uint8)},
        "predict_single": {"image": tf.TensorSpec((None, None, 3), tf.uint8)},
        "predict_jpeg": {"encoded": tf.TensorSpec((None,), tf.string)},
        "predict_single_jpeg": {"encoded": tf.TensorSpec((), tf.string)},
        "metadata": {},
    }

    def run(draw):
        items = [mutate_bytes(file, draw) for file in draw.choices(files, k=2)]
        items = [{"b64": base64.b64encode(data).decode()} for data in items]
        documents = (
            {"signature_name": "predict_jpeg", "instances": items},
            {"signature_name": "predict_jpeg", "inputs": {"encoded": items}},
            {"signature_name": "predict_single_jpeg", "inputs": items[0]},
            {"instances": [[[[1, 2, 3], [4, 5, 255]]]] * 2},
            {"signature_name": "predict_single", "inputs": [[[1, 2, 3]]]},
        )
        document = draw.choice(documents)
        if draw.random() < 0.7:
            body = json.dumps(mutate_json(document, draw)).encode()
        else:
            body = mutate_bytes(json.dumps(document).encode(), draw)
        try:
            request = parse_predict(body, signatures)
        except RequestError as error:
            return "refused" if error.status == 400 else f"status {error.status}"
        for array in request.inputs.values():
            for data in array.ravel() if array.dtype == object else ():
                check_pixels(data, MAX_PIXELS)
        return "read"

    return run


TARGETS = {"decoder": decoder, "importer": importer, "protocol": protocol}


def run_target(target, start, count, seed_file):
    """Runs `count` inputs in this process; a report of what became of them."""
    run, results, failures = TARGETS[target](), Counter(), []

    def too_long(number, frame):
        raise TooLong

    signal.signal(signal.SIGALRM, too_long)
    before = None
    for seed in range(start, start + count):
        seed_file.write_text(str(seed))
        signal.alarm(SECONDS)
        try:
            results[run(random.Random(seed))] += 1
        except Exception as error:  # whatever it is, it is what this program looks for
            failures.append(f"seed {seed}: {type(error).__name__}: {error}"[:300])
        finally:
            signal.alarm(0)
        if seed - start == min(100, count - 1):
            before = peak_megabytes()
    return {
        "inputs": count,
        **results,
        "failures": failures,
        "megabytes_more": round(peak_megabytes() - before, 1),
    }


def peak_megabytes():
    """The most memory that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_all(count):
    """Every target in a process of its own."""
    report = {}
    for target, share in SHARES.items():
        with tempfile.TemporaryDirectory() as folder:
            seed = Path(folder, "seed")
            command = [sys.executable, __file__, "--target", target, "--seed-file", str(seed)]
            command += ["--count", str(round(share * count))]
            # Far beyond each input's own limit: a hang in C++ ends here.
            limit = 600 + share * count
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=limit)
                ended = run.returncode
            except subprocess.TimeoutExpired:
                ended = "hang"
            if ended != 0:
                report[target] = {"failures": [f"seed {seed.read_text()}: ended with {ended}"]}
                continue
        report[target] = json.loads(run.stdout)
    return report


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--target", choices=TARGETS, help="one alone, in this process")
    parser.add_argument("--start", type=int, default=0, help="first seed, with --target")
    parser.add_argument("--seed-file", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    """Runs and prints."""
    arguments = parse_arguments()
    if arguments.target:
        with tempfile.NamedTemporaryFile() as file:
            seed_file = Path(arguments.seed_file or file.name)
            report = run_target(arguments.target, arguments.start, arguments.count, seed_file)
        sys.stdout.write(json.dumps(report, indent=2) + "\n")
        return 0
    report = run_all(arguments.count)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    fine = all(
        not part["failures"] and part["megabytes_more"] < MEGABYTES for part in report.values()
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
