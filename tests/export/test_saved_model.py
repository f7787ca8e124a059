"""The SavedModel against the model itself, in a process that has neither Keras nor this package."""

import itertools
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from pictures import broken_files, encode, photo, sound_files
from tiny import tiny_model

from kmaskrcnn.export.saved_model import export_saved_model
from kmaskrcnn.export.signatures import Signatures
from kmaskrcnn.geometry.masks import paste_masks
from kmaskrcnn.kernels import roi_align as kernel
from kmaskrcnn.serving.predictor import Predictor

# Runs signatures on pickled inputs; what a server lacks cannot be imported.
SERVER = """
import pickle, sys

for name in ("keras", "tf_keras", "kmaskrcnn", "cv2"):
    sys.modules[name] = None  # importing it fails

import tensorflow as tf

signatures = tf.saved_model.load(sys.argv[1]).signatures
with open(sys.argv[2], "rb") as file:
    calls = pickle.load(file)
results = []
for name, inputs in calls:
    found = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    results.append({key: value.numpy() for key, value in found.items()})
assert sys.modules["keras"] is sys.modules["kmaskrcnn"] is None
with open(sys.argv[2], "wb") as file:
    pickle.dump(results, file)
"""
PHOTOS = [photo(48, 64), photo(90, 60, 1), photo(200, 320, 2), photo(1, 1, 3)]


@pytest.fixture
def model(served_model):
    return served_model


@pytest.fixture
def folder(served_folder):
    return served_folder


@pytest.fixture(scope="module")
def signatures(served_folder):
    return tf.saved_model.load(str(served_folder)).signatures


def assert_equals(found, row, wanted):
    """One picture of a signature's outputs, against `Detections` of `model.predict`."""
    count = found["num_detections"][row]
    assert count == len(wanted) and (found["labels"][row][count:] == -1).all()
    assert not np.any(found["boxes"][row][count:]) and not np.any(found["scores"][row][count:])
    np.testing.assert_array_equal(found["labels"][row][:count], wanted.labels)
    np.testing.assert_allclose(found["boxes"][row][:count], wanted.boxes, atol=0.01, rtol=0)
    np.testing.assert_allclose(found["scores"][row][:count], wanted.scores, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found["masks"][row][:count], wanted.masks, atol=1e-4, rtol=0)


