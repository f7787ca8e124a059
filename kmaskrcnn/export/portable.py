"""ONNX and LiteRT files: the network alone, through operations that other runtimes have.

These formats hold no JPEG decoder and no pictures of changing size, so the caller resizes and pads
(`serving.detectors.prepare`) and brings boxes back to the picture (`Detections.from_outputs`), as it does for
`MaskRCNN.predict`, whose inputs and outputs these files have.
"""

import json
from pathlib import Path

import tensorflow as tf

from kmaskrcnn.config import to_dict
from kmaskrcnn.export.folding import fold_batch_norms
from kmaskrcnn.export.onnx_weights import quantise_weights
from kmaskrcnn.geometry.resizing import padded_length

CONFIG_KEY = "kmaskrcnn.config"  # in an ONNX file's metadata: the configuration as json
QUANTISATIONS = (None, "float16", "int8")


def export_onnx(model, path, image_size=None, batch_size=1, quantise=None):
    """Write an ONNX file with the inputs `images` and `image_sizes`.

    Args:
        model: a `MaskRCNN`.
        path: of the file, `.onnx`.
        image_size: `(height, width)` of the padded network image; None to leave it free.
        batch_size: pictures at once; None to leave it free.
        quantise: of the weights: `"float16"`, `"int8"` or None for float32; it is computed in float32.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ImportError: tf2onnx is not installed.
        ValueError: an unknown quantisation, or `image_size` is not a multiple of the config's `size_divisor`.
    """
    _check_quantisation(quantise)
    graph, inputs = _portable(model, image_size, batch_size)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    try:
        graph.export(str(path), format="onnx", verbose=False, input_signature=[inputs])
        _finish_onnx(path, model.config, quantise)
    except ImportError as error:
        raise ImportError(
            f"{error}; `pip install '.[onnx]'` in kmaskrcnn's folder brings it"
        ) from error
    return Path(path)


def export_litert(model, path, image_size=None, quantise=None):
    """Write a LiteRT (TensorFlow Lite) file of batch size 1 with the inputs `images` and `image_sizes`.

    Args:
        model: a `MaskRCNN`.
        path: of the file, `.tflite`.
        image_size: `(height, width)` of the padded network image; None for a square that holds every
            picture of the model.
        quantise: of the weights: `"float16"`, `"int8"` (dynamic range) or None for float32.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: an unknown quantisation, or `image_size` is not a multiple of the config's `size_divisor`.
    """
    _check_quantisation(quantise)
    options = {}
    if quantise is not None:
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantise == "float16":
        options["target_spec"] = {"supported_types": [tf.float16]}
    # With a free size the converter leaves strided slices that plain LiteRT does not have.
    side = padded_length(model.config.max_size, model.config.size_divisor)
    graph, inputs = _portable(model, image_size or (side, side), 1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    graph.export(str(path), format="litert", verbose=False, input_signature=[inputs], **options)
    return Path(path)


def _check_quantisation(quantise):
    if quantise not in QUANTISATIONS:
        raise ValueError(f"quantise: got {quantise!r}, accepted are {QUANTISATIONS}")


def _finish_onnx(path, config, quantise):
    """Store the weights as wanted, and the configuration, by which `Predictor` knows how to prepare pictures."""
    import onnx

    document = onnx.load(str(path))
    if quantise is not None:
        quantise_weights(document, quantise)
    onnx.helper.set_model_props(document, {CONFIG_KEY: json.dumps(to_dict(config))})
    onnx.save(document, str(path))


def _portable(model, image_size, batch_size):
    """The network of portable operations, and the specification of its inputs."""
    divisor = model.config.size_divisor
    if image_size is not None and any(side < 1 or side % divisor for side in image_size):
        raise ValueError(f"image_size: got {image_size}, accepted are multiples of {divisor}")
    height, width = image_size or (None, None)
    shape = (batch_size, height, width, model.config.in_channels)
    inputs = {
        "images": tf.TensorSpec(shape, tf.float32, name="images"),
        "image_sizes": tf.TensorSpec((batch_size, 2), tf.int32, name="image_sizes"),
    }
    return fold_batch_norms(model, portable=True).predict_graph, inputs
