"""The first step of the model: pixels as users hold them become numbers as the backbone knows them."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class ImageNormalizer(keras.layers.Layer):
    """Subtracts the mean and divides by the spread of the pictures that the backbone was trained with.

    What lies beyond a picture within its padded image becomes 0 (the mean's colour), or black, and the images are
    cropped or padded to the least canvas that holds every picture of the batch: neither the value nor the amount of a
    user's padding matters.

    Args:
        mean, std: one number for each channel, of pixels 0-255.
        size_divisor: the canvas's height and width are the least multiples of it; None keeps the images' size, as
            fixed shapes (XLA, ONNX) need it.
        padding: `"mean"` or `"black"`: what lies beyond a picture.

    Call arguments:
        images: `(B, H, W, C)` uint8 or float, 0-255.
        image_sizes: `(B, 2)` height and width of each picture.

    Returns:
        `(B, H', W', C)` in the compute dtype.
    """

    def __init__(self, mean, std, size_divisor=None, padding="mean", **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.size_divisor = size_divisor
        self.padding = padding
        if size_divisor:
            self.supports_jit = False  # the canvas's size is known only when the graph runs

    def call(self, images, image_sizes):
        if self.size_divisor:
            images = self._fit_canvas(images, image_sizes)
        mean = ops.convert_to_tensor(self.mean, "float32")
        scale = 1.0 / ops.convert_to_tensor(self.std, "float32")
        images = (ops.cast(images, "float32") - mean) * scale
        in_rows = ops.arange(ops.shape(images)[1], dtype="int32") < image_sizes[:, :1]  # (B, H)
        in_columns = ops.arange(ops.shape(images)[2], dtype="int32") < image_sizes[:, 1:]  # (B, W)
        in_picture = in_rows[:, :, None, None] & in_columns[:, None, :, None]
        beyond = -mean * scale if self.padding == "black" else 0.0
        return ops.cast(ops.where(in_picture, images, beyond), self.compute_dtype)

    def _fit_canvas(self, images, image_sizes):
        height, width = self._canvas(image_sizes[:, 0]), self._canvas(image_sizes[:, 1])
        images = images[:, :height, :width]
        rows, columns = ops.shape(images)[1:3]
        return ops.pad(images, [[0, 0], [0, height - rows], [0, width - columns], [0, 0]])

    def _canvas(self, lengths):
        longest = ops.maximum(ops.max(lengths), 1)  # at least 1, for a batch of no pictures
        return -(-longest // self.size_divisor) * self.size_divisor

    def get_config(self):
        names = ("mean", "std", "size_divisor", "padding")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
