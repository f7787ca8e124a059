"""Variants with layers of their own, exported: what the files find against the model."""

import numpy as np
import pytest
import tensorflow as tf
from pictures import photo
from test_folding import shaken
from test_portable import assert_detects_the_same
from tiny import tiny_model

from kmaskrcnn.export.exporter import export_model
from kmaskrcnn.serving.detectors import prepare
from kmaskrcnn.serving.predictor import Predictor

VARIANTS = {
    "cascade": {"cascade_thresholds": (0.5, 0.6, 0.7)},
    "keypoints": {"with_keypoints": True, "keypoint_names": ("left", "right")},
    "torchvision_keypoints": {
        "with_keypoints": True,
        "keypoint_names": ("left", "right"),
        "keypoint_rule": "torchvision",
    },
    "matterport": {
        "roi_pooling": "crop",
        "box_rule": "pixels",
        "rpn_joint_levels": True,
        "rpn_channels": 24,
        "best_class_only": True,
        "padding": "black",
        "paste_rule": "matterport",
    },
    "point_rend": {"mask_head": "point_rend", "mask_pool_size": 4, "mask_head_units": 16},
}
SIZE = (64, 128)


@pytest.fixture(scope="module", params=VARIANTS)
def model(request):
    return shaken(tiny_model(**VARIANTS[request.param]))


@pytest.fixture(scope="module")
def inputs(model):
    return prepare(photo(60, 90), model.config)[0]


@pytest.mark.slow
def test_saved_model(model, tmp_path):
    wanted = Predictor(model)(photo(60, 90))
    found = Predictor(export_model(model, tmp_path / "1"))(photo(60, 90))
    assert len(wanted) > 0
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=0.01, rtol=0)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.masks, wanted.masks, atol=1e-4, rtol=0)
    if wanted.keypoints is not None:
        np.testing.assert_allclose(found.keypoints, wanted.keypoints, atol=0.01, rtol=0)


@pytest.mark.slow
def test_onnx(model, inputs, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs the extra [onnx]: make test-optional")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="needs the extra [onnx]: make test-optional"
    )
    path = export_model(model, tmp_path / "model.onnx", "onnx", image_size=SIZE)
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    assert_detects_the_same(dict(zip(names, session.run(None, inputs))), model, inputs)


@pytest.mark.slow
def test_litert(model, inputs, tmp_path):
    path = export_model(model, tmp_path / "model.tflite", "litert", image_size=SIZE)
    run = tf.lite.Interpreter(str(path)).get_signature_runner()
    assert_detects_the_same(run(**inputs), model, inputs)
