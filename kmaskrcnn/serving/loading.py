"""Whatever holds a trained model, found by its path or name and made ready to run."""

from pathlib import Path

import keras

from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.serving.detectors import KerasDetector, SavedModelDetector
from kmaskrcnn.serving.onnx_detector import OnnxDetector
from kmaskrcnn.weights.presets import CONFIG_FILE, PRESETS


def load_model(path) -> MaskRCNN:
    """A model that `MaskRCNN.save` or `MaskRCNN.save_preset` wrote, or a preset.

    Args:
        path: of a `.keras` file, of the folder or file of a preset, or the name of one.

    Raises:
        ValueError: there is nothing of this name, or it holds another model; the error names it.
    """
    if str(path) in PRESETS:
        return MaskRCNN.from_preset(str(path))
    if not Path(path).exists():
        raise ValueError(
            f"{path}: no such file or folder, and no preset; these are {', '.join(PRESETS)}"
        )
    if is_exported(path):
        raise ValueError(
            f"{path}: a folder without {CONFIG_FILE}; if it is an exported model, give its .keras file"
        )
    if Path(path).suffix != ".keras":
        return MaskRCNN.from_preset(path)
    model = keras.saving.load_model(path, compile=False)
    if not isinstance(model, MaskRCNN):
        raise ValueError(f"{path}: a {type(model).__name__}, not a MaskRCNN")
    return model


def is_exported(path) -> bool:
    """Whether a path is a folder, but none that `MaskRCNN.save_preset` wrote."""
    return Path(path).is_dir() and not (Path(path) / CONFIG_FILE).is_file()


def open_detector(model):
    """What runs a model on pixels, see detectors.py.

    Args:
        model: a `MaskRCNN`, the folder of a SavedModel, an `.onnx` file, or what `load_model` takes.

    Raises:
        ValueError: as `load_model`, or the folder or file is none of this package.
    """
    if not isinstance(model, (str, Path)):
        return KerasDetector(model)
    if Path(model).suffix == ".onnx":
        return OnnxDetector(model)
    if is_exported(model):
        return SavedModelDetector(model)
    return KerasDetector(load_model(model))
