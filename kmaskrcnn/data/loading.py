"""One batch of pictures and objects from disk, in NumPy.

Shapes: B pictures, H x W the padded batch, G objects (the most in the batch, at least 1), M mask size.
"""

import logging

import cv2
import numpy as np

from kmaskrcnn.data.faults import DatasetError, Fault, Rejected
from kmaskrcnn.data.pictures import read_picture
from kmaskrcnn.geometry.keypoints import flip_keypoints
from kmaskrcnn.geometry.resizing import padded_length, resize_pixels
from kmaskrcnn.geometry.segmentations import rasterise_in_box

logger = logging.getLogger(__name__)


class BatchLoader:
    """Loads the pictures of one batch and their objects; the same arguments give the same arrays.

    Args:
        images: sequence of `ImageRecord`.
        sizes: `(height, width)` of each once resized.
        divisor: int, the batch's height and width are padded to a multiple of it.
        mask_size: int, cells along each side of a mask, or `None` for no masks.
        num_keypoints: int, of each object, 0 for no keypoints.
        flip_pairs: pairs of keypoints that a mirror swaps.
        resize_rule: see `geometry/resizing.py`.

    Call arguments:
        indices: `(B,)` ints into `images`.
        flips: `(B,)`, 1 where a picture is mirrored left to right, else 0.

    Returns:
        Dictionary of NumPy arrays, inputs and targets together, as `make_dataset` documents them.

    Raises:
        DatasetError: if a picture cannot be read; it names the file and the image id.
    """

    def __init__(
        self,
        images,
        sizes,
        divisor,
        mask_size,
        num_keypoints=0,
        flip_pairs=(),
        resize_rule="opencv",
    ):
        self.images, self.sizes, self.divisor, self.mask_size = images, sizes, divisor, mask_size
        self.resize_rule = resize_rule
        self.dtype = np.float32 if resize_rule == "torchvision" else np.uint8
        self.num_keypoints, self.flip_pairs = num_keypoints, flip_pairs
        self.warned = False

    def __call__(self, indices, flips):
        records = [self.images[i] for i in indices]
        sizes = [self.sizes[i] for i in indices]
        return {
            "images": self.load_pictures(records, sizes, flips),
            "image_sizes": np.array(sizes, np.int32),
            **self.load_objects(records, sizes, flips),
            "image_ids": np.array([record.image_id for record in records], np.int64),
            "original_sizes": np.array([(r.height, r.width) for r in records], np.int32),
        }

    def load_pictures(self, records, sizes, flips):
        height, width = (padded_length(side, self.divisor) for side in np.max(sizes, axis=0))
        images = np.zeros((len(records), height, width, 3), self.dtype)
        for image, record, (new_height, new_width), flipped in zip(images, records, sizes, flips):
            picture = read_record(record)
            if flipped:
                picture = cv2.flip(picture, 1)
            inner = image[:new_height, :new_width]
            if self.resize_rule == "opencv":
                # Writes straight into the batch: no copy of the resized picture is made.
                cv2.resize(picture, (new_width, new_height), dst=inner)
            else:
                inner[:] = resize_pixels(picture, (new_height, new_width), self.resize_rule)
        return images

    def load_objects(self, records, sizes, flips):
        most = max([1, *(len(record.instances) for record in records)])
        boxes = np.zeros((len(records), most, 4), np.float32)
        labels = np.full((len(records), most), -1, np.int32)
        is_crowd = np.zeros((len(records), most), bool)
        for b, (record, size, flipped) in enumerate(zip(records, sizes, flips)):
            count = len(record.instances)
            boxes[b, :count] = _resized_boxes(record, size, flipped)
            labels[b, :count] = [instance.label for instance in record.instances]
            is_crowd[b, :count] = [instance.is_crowd for instance in record.instances]
        objects = {"boxes": boxes, "labels": labels, "is_crowd": is_crowd}
        if self.mask_size is not None:
            objects["masks"] = self.load_masks(records, flips, most)
        if self.num_keypoints:
            objects["keypoints"] = self.load_keypoints(records, sizes, flips, most)
        return objects

    def load_masks(self, records, flips, most):
        # The box's frame moves and grows with the box, so resizing leaves a mask as it is.
        size = self.mask_size
        masks = np.zeros((len(records), most, size, size), np.uint8)
        for b, (record, flipped) in enumerate(zip(records, flips)):
            for g, instance in enumerate(record.instances):
                mask = rasterise_in_box(instance.segmentation, instance.box, size)
                masks[b, g] = mask[:, ::-1] if flipped else mask
        return masks

    def load_keypoints(self, records, sizes, flips, most):
        keypoints = np.zeros((len(records), most, self.num_keypoints, 3), np.float32)
        for b, (record, (height, width), flipped) in enumerate(zip(records, sizes, flips)):
            scale = width / record.width, height / record.height
            for g, instance in enumerate(record.instances):
                if instance.keypoints is not None:
                    keypoints[b, g] = _resized_keypoints(instance.keypoints, scale)
            if flipped:
                keypoints[b] = flip_keypoints(keypoints[b], width, self.flip_pairs)
        if not self.warned and not keypoints[..., 2].any():
            self.warned = True
            ids = [record.image_id for record in records]
            logger.warning("no keypoint is visible in the batch of pictures %s: its loss is 0", ids)
        return keypoints


