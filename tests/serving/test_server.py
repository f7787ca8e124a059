"""`kmaskrcnn serve`: answers equal direct calls, limits hold, nothing accepted is lost."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from pictures import broken_files, encode, photo

for module in ("orjson", "prometheus_client", "starlette", "uvicorn"):
    pytest.importorskip(module, reason="needs the extra [serve]: make test-optional")

from http_server import ask, b64, running  # noqa: E402

from kmaskrcnn.cli import main  # noqa: E402
from kmaskrcnn.serving.limits import Limits  # noqa: E402
from kmaskrcnn.serving.served_model import ServedModel, find_version  # noqa: E402
from kmaskrcnn.serving.server import Server  # noqa: E402

MODEL = "/v1/models/tiny"
PREDICT = f"{MODEL}:predict"
PHOTOS = [photo(48, 64), photo(90, 60, 1), photo(48, 64, 2), photo(1, 1, 3)]
FILES = [encode(picture, kind) for picture, kind in zip(PHOTOS, ("PNG", "JPEG", "PNG", "PNG"))]
LIMITS = Limits(max_body_bytes=200_000, max_pixels=100_000, max_instances=8)


@pytest.fixture(scope="module")
def served(served_folder):
    return ServedModel(served_folder.parent)


@pytest.fixture(scope="module")
def port(served):
    with running(Server(served, LIMITS).app()) as port:
        yield port


def assert_equals(found, outputs, row=None):
    """The json of a prediction against a signature's own outputs."""
    assert set(found) == set(outputs)
    for name, wanted in outputs.items():
        wanted = wanted.numpy() if row is None else wanted.numpy()[row]
        if name in ("error", "errors"):
            assert found[name] == wanted.decode()
        else:  # a batch sums in another order
            np.testing.assert_allclose(found[name], wanted, atol=1e-3 if name == "boxes" else 1e-5)


def test_the_model_is_described(port, served):
    for path in (MODEL, f"{MODEL}/versions/1"):
        status, answer = ask(port, path)
        assert status == 200 and answer["model_version_status"][0]["version"] == "1"
    status, answer = ask(port, f"{MODEL}/metadata")
    definition = answer["metadata"]["signature_def"]["signature_def"]["predict_jpeg"]
    assert status == 200 and definition["inputs"]["encoded"]["dtype"] == "DT_STRING"
    sides = definition["outputs"]["masks"]["tensor_shape"]["dim"]
    assert [side["size"] for side in sides] == ["-1", "10", "28", "28"]
    assert ask(port, "/healthz") == ask(port, "/readyz") == (200, "ok\n")


def test_files_in_rows_and_columns_equal_a_direct_call(port, served):
    outputs = served.signatures["predict_jpeg"](encoded=tf.constant(FILES))
    assert outputs["num_detections"].numpy()[:3].all()
    body = {"signature_name": "predict_jpeg", "instances": [b64(data) for data in FILES]}
    status, answer = ask(port, PREDICT, body)
    assert status == 200
    for row, found in enumerate(answer["predictions"]):
        assert_equals(found, outputs, row)
    body = {"signature_name": "predict_jpeg", "inputs": [b64(FILES[1])]}
    status, answer = ask(port, f"{MODEL}/versions/1:predict", body)
    assert status == 200
    assert_equals({name: value[0] for name, value in answer["outputs"].items()}, outputs, 1)


def test_pixels_and_single_pictures_equal_a_direct_call(port, served):
    images = np.stack([PHOTOS[0], PHOTOS[2]])
    status, answer = ask(port, PREDICT, {"instances": images.tolist()})
    outputs = served.signatures["serving_default"](images=images)
    assert status == 200 and len(answer["predictions"]) == 2
    for row, found in enumerate(answer["predictions"]):
        assert_equals(found, outputs, row)
    body = {"signature_name": "predict_single_jpeg", "inputs": b64(FILES[1])}
    status, answer = ask(port, PREDICT, body)
    assert status == 200 and np.shape(answer["outputs"]["masks"])[1:] == (90, 60)
    outputs = served.signatures["predict_single_jpeg"](encoded=tf.constant(FILES[1]))
    assert_equals(answer["outputs"], outputs)
    status, answer = ask(port, PREDICT, {"signature_name": "metadata", "inputs": {}})
    assert answer["outputs"]["class_names"] == ["a", "b", "c"]


