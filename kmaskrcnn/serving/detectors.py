"""Ways to run a model on pixels: the Keras model itself and a SavedModel; for ONNX see onnx_detector.py.

A detector has a `config` and the method `detect`, from a list of pictures `(H, W, C)` of any sizes to their
`Detections` in the same order. Pictures run together only where they are padded to one size: padded further, a
picture's border would look different to the network than it does alone.
"""

import numpy as np
import tensorflow as tf

from kmaskrcnn.config import MaskRCNNConfig, from_dict
from kmaskrcnn.detections import Detections
from kmaskrcnn.geometry.resizing import padded_length, resize_pixels, resize_shape
from kmaskrcnn.serving.served_model import ServedModel


class KerasDetector:
    """Runs a `MaskRCNN`; one trace serves all sizes.

    Args:
        model: a `MaskRCNN`.
    """

    def __init__(self, model):
        self.model, self.config = model, model.config
        self.function = as_function(model.predict_graph)

    def detect(self, pictures):
        prepared = [prepare(picture, self.config) for picture in pictures]
        found = [None] * len(pictures)
        for places in group([inputs["images"].shape for inputs, _ in prepared]):
            batch = [prepared[place][0] for place in places]
            outputs = self.function(
                {name: tf.constant(np.concatenate([x[name] for x in batch])) for name in batch[0]}
            )
            outputs = {name: x.numpy() for name, x in outputs.items()}
            for row, place in enumerate(places):
                size, original = prepared[place][1], pictures[place].shape[:2]
                found[place] = as_detections(outputs, row, size, original, self.config)
        return found


class SavedModelDetector:
    """Runs the signature `serving_default` of a folder that `export_saved_model` wrote.

    Args:
        path: the folder, or one with numbered versions of it, see `served_model.find_version`.

    Raises:
        ValueError: the folder is no SavedModel of this package.
    """

    def __init__(self, path):
        self.model = ServedModel(path)
        self.config = from_dict(MaskRCNNConfig, self.model.config)

    def detect(self, pictures):
        found = [None] * len(pictures)
        for places in group([picture.shape for picture in pictures]):
            images = np.stack([pictures[place] for place in places])
            if images.dtype != np.uint8:
                raise ValueError(f"picture: a SavedModel takes uint8 pixels, got {images.dtype}")
            outputs = self.model.run("serving_default", {"images": images})
            for row, place in enumerate(places):
                size = images.shape[1:3]  # boxes are in the picture's pixels already
                found[place] = as_detections(outputs, row, size, size, self.config)
        return found


def as_function(graph):
    """A `keras.Model` of named inputs as a TensorFlow function of a dict of arrays; one trace serves all sizes."""
    signature = {name: tf.TensorSpec(x.shape, x.dtype) for name, x in graph.input.items()}
    return tf.function(lambda inputs: graph(inputs, training=False), input_signature=[signature])


def prepare(pixels, config, canvas=None):
    """Resize and pad one picture as the training data was.

    Args:
        pixels: `(H, W, C)`.
        config: a `MaskRCNNConfig`, for `min_size`, `max_size`, `resize_rule` and `size_divisor`.
        canvas: `(height, width)` of a network image of fixed size: the picture is shrunk until it fits, and padded.

    Returns:
        The model's inputs, a batch of one (`images` float32), and the `(height, width)` of the picture within it.
    """
    size = resize_shape(*pixels.shape[:2], config.min_size, config.max_size, config.resize_rule)
    if canvas is not None:
        fit = min(1.0, *(most / side for most, side in zip(canvas, size)))
        size = tuple(max(1, int(side * fit)) for side in size)
    (height, width), resized = size, resize_pixels(pixels, size, config.resize_rule)
    rows, columns = canvas or (padded_length(side, config.size_divisor) for side in size)
    padded = np.zeros((1, rows, columns, pixels.shape[2]), np.float32)
    padded[0, :height, :width] = resized
    return {"images": padded, "image_sizes": np.array([size], np.int32)}, size


def as_detections(outputs, row, size, original_size, config):
    """One picture of a network's outputs as `Detections`.

    Args:
        outputs: as `Detections.from_outputs` takes them.
        row: the picture's place in the batch.
        size: `(height, width)` of the picture within the network image.
        original_size: `(height, width)` before it was resized.
        config: the model's `MaskRCNNConfig`, which says what the numbers mean.
    """
    return Detections.from_outputs(
        outputs,
        row,
        size,
        original_size,
        config.class_names,
        config.paste_rule,
        config.keypoint_skeleton,
        config.keypoint_rule,
    )


def group(keys):
    """Places of equal keys, as lists in the order of their first: `group("aba")` is `[[0, 2], [1]]`."""
    groups = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return list(groups.values())
