"""Records -> `tf.data` of `(inputs, targets)` in the contract's tensors.

    plan (which pictures, and a draw for each)    all randomness, from (seed, epoch)
        -> load: decode, flip or augment, resize into the padded batch, rasterise masks    pure, in parallel
        -> prefetch

Shapes: B pictures, H x W the padded batch, G objects (the most in the batch, at least 1), M mask size.
"""

import itertools

import numpy as np
import tensorflow as tf

from kmaskrcnn.data.augmentation import Augmentation
from kmaskrcnn.data.batching import plan_batches
from kmaskrcnn.data.faults import DatasetError, Fault
from kmaskrcnn.data.loading import AugmentedLoader, BatchLoader
from kmaskrcnn.geometry.resizing import padded_length, resize_shape

INPUTS = ("images", "image_sizes")
WITHOUT_MASKS = (
    "To train on boxes alone: with_masks=False, and with_mask=False in the model "
    "(recipe: model.with_mask: false)."
)
WITHOUT_KEYPOINTS = (
    "To train without keypoints: with_keypoints=False here and in the model "
    "(recipe: model.with_keypoints: false)."
)


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
    resize_rule="opencv",
    with_masks=True,
    mask_size=112,
    with_keypoints=False,
    keypoint_flip_pairs=None,
    augmentation=None,
    first_epoch=0,
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
        resize_rule: how pictures are resized, see `geometry/resizing.py`; others' weights know others.
        with_masks: bool, whether targets have `masks`.
        mask_size: int, cells along each side of a mask.
        with_keypoints: bool, whether targets have `keypoints`.
        keypoint_flip_pairs: pairs of keypoints that a flip swaps; by default those of the records,
            whose names differ by left and right.
        augmentation: `AugmentationConfig`, what else may happen to the pictures; `None` for nothing.
        first_epoch: int, which epoch the first iteration is; a training that goes on begins there.
        repeat: bool, go on with the next epoch forever.
        drop_remainder: bool, leave out a batch that is not full and make B static.

    Returns:
        `tf.data.Dataset` of `(inputs, targets)`, dictionaries of

        - inputs `images` `(B, H, W, 3)` RGB, uint8 or by `"torchvision"`'s rule float32, zeros pad;
            `image_sizes` `(B, 2)` int32;
        - targets `boxes` `(B, G, 4)` float32 xyxy pixels of the resized picture, zeros pad;
            `labels` `(B, G)` int32, -1 pads; `is_crowd` `(B, G)` bool; `masks` `(B, G, M, M)` uint8
            in the boxes' frames; `keypoints` `(B, G, K, 3)` float32 x, y in pixels of the resized
            picture and visibility, zeros where there is none; `image_ids` `(B,)` int64;
            `original_sizes` `(B, 2)` int32.

        A picture without objects is kept, with padding only. A picture that cannot be read by the
        time it is needed raises `tf.errors.InvalidArgumentError` that names its file and image id.

    Raises:
        DatasetError: if masks are asked for and an object has no segmentation, or keypoints and
            one has another number of them than the categories name.
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
    num_keypoints = _checked_num_keypoints(records) if with_keypoints else 0
    flip_pairs = records.keypoints.flip_pairs if with_keypoints else ()
    flip_pairs = flip_pairs if keypoint_flip_pairs is None else keypoint_flip_pairs
    sides = [(r.height, r.width) for r in records.images]
    sizes = [resize_shape(*side, min_size, max_size, resize_rule) for side in sides]
    mask_size = mask_size if with_masks else None
    loader = BatchLoader(
        records.images,
        sizes,
        size_divisor,
        mask_size,
        num_keypoints,
        tuple(flip_pairs),
        resize_rule,
    )
    if augmentation is not None and not augmentation.is_none:
        options = (min_size, max_size, flip, flip_pairs, resize_rule)
        loader = AugmentedLoader(loader, Augmentation(augmentation, *options))
        flip = None
    plan = _Plan(sizes, batch_size, size_divisor, flip, shuffle, seed, drop_remainder, first_epoch)
    specs = _batch_specs(
        batch_size if drop_remainder else None, mask_size, num_keypoints, loader.dtype
    )
    # Not `from_generator`: it tells the C library to hand freed memory back at once, which slows training on CPUs.
    dataset = tf.data.Dataset.from_tensors(0).repeat(None if repeat else 1)
    dataset = dataset.map(plan.next_epoch).flat_map(plan.batches)
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
        raise DatasetError(faults, WITHOUT_MASKS)


