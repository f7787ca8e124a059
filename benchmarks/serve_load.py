"""Mixed requests against `kmaskrcnn serve`, some of them corrupted, then a stop under load; counts as JSON.

    python benchmarks/serve_load.py --pictures ../shared/data/coco_mini/train2017

Every good request must be answered as a direct call of the model answers it, every corrupted one by a 4xx, and none be
lost; after SIGTERM every request that the server accepted must be answered, and the server exit with 0. Without a
model a small untrained one is exported, which finds as many objects as it may.
"""

import argparse
import base64
import http.client
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

import kmaskrcnn as km

TOLERANCES = {"boxes": 0.01, "scores": 1e-5, "masks": 1e-4, "keypoints": 0.01}
BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\1\0\0" * 2 + b"\x08\2\0\0\0" + bytes(4)
JSON = {"Content-Type": "application/json"}


def b64(data):
    """Bytes as the protocol's json."""
    return {"b64": base64.b64encode(data).decode()}


def corruptions(data):
    """Bodies that no server may answer with 200; `data` is a sound file."""
    body = {"signature_name": "predict_jpeg"}
    text = json.dumps({**body, "instances": [b64(data)]})
    bad_files = [b"", b"no picture", data[: len(data) // 2], data[:20], BOMB]
    documents = [{**body, "instances": [b64(bad)]} for bad in bad_files]
    documents += [
        {**body, "instances": [{"b64": "?"}]},
        {**body, "instances": []},
        {"signature_name": "absent", "instances": [b64(data)]},
        {"instances": [b64(data)]},
        {"inputs": [[[[0, 0, 256]]]]},
    ]
    return [*(json.dumps(document) for document in documents), text[: len(text) // 2], text + "}"]


def make_requests(files, count, corrupted, seed):
    """`[(body, [places in files], is_row)]`; no places where the body is corrupted."""
    draw, requests = random.Random(seed), []
    for index in range(count):
        if index < round(corrupted * count):
            bodies = corruptions(draw.choice(files))
            requests.append((bodies[index % len(bodies)], [], False))
            continue
        places = draw.choices(range(len(files)), k=draw.choice((1, 1, 2, 3)))
        is_row = draw.random() < 0.5
        key = "instances" if is_row else "inputs"
        body = {"signature_name": "predict_jpeg", key: [b64(files[place]) for place in places]}
        requests.append((json.dumps(body), places, is_row))
    draw.shuffle(requests)
    return requests


def post(port, name, body):
    """`(status, document)` of one predict request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    try:
        connection.request("POST", f"/v1/models/{name}:predict", body, JSON)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def is_right(answer, places, is_row, wanted):
    """Whether an answer equals the direct calls' outputs."""
    if is_row:
        rows = answer["predictions"]
    else:
        columns = answer["outputs"]
        rows = [{name: values[i] for name, values in columns.items()} for i in range(len(places))]
    return len(rows) == len(places) and all(
        row["errors"] == ""
        and all(
            np.allclose(row[name], values, atol=TOLERANCES.get(name, 0), rtol=0)
            for name, values in wanted[place].items()
        )
        for row, place in zip(rows, places)
    )


def load(port, name, requests, wanted, concurrency):
    """Sends all requests; what became of them."""
    report = {"requests": len(requests), "good": 0, "right": 0, "corrupted": 0, "refused_4xx": 0}

    def one(request):
        body, places, is_row = request
        status, answer = post(port, name, body)
        return status, bool(places), status == 200 and is_right(answer, places, is_row, wanted)

    with ThreadPoolExecutor(concurrency) as pool:
        answers = list(pool.map(one, requests))
    for status, is_good, right in answers:
        report["good" if is_good else "corrupted"] += 1
        report["right"] += is_good and right
        report["refused_4xx"] += not is_good and 400 <= status < 500
    report["answers"] = len(answers)
    return report


def stop_under_load(server, log, port, name, body, concurrency):
    """Sends until the server, told to stop after some answers, takes no more; what became of them."""
    statuses = []

    def client():
        try:
            while True:
                statuses.append(post(port, name, body)[0])
        except OSError:  # no longer accepted
            return

    before = counts(port)
    with ThreadPoolExecutor(concurrency) as pool:
        for _ in range(concurrency):
            pool.submit(client)
        while len(statuses) < 3 * concurrency:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
    code = server.wait(120)
    accepted, answered = re.findall(r"(\d+) requests accepted, (\d+) answered", log.read_text())[-1]
    return {
        "accepted": int(accepted) - before,
        "answered": int(answered) - before,
        "received_200": statuses.count(200),
        "exit_code": code,
    }


def counts(port):
    """Predict requests so far, by the server's own count."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return int(
        sum(float(x) for x in re.findall(r"^kmaskrcnn_requests_total{.*} (\S+)", text, re.M))
    )


def export_small_model(folder):
    """A model that answers fast: what it finds means nothing."""
    config = km.MaskRCNNConfig(
        class_names=("a", "b", "c"),
        backbone="resnet18",
        min_size=128,
        max_size=192,
        fpn_channels=32,
        rpn_pre_nms_topk=100,
        rpn_post_nms_topk=50,
        box_head_units=64,
        mask_head_channels=16,
        max_detections=20,
        score_threshold=0.0,
    )
    return km.MaskRCNN(config).export(folder / "small" / "1")


def read_files(folder, count):
    """Encoded pictures of mixed sizes: a folder's, or made up."""
    if folder:
        paths = sorted(p for p in Path(folder).iterdir() if p.suffix in (".jpg", ".png"))
        return [path.read_bytes() for path in paths[:count]]
    draw, files = np.random.default_rng(0), []
    for index in range(count):
        picture = draw.integers(0, 256, (6, 8, 3)).astype(np.uint8)
        size = tuple(int(side) for side in draw.integers(40, 400, 2))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)
        files.append(cv2.imencode((".jpg", ".png")[index % 2], picture)[1].tobytes())
    return files


def start(model, log):
    """The server's process, its port and the model's name, once it takes requests."""
    command = [sys.executable, "-m", "kmaskrcnn", "serve", str(model), "--port", "0"]
    with open(log, "w") as file:
        server = subprocess.Popen(command, stderr=file)
    while not (found := re.search(r"running on http://127.0.0.1:(\d+)", log.read_text())):
        if server.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(0.1)
    name = re.search(r"^(\S+) version", log.read_text(), re.M)[1]
    return server, int(found[1]), name


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a SavedModel of this package")
    parser.add_argument("--pictures", metavar="FOLDER")
    parser.add_argument("--different", type=int, default=40, help="pictures")
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--corrupted", type=float, default=0.1, help="share of the requests")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():
    """Runs both parts and prints."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or export_small_model(Path(folder))
        files = read_files(arguments.pictures, arguments.different)
        predict = tf.saved_model.load(str(model)).signatures["predict_jpeg"]
        outputs = [predict(encoded=tf.constant([data])) for data in files]
        wanted = [
            {k: x[0].numpy() for k, x in out.items() if x.dtype != tf.string} for out in outputs
        ]
        requests = make_requests(files, arguments.requests, arguments.corrupted, arguments.seed)
        log = Path(folder, "log")
        server, port, name = start(model, log)
        try:
            report = {"load": load(port, name, requests, wanted, arguments.concurrency)}
            body = next(body for body, places, _ in requests if places)
            report["stop"] = stop_under_load(server, log, port, name, body, arguments.concurrency)
        finally:
            server.kill()
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    answered, stop = report["load"], report["stop"]
    fine = (
        answered["right"] == answered["good"]
        and answered["refused_4xx"] == answered["corrupted"]
        and answered["answers"] == answered["requests"]
        and stop["accepted"] == stop["answered"] == stop["received_200"]
        and stop["exit_code"] == 0
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
