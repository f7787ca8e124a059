"""Batches of one shape, where every other shape means compiling anew: under JAX, and with XLA."""

import tensorflow as tf


def fix_shapes(dataset, image_shape, objects):
    """Pad every batch to the same height, width and number of objects; padding changes no loss.

    Args:
        dataset: of `make_dataset(..., drop_remainder=True)`: every batch has the same number of pictures.
        image_shape: `(height, width)` in pixels, multiples of 64 that no batch exceeds: of square pictures and
            `max_size=512`, `(512, 512)`.
        objects: G, the most objects that a picture has.

    Returns:
        The dataset with static shapes. A batch that does not fit raises `tf.errors.InvalidArgumentError`, which
        names what is too large.
    """

    def fix(inputs, targets):
        sizes = {"images": image_shape}
        sizes |= {name: (objects,) for name in _PER_OBJECT if name in targets}
        return tuple(
            {
                name: _padded(name, x, sizes[name]) if name in sizes else x
                for name, x in part.items()
            }
            for part in (inputs, targets)
        )

    return dataset.map(fix)


_PER_OBJECT = ("boxes", "labels", "is_crowd", "masks", "keypoints")


def _padded(name, values, sizes):
    """Pad the axes behind the first one to `sizes`."""
    axes = slice(1, 1 + len(sizes))
    missing = tf.constant(sizes) - tf.shape(values)[axes]
    message = f"{name}: a batch is larger than {sizes}, to which it should be padded"
    with tf.control_dependencies([tf.debugging.assert_non_negative(missing, message)]):
        rest = tf.zeros([values.shape.rank - 1 - len(sizes)], tf.int32)
        behind = tf.concat([[0], missing, rest], 0)
    fill = tf.cast(-1 if name == "labels" else 0, values.dtype)
    padded = tf.pad(values, tf.stack([tf.zeros_like(behind), behind], 1), constant_values=fill)
    return tf.ensure_shape(padded, [values.shape[0], *sizes, *values.shape[axes.stop :]])
