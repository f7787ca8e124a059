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


def count_replicas() -> int:
    """Over how many devices TensorFlow shares a batch; Keras adds their losses up."""
    if not uses_tensorflow():
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