def test_a_bad_item_spoils_no_other(port, served):
    files = [data for data, _ in broken_files().values()][:7] + [FILES[0]]
    body = {"signature_name": "predict_jpeg", "instances": [b64(data) for data in files]}
    status, answer = ask(port, PREDICT, body)
    *bad, good = answer["predictions"]
    assert status == 200 and [bool(one["errors"]) for one in bad] == [True] * 7
    assert all(one["num_detections"] == 0 for one in bad)
    outputs = served.signatures["predict_jpeg"](encoded=tf.constant(FILES[:1]))
    assert_equals(good, outputs, 0)


@pytest.mark.parametrize("kind", broken_files())
def test_a_bad_picture_alone_is_a_bad_request(port, kind):
    data, word = broken_files()[kind]
    for body in (
        {"signature_name": "predict_jpeg", "instances": [b64(data)]},
        {"signature_name": "predict_single_jpeg", "inputs": b64(data)},
    ):
        status, answer = ask(port, PREDICT, body)
        assert status == 400 and word in answer["error"], kind


def chunks():
    yield from [b"x" * 50_000] * 5


@pytest.mark.parametrize(
    "path, body, status, word",
    [
        (PREDICT, b"{", 400, "JSON Parse error"),
        (PREDICT, {"instances": [[[[1, 2, 300]]]]}, 400, "0 to 255"),
        (PREDICT, {"instances": [[[]]]}, 400, "images: shape"),
        (PREDICT, {"instances": [[[[1, 2, 3]]]] * 9}, 400, "9 instances, more than the limit of 8"),
        (PREDICT, {"signature_name": "metadata", "instances": [1]}, 400, "no inputs"),
        (PREDICT, b"x" * 200_001, 413, "larger than 200000 bytes"),
        (PREDICT, chunks(), 413, "larger than 200000 bytes"),
        (
            PREDICT,
            {"signature_name": "predict_jpeg", "instances": [b64(encode(photo(251, 400)))]},
            400,
            "400 x 251 pixels, more than the limit of 100000",
        ),
        (
            PREDICT,
            {"signature_name": "predict_single_jpeg", "inputs": b64(encode(photo(100, 101)))},
            400,
            "101 x 100 pixels, more than this signature's limit of 10000",
        ),
        ("/v1/models/other:predict", {}, 404, "Servable not found for request: Latest(other)"),
        (f"{MODEL}/versions/7:predict", {}, 404, "Specific(tiny, 7)"),
        ("/v1/models/other", None, 404, "Latest(other)"),
        (f"{MODEL}/versions/2/metadata", None, 404, "Specific(tiny, 2)"),
        (f"{MODEL}:classify", {}, 400, "Malformed request: POST /v1/models/tiny:classify"),
        (PREDICT, None, 400, "Malformed request: GET /v1/models/tiny:predict"),
        ("/v1/other", None, 400, "Malformed request"),
        ("/other", None, 404, "Malformed request"),
    ],
)
def test_what_is_refused_and_why(port, path, body, status, word):
    headers = {} if isinstance(body, (dict, type(None))) else {"Content-Type": "application/json"}
    found, answer = ask(port, path, body, headers)
    assert found == status and list(answer) == ["error"] and word in answer["error"]


def test_what_happens_is_counted(port):
    def count(name, text):
        return float(re.search(rf"^{name} (\S+)", text, re.M)[1])

    ask(port, PREDICT, b"{")
    before = ask(port, "/metrics")[1]
    ask(port, PREDICT, {"signature_name": "predict_jpeg", "instances": [b64(FILES[0])]})
    ask(port, PREDICT, b"{")
    after = ask(port, "/metrics")[1]
    for name, more in (
        ('kmaskrcnn_requests_total{status="400"}', 1),
        ("kmaskrcnn_request_seconds_count", 2),
        ("kmaskrcnn_batch_pictures_sum", 1),
        ('kmaskrcnn_pictures_total{result="found"}', 1),
    ):
        assert count(re.escape(name), after) - count(re.escape(name), before) == more, name
    assert count("kmaskrcnn_requests_in_progress", after) == 0


