"""ONNX and LiteRT files against the model, in the runtimes they are made for."""

import numpy as np
import pytest
import tensorflow as tf
from pictures import photo

from kmaskrcnn.export.exporter import export_model
from kmaskrcnn.serving.detectors import prepare


@pytest.fixture(scope="module")
def model(served_model):
    return served_model


@pytest.fixture(scope="module")
def inputs(model):
    return prepare(photo(60, 90), model.config)[0]


def assert_detects_the_same(found, model, inputs, boxes=0.01, scores=1e-5, masks=1e-4):
    wanted = model.predict_on_batch(inputs)
    assert set(found) == set(wanted)
    assert wanted["num_detections"][0] == found["num_detections"][0] > 0
    np.testing.assert_array_equal(found["labels"], wanted["labels"])
    np.testing.assert_allclose(found["boxes"], wanted["boxes"], atol=boxes, rtol=0)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=scores, rtol=0)
    np.testing.assert_allclose(found["masks"], wanted["masks"], atol=masks, rtol=0)
    if "keypoints" in wanted:
        np.testing.assert_allclose(found["keypoints"], wanted["keypoints"], atol=boxes, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", [(64, 128), None])
def test_onnx_runtime_detects_the_same(model, inputs, image_size, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs the extra [onnx]: make test-optional")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="needs the extra [onnx]: make test-optional"
    )
    path = export_model(model, tmp_path / "model.onnx", "onnx", image_size=image_size)
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    assert_detects_the_same(dict(zip(names, session.run(None, inputs))), model, inputs)
    if image_size is None:
        other = prepare(photo(96, 40), model.config)[0]
        assert_detects_the_same(dict(zip(names, session.run(None, other))), model, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantise, tolerances",
    [
        (None, {}),
        # 11 and 8 bits of weights: what the tiny model's boxes of 100 pixels move by.
        ("float16", {"boxes": 0.2, "scores": 1e-3, "masks": 1e-3}),
    ],
)
def test_litert_detects_the_same(model, inputs, quantise, tolerances, tmp_path):
    path = tmp_path / "model.tflite"
    export_model(model, path, "litert", image_size=(64, 128), quantise=quantise)
    run = tf.lite.Interpreter(str(path)).get_signature_runner()
    assert_detects_the_same(run(**inputs), model, inputs, **tolerances)


@pytest.mark.slow
def test_litert_int8_weights_are_smaller(model, inputs, tmp_path):
    sizes = {}
    for quantise in (None, "int8"):
        path = tmp_path / f"{quantise}.tflite"
        export_model(model, path, "litert", image_size=(64, 128), quantise=quantise)
        sizes[quantise] = path.stat().st_size
    found = tf.lite.Interpreter(str(path)).get_signature_runner()(**inputs)
    assert np.isfinite(found["boxes"]).all() and found["num_detections"][0] > 0
    assert sizes["int8"] < 0.7 * sizes[None]  # the graph itself is half of so small a model


@pytest.mark.parametrize(
    "format, options, word",
    [
        ("pickle", {}, "format: got 'pickle'"),
        ("onnx", {"image_size": (65, 128)}, "image_size: got \\(65, 128\\)"),
        ("litert", {"quantise": "int4"}, "quantise: got 'int4'"),
        ("onnx", {"quantise": "int4"}, "quantise: got 'int4'"),
        ("saved_model", {"dtype": "float64"}, "dtype: got 'float64'"),
    ],
)
def test_what_cannot_be_written_is_named(model, format, options, word, tmp_path):
    with pytest.raises(ValueError, match=word):
        model.export(tmp_path / "x.onnx", format=format, **options)
