"""An ONNX file that `export_onnx` wrote, run by ONNX Runtime: neither Keras nor TensorFlow computes anything."""

import json
from pathlib import Path

from kmaskrcnn.config import MaskRCNNConfig, from_dict
from kmaskrcnn.export.portable import CONFIG_KEY
from kmaskrcnn.serving.detectors import as_detections, prepare


class OnnxDetector:
    """Runs the network of an ONNX file, one picture after another.

    A picture larger than a file of fixed size is shrunk until it fits, a smaller one is padded to that size.

    Args:
        path: of the file.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: there is no such file, or it is none of this package.
    """

    def __init__(self, path):
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"{error}; `pip install '.[onnx]'` in kmaskrcnn's folder brings it"
            ) from error
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file or folder")
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # ONNX Runtime has a dozen of them, without a common class
            raise ValueError(f"{path}: no model for ONNX Runtime: {error}") from error
        described = self.session.get_modelmeta().custom_metadata_map
        if CONFIG_KEY not in described:
            raise ValueError(f"{path}: not exported by kmaskrcnn, it lacks the configuration")
        self.config = from_dict(MaskRCNNConfig, json.loads(described[CONFIG_KEY]))
        (images,) = [x for x in self.session.get_inputs() if x.name == "images"]
        sides = images.shape[1:3]
        self.canvas = tuple(sides) if all(isinstance(side, int) for side in sides) else None
        self.names = [output.name for output in self.session.get_outputs()]

    def detect(self, pictures):
        return [self._detect(picture) for picture in pictures]

    def _detect(self, picture):
        inputs, size = prepare(picture, self.config, self.canvas)
        outputs = dict(zip(self.names, self.session.run(None, inputs)))
        return as_detections(outputs, 0, size, picture.shape[:2], self.config)
