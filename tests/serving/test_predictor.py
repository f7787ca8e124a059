"""The Predictor: what it takes, that batches change nothing, one trace, flat memory."""

import io
import json
import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import encode, oriented, photo
from PIL import Image
from tiny import tiny_config

from kmaskrcnn.config import to_dict
from kmaskrcnn.data.faults import Rejected
from kmaskrcnn.detections import Detections
from kmaskrcnn.export.portable import CONFIG_KEY
from kmaskrcnn.serving import loading
from kmaskrcnn.serving.detectors import prepare
from kmaskrcnn.serving.predictor import Predictor

PHOTOS = [photo(48, 64), photo(90, 60, 1), photo(48, 64, 2), photo(200, 320, 3)]


@pytest.fixture(scope="module")
def model(served_model):
    return served_model


@pytest.fixture(scope="module")
def predict(model):
    return Predictor(model)


def assert_same(one, other, boxes=1e-3):
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.boxes, other.boxes, atol=boxes)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    np.testing.assert_allclose(one.masks, other.masks, atol=1e-4)


def test_it_finds_what_the_model_predicts(model, predict):
    picture = photo(64, 96)  # stays as it is: neither resized nor padded in its height
    padded = np.zeros((1, 64, 128, 3), "uint8")
    padded[:, :, :96] = picture
    sizes = np.array([[64, 96]], "int32")
    wanted = model.predict_on_batch({"images": padded, "image_sizes": sizes})
    found = predict(picture)
    assert len(found) == wanted["num_detections"][0] > 0
    np.testing.assert_allclose(found.boxes, wanted["boxes"][0], atol=1e-3)
    np.testing.assert_allclose(found.masks, wanted["masks"][0], atol=1e-4)


def test_path_bytes_array_and_pillow_image_are_one_picture(predict, tmp_path):
    data = oriented(PHOTOS[1], "PNG", 6)
    (tmp_path / "a.png").write_bytes(data)
    pixels = np.rot90(PHOTOS[1], -1)
    wanted = predict(pixels)
    assert len(wanted) > 0 and wanted.image_size == (60, 90)
    for picture in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        data,
        Image.open(io.BytesIO(data)),
    ):
        assert_same(predict(picture), wanted)


def test_deep_pillow_images_are_read_as_their_files(predict):
    deep = (PHOTOS[0][..., 0].astype("uint16") * 257) ^ 0x55
    data = encode(Image.fromarray(deep))
    image = Image.open(io.BytesIO(data))
    assert image.mode.startswith("I")
    np.testing.assert_array_equal(predict.pixels(image), predict.pixels(data))


def test_many_equal_one_by_one(predict):
    found = list(predict.predict_many(iter(PHOTOS), batch_size=3))
    assert [one.image_size for one in found] == [picture.shape[:2] for picture in PHOTOS]
    for one, picture in zip(found, PHOTOS, strict=True):
        assert_same(one, predict(picture))


def test_a_folder_with_a_broken_file(predict, tmp_path, caplog):
    for name, data in (("b.png", encode(PHOTOS[0])), ("a.jpg", b"no picture"), ("c.txt", b"text")):
        (tmp_path / name).write_bytes(data)
    found = list(predict.predict_folder(tmp_path, on_error="skip"))
    assert [path.name for path, _ in found] == ["a.jpg", "b.png"]
    assert found[0][1] is None and "a.jpg" in caplog.text
    assert_same(found[1][1], predict(PHOTOS[0]))
    with pytest.raises(ValueError, match="a.jpg"):
        list(predict.predict_folder(tmp_path))


def test_a_header_that_claims_too_many_pixels_is_a_broken_file(predict, caplog):
    """4 gigapixels, with the right checksum: OpenCV raises an error of its own instead of giving nothing."""
    png = encode(PHOTOS[0])
    header = png[12:16] + struct.pack(">2I", 65536, 65536) + png[24:29]
    forged = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    with pytest.raises(Rejected, match="PIXELS") as error:
        predict(forged)
    assert error.value.kind == "not a picture"
    found = list(predict.predict_many([forged, PHOTOS[0]], on_error="skip"))
    assert found[0] is None and len(found[1]) > 0 and "left out" in caplog.text


@pytest.mark.parametrize("kind", ["keras", "saved_model"])
def test_it_loads_files(kind, model, served_folder, predict, tmp_path):
    if kind == "keras":
        model.save(tmp_path / "model.keras")
    loaded = Predictor(tmp_path / "model.keras" if kind == "keras" else served_folder)
    assert loaded.config == model.config
    for one, picture in zip(loaded.predict_many(PHOTOS), PHOTOS, strict=True):
        assert_same(one, predict(picture), boxes=0.01)


def test_what_it_cannot_take_is_named(predict, tmp_path):
    for name in ("absent.keras", "absent", "absent.pth"):
        with pytest.raises(ValueError, match="no such file or folder"):
            Predictor(tmp_path / name)
    with pytest.raises(ValueError, match="no saved_model.pb"):
        Predictor(tmp_path)
    with pytest.raises(ValueError, match=r"got shape \(5, 5\), accepted is \(H, W, 3\)"):
        predict(np.zeros((5, 5)))
    with pytest.raises(ValueError, match="not a picture"):
        predict(b"no picture")
    with pytest.raises(ValueError, match="on_error: got 'ignore'"):
        next(predict.predict_many([], on_error="ignore"))


