"""One function for all formats: what `MaskRCNN.export` and `kmaskrcnn export` call."""

from kmaskrcnn.export.portable import export_litert, export_onnx
from kmaskrcnn.export.saved_model import export_saved_model

FORMATS = {
    "saved_model": export_saved_model,
    "tf_saved_model": export_saved_model,  # Keras's name for it
    "onnx": export_onnx,
    "litert": export_litert,
}


def export_model(model, path, format="saved_model", **options):
    """Write a model for a runtime that knows neither Keras nor this package.

    Args:
        model: a `MaskRCNN`.
        path: a folder for a SavedModel, else a file.
        format: `"saved_model"`, `"onnx"` or `"litert"`.
        **options: of `export_saved_model`, `export_onnx` or `export_litert`.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: on an unknown format.

    Example:
        ```python
        export_model(model, "served/nuclei/1")
        export_model(model, "nuclei.onnx", "onnx", image_size=(832, 1344))
        ```
    """
    if format not in FORMATS:
        raise ValueError(f"format: got {format!r}, accepted are {', '.join(FORMATS)}")
    return FORMATS[format](model, path, **options)