def _checked_num_keypoints(records):
    """K, once every object is known to have that many keypoints, or none."""
    if records.keypoints is None:
        message = "its categories name no keypoints, or different ones"
        raise DatasetError([Fault("no keypoints", message, records.json_path)])
    count = len(records.keypoints.names)
    faults = [
        Fault(
            "bad keypoints",
            f"the object has {len(instance.keypoints)} keypoints, its category {count}",
            record.path,
            record.image_id,
            instance.annotation_id,
        )
        for record in records.images
        for instance in record.instances
        if instance.keypoints is not None and len(instance.keypoints) != count
    ]
    if faults:
        raise DatasetError(faults, WITHOUT_KEYPOINTS)
    return count


class _Plan:
    """Each epoch's batches: picture indices and draws. Whoever asks next gets the next epoch.

    A picture's draw is 1 where it is flipped and 0 elsewhere; the seed of its augmentation where `flip` is `None`.
    """

    def __init__(
        self, sizes, batch_size, divisor, flip, shuffle, seed, drop_remainder, first_epoch=0
    ):
        self.shapes = [[padded_length(side, divisor) for side in size] for size in sizes]
        self.batch_size, self.drop_remainder = batch_size, drop_remainder
        self.flip, self.shuffle, self.seed = flip, shuffle, seed
        self.epochs = itertools.count(first_epoch)

    def next_epoch(self, _):
        """The epoch's pictures in order `(N,)`, their draws `(N,)`, and where each batch ends."""
        drawn = tf.numpy_function(self._draw, [], [tf.int64] * 3)
        return tuple(tf.ensure_shape(x, [None]) for x in drawn)

    def batches(self, order, draws, ends):
        """A dataset of `(indices, draws)`, both `(B,)`."""
        bounds = tf.data.Dataset.from_tensor_slices((tf.concat([[0], ends[:-1]], 0), ends))
        return bounds.map(lambda start, end: (order[start:end], draws[start:end]))

    def _draw(self):
        generator = np.random.default_rng([self.seed, next(self.epochs)])
        count = len(self.shapes)
        if self.flip is None:
            draws = generator.integers(np.iinfo(np.int64).max, size=count)
        else:
            draws = (generator.random(count) < self.flip).astype(np.int64)
        shuffler = generator if self.shuffle else None
        batches = plan_batches(self.shapes, self.batch_size, shuffler, self.drop_remainder)
        order = np.concatenate(batches)
        return order, draws[order], np.cumsum([len(batch) for batch in batches])


def _batch_specs(batch, mask_size, num_keypoints, dtype):
    """Name -> `tf.TensorSpec` of a batch, `batch` pictures where their number is fixed."""
    specs = {
        "images": tf.TensorSpec([batch, None, None, 3], dtype),
        "image_sizes": tf.TensorSpec([batch, 2], tf.int32),
        "boxes": tf.TensorSpec([batch, None, 4], tf.float32),
        "labels": tf.TensorSpec([batch, None], tf.int32),
        "is_crowd": tf.TensorSpec([batch, None], tf.bool),
        "image_ids": tf.TensorSpec([batch], tf.int64),
        "original_sizes": tf.TensorSpec([batch, 2], tf.int32),
    }
    if mask_size is not None:
        specs["masks"] = tf.TensorSpec([batch, None, mask_size, mask_size], tf.uint8)
    if num_keypoints:
        specs["keypoints"] = tf.TensorSpec([batch, None, num_keypoints, 3], tf.float32)
    return specs


def _graph_loader(loader, specs):
    """The loader as a function of tensors whose outputs have static ranks."""

    def in_order(indices, draws):
        batch = loader(indices, draws)
        return [batch[name] for name in specs]

    def load(indices, draws):
        types = [spec.dtype for spec in specs.values()]
        batch = dict(zip(specs, tf.numpy_function(in_order, [indices, draws], types)))
        for name, spec in specs.items():
            batch[name].set_shape(spec.shape)
        return (
            {name: batch[name] for name in INPUTS},
            {name: batch[name] for name in specs if name not in INPUTS},
        )

    return load