class SlowModel:
    """Answers after `seconds`, or fails where asked to."""

    name, version, config = "slow", 1, {"in_channels": 3, "with_mask": False}
    inputs = {
        "predict_jpeg": {"encoded": tf.TensorSpec((None,), tf.string)},
        "serving_default": {"images": tf.TensorSpec((None, None, None, 3), tf.uint8)},
    }

    def __init__(self, seconds):
        self.seconds, self.batches = seconds, []

    def run(self, signature, inputs):
        if signature != "predict_jpeg":
            return {}
        self.batches.append(inputs["encoded"].tolist())
        time.sleep(self.seconds)
        if b"poison" in self.batches[-1]:
            raise MemoryError
        return {"echo": inputs["encoded"], "errors": np.full(len(inputs["encoded"]), b"", object)}


def ask_slow(port, text):
    body = {"signature_name": "predict_jpeg", "instances": [text]}
    return ask(port, "/v1/models/slow:predict", body)


def ask_at_once(port, texts):
    """`{text: (status, answer)}`."""
    found = {}
    threads = [
        threading.Thread(target=lambda text=text: found.update({text: ask_slow(port, text)}))
        for text in texts
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join()
    return found


def test_requests_are_joined_and_one_failure_is_not_the_others(caplog):
    model = SlowModel(0.3)
    with running(Server(model, Limits(max_batch=4)).app()) as port:
        found = ask_at_once(port, ["a", "b", "poison", "c"])
    assert found.pop("poison") == (500, {"error": "Internal error: MemoryError"})
    assert "MemoryError" in caplog.text
    for text, (status, answer) in found.items():
        assert status == 200 and answer["predictions"][0]["echo"] == text
    assert model.batches[0] == [b"a"]  # nobody else was there yet
    assert sorted(model.batches[1]) == [b"b", b"c", b"poison"]


def test_a_full_queue_and_a_late_answer():
    limits = Limits(concurrency=2, timeout=0.5)
    with running(Server(SlowModel(1.0), limits).app()) as port:
        statuses = [status for status, _ in ask_at_once(port, "abc").values()]
        assert sorted(statuses) == [503, 504, 504]


def test_a_body_that_does_not_come_is_not_waited_for():
    with running(Server(SlowModel(0), Limits(timeout=0.3)).app()) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(b"POST /v1/models/slow:predict HTTP/1.1\r\nHost: x\r\n")
            client.sendall(b"Content-Length: 100\r\n\r\n{")
            assert client.recv(1000).startswith(b"HTTP/1.1 408")
        assert ask_slow(port, "a")[0] == 200


def test_where_a_model_lies(tmp_path, served_folder):
    assert find_version(served_folder) == (served_folder.resolve(), "tiny", 1)
    for version in ("2", "10", "new"):
        (tmp_path / "m" / version).mkdir(parents=True)
        (tmp_path / "m" / version / "saved_model.pb").touch()
    assert find_version(tmp_path / "m") == (tmp_path / "m" / "10", "m", 10)
    assert find_version(tmp_path / "m" / "new") == (tmp_path / "m" / "new", "new", 1)
    with pytest.raises(ValueError, match="no SavedModel.*kmaskrcnn export"):
        find_version(tmp_path)


def test_the_command_names_what_is_wrong(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "there is no saved_model.pb" in capsys.readouterr().err
    assert main(["serve", str(tmp_path), "--timeout", "0"]) == 1
    assert "timeout: a number above 0" in capsys.readouterr().err


def test_a_stop_under_load_loses_no_accepted_request(served_folder, tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-m", "kmaskrcnn", "serve", str(served_folder), "--port", "0"]
    with open(log, "w") as file:
        server = subprocess.Popen(command, stderr=file)
    try:
        while not (started := re.search(r"running on http://127.0.0.1:(\d+)", log.read_text())):
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        answers = stop_under_load(server, int(started[1]))
        assert server.wait(60) == 0
    finally:
        server.kill()
    accepted, answered = re.search(
        r"(\d+) requests accepted, (\d+) answered", log.read_text()
    ).groups()
    assert accepted == answered == str(len(answers)) and len(answers) > 0
    assert {status for status, _ in answers} == {200}


def stop_under_load(server, port):
    """The answers that eight clients get until a server that is told to stop takes no more."""
    answers, lock = [], threading.Lock()

    def client():
        while True:
            try:
                body = {"signature_name": "predict_jpeg", "instances": [b64(FILES[0])]}
                answer = ask(port, PREDICT, body)
            except OSError:  # no longer accepted
                return
            with lock:
                answers.append(answer)

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(answers) < 20:
        time.sleep(0.05)
    server.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(60)
    return answers
