"""Records -> `tf.data` of `(inputs, targets)` in the contract's tensors.

    plan (which pictures, which flipped)    all randomness, from (seed, epoch)
        -> load: decode, flip, resize into the padded batch, rasterise masks    pure, in parallel
        -> prefetch

Shapes: B pictures, H x W the padded batch, G objects (the most in the batch, at least 1), M mask size.
"""

import itertools

import numpy as np
import tensorflow as tf

from kmaskrcnn.data.batching import plan_batches
from kmaskrcnn.data.faults import DatasetError, Fault
from kmaskrcnn.data.loading import BatchLoader
from kmaskrcnn.geometry.resizing import padded_length, resize_shape

INPUTS = ("images", "image_sizes")


def make_dataset(
    records,
    *,
    batch_size,
    min_size=800,
    max_size=1333,
    training=False,
    flip=None,
    shuffle=None,
    seed=0,
    size_divisor=64,
    with_masks=True,
    mask_size=112,
    repeat=False,
    drop_remainder=False,
):
    """A dataset for `fit`, `evaluate` and `predict` from checked records.

    Every picture comes exactly once an epoch, the last batch may be smaller, and pictures of like
    shape share a batch: read `image_ids` to know which is which. The same arguments give the same
    batches, whatever the number of threads. Iterating the dataset again is the next epoch, with
    another order and other flips.

    Args:
        records: `CocoDataset`.
        batch_size: int.
        min_size: int, length in pixels that the short side is resized to.
        max_size: int, greatest length of the long side.
        training: bool, only sets the defaults of `flip` and `shuffle`.
        flip: float in [0, 1], probability of a horizontal flip; 0.5 in training and 0 otherwise.
        shuffle: bool, another order each epoch; by default as `training`.
        seed: int, with the epoch's number the source of all randomness.
        size_divisor: int, height and width are padded at the bottom and right to a multiple of it
            and to the largest of the batch. 64 serves a pyramid up to P6.
        with_masks: bool, whether targets have `masks`.
        mask_size: int, cells along each side of a mask.
        repeat: bool, go on with the next epoch forever.
        drop_remainder: bool, leave out a batch that is not full and make B static.

    Returns:
        `tf.data.Dataset` of `(inputs, targets)`, dictionaries of

        - inputs `images` `(B, H, W, 3)` uint8 RGB, zeros pad; `image_sizes` `(B, 2)` int32;
        - targets `boxes` `(B, G, 4)` float32 xyxy pixels of the resized picture, zeros pad;
          `labels` `(B, G)` int32, -1 pads; `is_crowd` `(B, G)` bool; `masks` `(B, G, M, M)` uint8
          in the boxes' frames; `image_ids` `(B,)` int64; `original_sizes` `(B, 2)` int32.

        A picture without objects is kept, with padding only. A picture that cannot be read by the
        time it is needed raises `tf.errors.InvalidArgumentError` that names its file and image id.

    Raises:
        DatasetError: if masks are asked for and an object has no segmentation.
        ValueError: if an argument is out of its range or an epoch would be empty.

    Example:
        >>> records = load_coco("instances_train2017.json", "train2017/", on_error="skip")
        >>> model.fit(make_dataset(records, batch_size=2, training=True))

    Reference:
        Mask R-CNN (He et al., 2017), section 3.1, training: short side 800, horizontal flips as in
        Faster R-CNN.
    """
    flip = 0.5 * training if flip is None else float(flip)
    shuffle = training if shuffle is None else shuffle
    _check_arguments(batch_size=batch_size, size_divisor=size_divisor, mask_size=mask_size)
    if not 0 <= flip <= 1:
        raise ValueError(f"flip must be a probability between 0 and 1, got {flip}")
    steps = len(records.images) / batch_size
    steps = int(steps) if drop_remainder else -int(-steps // 1)
    if not steps:
        raise ValueError(
            f"an epoch must have a batch, got {len(records.images)} pictures, "
            f"batch_size={batch_size} and drop_remainder={drop_remainder}"
        )
    if with_masks:
        _check_segmentations(records)
    sizes = [resize_shape(r.height, r.width, min_size, max_size) for r in records.images]
    plan = _Plan(sizes, batch_size, size_divisor, flip, shuffle, seed, repeat, drop_remainder)
    loader = BatchLoader(records.images, sizes, size_divisor, mask_size if with_masks else None)
    specs = _batch_specs(batch_size if drop_remainder else None, mask_size if with_masks else None)
    dataset = tf.data.Dataset.from_generator(plan, output_signature=plan.signature)
    dataset = dataset.apply(
        tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY if repeat else steps)
    )
    dataset = dataset.map(_graph_loader(loader, specs), num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _check_arguments(**sizes):
    for name, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _check_segmentations(records):
    faults = [
        Fault(
            "no segmentation",
            "the object has no mask, but with_masks=True",
            record.path,
            record.image_id,
            instance.annotation_id,
        )
        for record in records.images
        for instance in record.instances
        if instance.segmentation is None
    ]
    if faults:
        raise DatasetError(faults, "Pass with_masks=False to train on boxes alone.")


class _Plan:
    """Yields each batch's picture indices and flips; calling it again is the next epoch."""

    signature = (tf.TensorSpec([None], tf.int64), tf.TensorSpec([None], tf.bool))

    def __init__(self, sizes, batch_size, divisor, flip, shuffle, seed, repeat, drop_remainder):
        self.shapes = [[padded_length(side, divisor) for side in size] for size in sizes]
        self.batch_size, self.drop_remainder = batch_size, drop_remainder
        self.flip, self.shuffle, self.seed, self.repeat = flip, shuffle, seed, repeat
        self.epochs = itertools.count()

    def __call__(self):
        for epoch in self.epochs if self.repeat else [next(self.epochs)]:
            yield from self.epoch(np.random.default_rng([self.seed, epoch]))

    def epoch(self, generator):
        flips = generator.random(len(self.shapes)) < self.flip
        order = generator if self.shuffle else None
        for batch in plan_batches(self.shapes, self.batch_size, order, self.drop_remainder):
            yield batch, flips[batch]


def _batch_specs(batch, mask_size):
    """Name -> `tf.TensorSpec` of a batch, `batch` pictures where their number is fixed."""
    specs = {
        "images": tf.TensorSpec([batch, None, None, 3], tf.uint8),
        "image_sizes": tf.TensorSpec([batch, 2], tf.int32),
        "boxes": tf.TensorSpec([batch, None, 4], tf.float32),
        "labels": tf.TensorSpec([batch, None], tf.int32),
        "is_crowd": tf.TensorSpec([batch, None], tf.bool),
        "image_ids": tf.TensorSpec([batch], tf.int64),
        "original_sizes": tf.TensorSpec([batch, 2], tf.int32),
    }
    if mask_size is not None:
        specs["masks"] = tf.TensorSpec([batch, None, mask_size, mask_size], tf.uint8)
    return specs


def _graph_loader(loader, specs):
    """The loader as a function of tensors whose outputs have static ranks."""

    def in_order(indices, flips):
        batch = loader(indices, flips)
        return [batch[name] for name in specs]

    def load(indices, flips):
        types = [spec.dtype for spec in specs.values()]
        batch = dict(zip(specs, tf.numpy_function(in_order, [indices, flips], types)))
        for name, spec in specs.items():
            batch[name].set_shape(spec.shape)
        return (
            {name: batch[name] for name in INPUTS},
            {name: batch[name] for name in specs if name not in INPUTS},
        )

    return load
