"""Pictures in, objects out: whatever a user holds, resized, padded, detected and put back into its own pixels."""

from pathlib import Path

import cv2
import numpy as np

from kmaskrcnn.data.pictures import read_picture
from kmaskrcnn.detections import Detections
from kmaskrcnn.geometry.resizing import padded_length, resize_shape

SIZE_DIVISOR = 64  # cells of P6


class Predictor:
    """Finds the objects in one picture after another.

    Args:
        model: a `MaskRCNN`.

    Example:
        ```python
        predict = Predictor(keras.saving.load_model("model.keras"))
        detections = predict("street.jpg")
        print(detections.names, detections.scores)
        ```
    """

    def __init__(self, model):
        self.model = model

    def __call__(self, picture) -> Detections:
        """Detect the objects of one picture.

        Args:
            picture: path of a picture file, or its pixels `(H, W, C)` uint8 or float, RGB 0-255.

        Returns:
            `Detections` in the picture's own pixels.

        Raises:
            ValueError: if the file cannot be read, or the array is no picture; it says why.
        """
        pixels = self._pixels(picture)
        inputs, size = prepare(pixels, self.model.config.min_size, self.model.config.max_size)
        outputs = {name: np.asarray(x) for name, x in self.model.predict_on_batch(inputs).items()}
        names = self.model.config.class_names
        return Detections.from_outputs(outputs, 0, size, pixels.shape[:2], names)

    def _pixels(self, picture):
        if isinstance(picture, (str, Path)):
            try:
                return read_picture(picture)
            except ValueError as error:
                raise ValueError(f"{picture}: {error}") from error
        channels = self.model.config.in_channels
        picture = np.asarray(picture)
        if picture.ndim != 3 or picture.shape[2] != channels or 0 in picture.shape:
            raise ValueError(f"picture: got shape {picture.shape}, accepted is (H, W, {channels})")
        return picture


def prepare(pixels, min_size, max_size):
    """Resize and pad one picture as the training data was.

    Args:
        pixels: `(H, W, C)`.
        min_size, max_size: lengths of the short and long side, see `resize_shape`.

    Returns:
        The model's inputs, a batch of one, and the `(height, width)` of the picture within it.
    """
    height, width = resize_shape(*pixels.shape[:2], min_size, max_size)
    resized = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    resized = resized.reshape(height, width, -1)  # OpenCV drops a single channel
    rows, columns = padded_length(height, SIZE_DIVISOR), padded_length(width, SIZE_DIVISOR)
    padded = np.pad(resized, [(0, rows - height), (0, columns - width), (0, 0)])
    sizes = np.array([[height, width]], "int32")
    return {"images": padded[None], "image_sizes": sizes}, (height, width)