class AugmentedLoader:
    """A `BatchLoader` whose pictures and objects are augmented first.

    Args:
        loader: `BatchLoader`, for the shapes and names of a batch.
        augmentation: `Augmentation`; it gives pictures of the network's size.

    Call arguments:
        indices: `(B,)` ints into the loader's images.
        seeds: `(B,)` ints, one for all that is drawn for a picture.

    Returns:
        As `BatchLoader`.
    """

    def __init__(self, loader, augmentation):
        self.loader, self.augmentation, self.dtype = loader, augmentation, loader.dtype

    def __call__(self, indices, seeds):
        augmented = [self._augment(*drawn) for drawn in zip(indices, seeds)]
        records = [record for _, record in augmented]
        sizes = [(record.height, record.width) for record in records]
        originals = [self.loader.images[i] for i in indices]
        height, width = (padded_length(s, self.loader.divisor) for s in np.max(sizes, axis=0))
        images = np.zeros((len(records), height, width, 3), self.dtype)
        for image, (pixels, record) in zip(images, augmented):
            image[: record.height, : record.width] = pixels
        return {
            "images": images,
            "image_sizes": np.array(sizes, np.int32),
            **self.loader.load_objects(records, sizes, np.zeros(len(records), bool)),
            "image_ids": np.array([record.image_id for record in records], np.int64),
            "original_sizes": np.array([(r.height, r.width) for r in originals], np.int32),
        }

    def _augment(self, index, seed):
        generator = np.random.default_rng(seed)
        images = self.loader.images

        def other():
            record = images[generator.integers(len(images))]
            return read_record(record), record

        record = images[index]
        return self.augmentation(read_record(record), record, generator, other)


def read_record(record):
    """The pixels of an `ImageRecord`'s picture.

    Returns:
        `(height, width, 3)` uint8 RGB, of the record's size.

    Raises:
        DatasetError: if it cannot be read; it names the file and the image id.
    """
    try:
        return read_picture(record.path, (record.height, record.width))
    except Rejected as rejected:
        fault = Fault(rejected.kind, str(rejected), record.path, record.image_id)
        raise DatasetError([fault]) from rejected


def _resized_keypoints(keypoints, scale):
    points = np.array(keypoints, np.float64)
    # COCO's keypoints are numbers of pixels: a pixel's centre lies half a pixel on.
    points[:, :2] = (points[:, :2] + 0.5) * scale
    return np.where(points[:, 2:] > 0, points, 0)


def _resized_boxes(record, size, flipped):
    scale = np.array([size[1] / record.width, size[0] / record.height] * 2)
    boxes = np.array([instance.box for instance in record.instances]).reshape(-1, 4) * scale
    if flipped:
        boxes[:, [0, 2]] = size[1] - boxes[:, [2, 0]]
    return boxes