def test_a_server_without_keras_and_this_package_predicts_the_same(folder, model, tmp_path):
    files = [encode(picture) for picture in PHOTOS]
    calls = [
        ("predict_jpeg", {"encoded": files}),
        *(("serving_default", {"images": picture[None]}) for picture in PHOTOS),
        ("predict_single", {"image": PHOTOS[1]}),
        ("metadata", {}),
    ]
    exchange = tmp_path / "calls.pickle"
    exchange.write_bytes(pickle.dumps(calls))
    command = [sys.executable, "-c", SERVER, str(folder), str(exchange)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    of_files, *of_pixels, single, metadata = pickle.loads(exchange.read_bytes())
    predict = Predictor(model)
    for row, picture in enumerate(PHOTOS):
        wanted = predict(picture)
        assert len(wanted) > 0
        assert_equals(of_files, row, wanted)
        assert_equals(of_pixels[row], 0, wanted)
        assert tuple(of_files["image_sizes"][row]) == picture.shape[:2]
    wanted = predict(PHOTOS[1])
    assert single["masks"].shape == (len(wanted), 90, 60) and single["error"] == b""
    pasted = paste_masks(wanted.masks, wanted.boxes, (90, 60))
    assert np.mean(single["masks"] != pasted) < 1e-4  # probabilities of 0.5 within rounding
    assert metadata["class_names"].tolist() == [b"a", b"b", b"c"]
    assert json.loads(metadata["config"])["min_size"] == 64


def test_assets_hold_the_names_and_the_configuration(folder):
    assert (folder / "assets" / "class_names.txt").read_text() == "a\nb\nc\n"
    assert json.loads((folder / "assets" / "config.json").read_text())["max_detections"] == 10


def test_mixed_batches_equal_single_calls(signatures):
    files = [encode(picture) for picture in (*PHOTOS, PHOTOS[0])]
    together = signatures["predict_jpeg"](encoded=tf.constant(files))
    alike = signatures["predict_jpeg"](encoded=tf.constant([files[0], files[4]]))
    for row, data in enumerate(files):
        alone = signatures["predict_jpeg"](encoded=tf.constant([data]))
        for name, values in alone.items():
            np.testing.assert_array_equal(values[0], together[name][row], err_msg=name)
            if row in (0, 4):
                atol = 1e-3 if name == "boxes" else 1e-5  # a batch of two sums in another order
                if name != "errors":
                    np.testing.assert_allclose(values[0], alike[name][row // 4], atol=atol)


def test_a_bad_file_spoils_no_other(signatures, model):
    sound = sound_files()
    broken = list(itertools.islice(itertools.cycle(broken_files().values()), len(sound)))
    files = [data for (bad, _), good in zip(broken, sound.values()) for data in (bad, good)]
    found = {
        k: v.numpy() for k, v in signatures["predict_jpeg"](encoded=tf.constant(files)).items()
    }
    predict = Predictor(model)
    for row, (_, word) in enumerate(broken):
        assert word in found["errors"][2 * row].decode()
        assert found["num_detections"][2 * row] == 0 and (found["labels"][2 * row] == -1).all()
    for row, (kind, data) in enumerate(sound.items()):
        assert found["errors"][2 * row + 1] == b"", kind
        if kind != "cmyk jpeg":  # its pixels differ by 1
            assert_equals(found, 2 * row + 1, predict(data))


def test_nothing_in_nothing_out(signatures):
    found = signatures["predict_jpeg"](encoded=tf.constant([], tf.string))
    assert found["boxes"].shape == (0, 10, 4) and found["errors"].shape == (0,)
    found = signatures["serving_default"](images=tf.zeros((2, 0, 5, 3), tf.uint8))
    assert found["errors"].numpy().tolist() == [b"the picture has no pixels"] * 2
    assert found["num_detections"].numpy().tolist() == [0, 0]
    single = signatures["predict_single_jpeg"](encoded=tf.constant(b"no picture"))
    assert single["masks"].shape == (0, 0, 0) and b"not a JPEG" in single["error"].numpy()


def test_pictures_without_objects():
    functions = Signatures(tiny_model(score_threshold=1.0), 10**6).functions()
    found = functions["serving_default"](np.stack([PHOTOS[0]] * 2))
    assert found["num_detections"].numpy().tolist() == [0, 0]
    single = functions["predict_single"](PHOTOS[0])
    assert single["masks"].shape == (0, 48, 64) and single["boxes"].shape == (0, 4)


@pytest.mark.slow
def test_a_picture_of_48_megapixels(signatures, model):
    large = photo(6000, 8000)
    found = {k: v.numpy() for k, v in signatures["serving_default"](images=large[None]).items()}
    assert_equals(found, 0, Predictor(model)(large))
    assert found["image_sizes"].tolist() == [[6000, 8000]]
    data = encode(large, compress_level=1)
    again = signatures["predict_jpeg"](encoded=tf.constant([data]))
    np.testing.assert_allclose(again["boxes"], found["boxes"], atol=1e-3)


@pytest.mark.slow
def test_bfloat16_and_no_masks(tmp_path):
    model = tiny_model(with_mask=False)
    path = export_saved_model(model, tmp_path / "m", dtype="bfloat16")
    found = tf.saved_model.load(str(path)).signatures["serving_default"](images=PHOTOS[0][None])
    assert found["boxes"].dtype == tf.float32 and "masks" not in found
    wanted = Predictor(model)(PHOTOS[0])
    # 8 bits of precision: the score of the best stays within 1 %.
    assert abs(float(found["scores"][0, 0]) - wanted.scores[0]) < 0.01


def test_a_server_needs_no_operation_of_ours(kernels, monkeypatch, tmp_path):
    model = tiny_model(with_mask=False)
    assert model.config.roi_align == "auto" and kernel.is_available()
    # One signature is enough to see which operations the network is made of.
    functions = Signatures.functions
    name = "serving_default"
    monkeypatch.setattr(Signatures, "functions", lambda self: {name: functions(self)[name]})
    written = export_saved_model(model, tmp_path / "served") / "saved_model.pb"
    assert b"CropAndResize" in written.read_bytes() and b"Kmaskrcnn" not in written.read_bytes()


def test_keypoints_are_served_in_the_pictures_pixels():
    model = tiny_model(with_mask=False, with_keypoints=True, keypoint_names=tuple("vwxyz"))
    functions = Signatures(model, 10**6).functions()
    files = [*(encode(picture) for picture in PHOTOS[:3]), b"no picture"]
    predict = Predictor(model)
    found = {k: v.numpy() for k, v in functions["predict_jpeg"](files).items()}
    for row, picture in enumerate(PHOTOS[:3]):
        wanted = predict(picture)
        assert len(wanted) > 0 and wanted.keypoints.shape == (len(wanted), 5, 3)
        # A keypoint lies in its box, in the same pixels.
        low, high = wanted.boxes[:, None, :2] - 0.5, wanted.boxes[:, None, 2:] + 0.5
        assert np.all((wanted.keypoints[..., :2] >= low) & (wanted.keypoints[..., :2] <= high))
        np.testing.assert_allclose(
            found["keypoints"][row][: len(wanted)], wanted.keypoints, atol=0.01, rtol=0
        )
    assert not found["keypoints"][3].any() and found["errors"][3]
    single = functions["predict_single"](PHOTOS[2])
    assert "masks" not in single
    np.testing.assert_allclose(single["keypoints"], predict(PHOTOS[2]).keypoints, atol=0.01)
