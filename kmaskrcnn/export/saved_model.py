"""A SavedModel: the signatures, the weights, and the class names and configuration as files beside them."""

import json
import tempfile
from pathlib import Path

import tensorflow as tf

from kmaskrcnn.config import to_dict
from kmaskrcnn.export.folding import fold_batch_norms
from kmaskrcnn.export.signatures import Signatures

CLASS_NAMES, CONFIG = "class_names.txt", "config.json"  # in the folder assets/
MAX_PIXELS = 100_000_000
# Boxes and the outputs stay float32 in each.
DTYPES = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "mixed_bfloat16": "mixed_bfloat16",  # Keras's name for it
}


def export_saved_model(model, path, dtype="float32", max_pixels=MAX_PIXELS):
    """Write a SavedModel that runs wherever TensorFlow does, without Keras and this package.

    Args:
        model: a `MaskRCNN`.
        path: a folder; TensorFlow Serving wants `NAME/VERSION`, such as `nuclei/1`.
        dtype: what the network computes in, `"float32"` or `"bfloat16"`; weights and outputs are float32.
        max_pixels: `predict_jpeg` refuses larger pictures before memory is taken for them.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: on another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype: got {dtype!r}, accepted are {', '.join(DTYPES)}")
    # A server has no operation of ours.
    changes = {"convolution": "direct"}
    if model.config.roi_align in ("auto", "kernel"):
        changes["roi_align"] = "crop_and_resize"
    folded = fold_batch_norms(model, DTYPES[dtype], **changes)
    functions = Signatures(folded, max_pixels, model.config).functions()
    module = tf.Module()
    # The variables alone: Keras's objects would need Keras to load.
    module.weights = [variable.value for variable in folded.variables]
    signatures = {name: f.get_concrete_function() for name, f in functions.items()}
    with tempfile.TemporaryDirectory() as folder:
        module.assets = [tf.saved_model.Asset(str(file)) for file in _write_assets(model, folder)]
        tf.saved_model.save(module, str(path), signatures)
    return Path(path)


def _write_assets(model, folder):
    names, config = Path(folder, CLASS_NAMES), Path(folder, CONFIG)
    names.write_text("".join(f"{name}\n" for name in model.config.class_names), encoding="utf-8")
    config.write_text(json.dumps(to_dict(model.config), indent=2), encoding="utf-8")
    return names, config
