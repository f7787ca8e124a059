"""Whose operations may be used: those of `keras.ops`, which every backend has, or TensorFlow's, which are faster.

TensorFlow             its kernels, and shapes that depend on values: a step computes the regions that exist
JAX, PyTorch           `keras.ops` alone, with fixed shapes: empty places of padded lists travel along
TensorFlow, portable   as JAX, for XLA, ONNX and LiteRT
"""

import keras


def uses_tensorflow(portable: bool = False) -> bool:
    """Whether TensorFlow's own operations may be used.

    Args:
        portable: the user asks for `keras.ops` alone.
    """
    return keras.backend.backend() == "tensorflow" and not portable