def test_a_preset_goes_by_its_name(model, monkeypatch, tmp_path):
    asked = []

    def from_preset(preset):
        asked.append(str(preset))
        return model

    monkeypatch.setattr(loading.MaskRCNN, "from_preset", from_preset)
    (tmp_path / "config.yaml").touch()  # the mark of a folder that save_preset wrote
    (tmp_path / "others.pth").touch()
    names = ["maskrcnn_resnet50_fpn_coco", str(tmp_path), str(tmp_path / "others.pth")]
    for name in names:
        assert Predictor(name).config == model.config
    assert asked == names


@pytest.mark.slow
def test_an_onnx_file_detects_the_same(model, predict, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs the extra [onnx]: make test-optional")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]: make test-optional")
    loaded = Predictor(model.export(tmp_path / "m.onnx", format="onnx", image_size=(64, 128)))
    assert loaded.config == model.config
    for picture in PHOTOS[0], PHOTOS[2]:  # on the canvas that they have in the model, too
        assert_same(loaded(picture), predict(picture), boxes=0.01)
    tall = loaded(PHOTOS[1])  # 90 x 60 pixels: shrunk until it fits
    inputs, size = prepare(PHOTOS[1], model.config, (64, 128))
    assert size == (64, 42) and inputs["images"].shape == (1, 64, 128, 3)
    wanted = model.predict_on_batch(inputs)
    np.testing.assert_allclose(
        tall.boxes, wanted["boxes"][0, : len(tall)] * np.tile([60 / 42, 90 / 64], 2), atol=0.02
    )


def test_what_is_no_onnx_file_is_named(tmp_path):
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]: make test-optional")
    with pytest.raises(ValueError, match="absent.onnx: no such file"):
        Predictor(tmp_path / "absent.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="bad.onnx: no model for ONNX Runtime"):
        Predictor(tmp_path / "bad.onnx")


@pytest.mark.parametrize("rule, shift", [("torchvision", 0.0), ("window", 0.5)])
def test_an_onnx_file_counts_keypoints_as_its_model_does(rule, shift, monkeypatch, tmp_path):
    """A session made up: a keypoint at 10, 12 is there in COCO's json, or half a pixel before."""
    config = tiny_config(
        with_mask=False, with_keypoints=True, keypoint_names=("tip",), keypoint_rule=rule
    )
    outputs = {
        "boxes": np.float32([[[0, 0, 30, 30]]]),
        "labels": np.int32([[0]]),
        "scores": np.float32([[0.9]]),
        "num_detections": np.int32([1]),
        "keypoints": np.float32([[[[10, 12, 0.8]]]]),
    }
    described = SimpleNamespace(custom_metadata_map={CONFIG_KEY: json.dumps(to_dict(config))})
    session = SimpleNamespace(
        get_modelmeta=lambda: described,
        get_inputs=lambda: [SimpleNamespace(name="images", shape=[1, 64, 64, 3])],
        get_outputs=lambda: [SimpleNamespace(name=name) for name in outputs],
        run=lambda names, inputs: list(outputs.values()),
    )
    runtime = SimpleNamespace(
        InferenceSession=lambda *_, **__: session, get_available_providers=list
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    (tmp_path / "m.onnx").touch()
    (found,) = Predictor(tmp_path / "m.onnx")(photo(64, 64)).to_coco(1)
    np.testing.assert_allclose(found["keypoints"], [10 - shift, 12 - shift, 0.8], atol=1e-6)


def test_one_trace_serves_all_sizes(model):
    predict = Predictor(model)
    list(predict.predict_many([photo(h, w) for h, w in ((48, 64), (64, 48), (9, 5), (300, 20))], 2))
    assert predict.detector.function.experimental_get_tracing_count() == 1


def resident():
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    "kind, count",
    [
        ("keras", 200),
        pytest.param("keras", 1000, marks=pytest.mark.slow),
        pytest.param("saved_model", 1000, marks=pytest.mark.slow),
    ],
)
def test_memory_stays_flat(predict, served_folder, kind, count):
    predict = predict if kind == "keras" else Predictor(served_folder)
    pictures = [photo(48 + 7 * (i % 5), 64 + 11 * (i % 3), i) for i in range(15)]
    for i in range(50):
        predict(pictures[i % 15])
    before = resident()
    for i in range(count):
        predict(pictures[i % 15])
    assert resident() < 1.02 * before


def test_a_large_picture_is_read_tile_by_tile(predict):
    picture = photo(150, 230)
    found = predict.predict_tiled(picture, tile_size=96, overlap=0.3)
    assert found.image_size == (150, 230) and len(found) > 0
    assert (found.boxes[:, 2] <= 230).all() and found.boxes[:, 2].max() > 150
    whole = predict.predict_tiled(PHOTOS[0], tile_size=96)
    assert_same(whole, predict(PHOTOS[0]))  # one tile holds it all


@pytest.mark.parametrize("changes, side", [({}, 64), ({"tile_size": 96}, 96)])
def test_tiles_keep_the_resolution_by_default(changes, side, monkeypatch):
    config, seen = tiny_config(min_size=64, max_size=128), []

    def detect(pictures):
        seen.extend(pictures)
        return [Detections([], [], [], picture.shape[:2]) for picture in pictures]

    detector = SimpleNamespace(config=config, detect=detect)
    monkeypatch.setattr("kmaskrcnn.serving.predictor.open_detector", lambda model: detector)
    Predictor(None).predict_tiled(PHOTOS[3], **changes)
    assert {tile.shape[:2] for tile in seen} == {(side, side)}
    inputs, size = prepare(seen[0], config)
    assert size == (64, 64)
    assert np.array_equal(inputs["images"][0], seen[0]) == (side == 64)
