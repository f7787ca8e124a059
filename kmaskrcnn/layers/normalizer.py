"""The first step of the model: pixels as users hold them become numbers as the backbone knows them."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class ImageNormalizer(keras.layers.Layer):
    """Subtracts the mean and divides by the spread of the pictures that the backbone was trained with.

    What lies beyond a picture within its padded image becomes 0 whatever it was, so that the value of the padding does
    not matter.

    Args:
        mean, std: one number for each channel, of pixels 0-255.

    Call arguments:
        images: `(B, H, W, C)` uint8 or float, 0-255.
        image_sizes: `(B, 2)` height and width of each picture.

    Returns:
        `(B, H, W, C)` in the compute dtype.
    """

    def __init__(self, mean, std, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.mean = tuple(mean)
        self.std = tuple(std)

    def call(self, images, image_sizes):
        mean = ops.convert_to_tensor(self.mean, "float32")
        scale = 1.0 / ops.convert_to_tensor(self.std, "float32")
        images = (ops.cast(images, "float32") - mean) * scale
        in_rows = ops.arange(ops.shape(images)[1], dtype="int32") < image_sizes[:, :1]  # (B, H)
        in_columns = ops.arange(ops.shape(images)[2], dtype="int32") < image_sizes[:, 1:]  # (B, W)
        in_picture = in_rows[:, :, None, None] & in_columns[:, None, :, None]
        return ops.cast(ops.where(in_picture, images, 0.0), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "mean": self.mean, "std": self.std}
