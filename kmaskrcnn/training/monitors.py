"""What a person wants to see while training runs: where it breaks, what it finds, what it costs."""

import collections
import logging
import resource
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from kmaskrcnn.data.loading import read_record
from kmaskrcnn.data.pictures import write_picture
from kmaskrcnn.serving.predictor import Predictor
from kmaskrcnn.visualize import draw_detections

LEGIBLE_SIZE = 800  # pixels; smaller pictures are enlarged before names are written on them

logger = logging.getLogger(__name__)


class NanGuard(keras.callbacks.Callback):
    """Stops a training whose loss is no longer a number, and names the batch's image ids.

    Args: none; `watch` the dataset that `fit` takes.

    Raises:
        FloatingPointError: from `fit`, naming epoch, step, what is not finite, and the image ids.

    Example:
        ```python
        guard = NanGuard()
        model.fit(guard.watch(dataset), callbacks=[guard])
        ```
    """

    def __init__(self):
        super().__init__()
        self._ids, self._epoch = collections.deque(), 0

    def watch(self, dataset):
        """The same dataset; the image ids that go through are remembered until their step is over."""

        def remember(ids):
            self._ids.append(ids.tolist())
            return ids

        def look(inputs, targets):
            ids = targets["image_ids"]
            seen = tf.numpy_function(remember, [ids], ids.dtype)
            return inputs, {**targets, "image_ids": tf.ensure_shape(seen, ids.shape)}

        # Not in parallel: the steps must find their ids in the order in which they went through.
        return dataset.map(look).prefetch(1)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        ids = self._ids.popleft() if self._ids else "unknown: the dataset is not watched"
        broken = [name for name, value in (logs or {}).items() if not np.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"epoch {self._epoch + 1}, step {batch + 1}: {', '.join(broken)} not finite; image ids {ids}. "
                "A lower learning rate, a longer warm-up or gradient_clip_norm may help."
            )


class PredictionPictures(keras.callbacks.Callback):
    """Draws what the model finds in the same few pictures after epochs.

    Args:
        records: the dataset they are taken from.
        folder: PNG files go here, `<image id>_<name>.png`, those of the last epoch.
        count: how many pictures.
        every: epochs from one drawing to the next; the last epoch is always drawn.
        log_dir: also into TensorBoard's log there.
    """

    def __init__(self, records, folder, count=4, every=1, log_dir=None):
        super().__init__()
        self.records, self.folder, self.every = records.images[:count], Path(folder), every
        self.writer = tf.summary.create_file_writer(str(log_dir)) if log_dir else None
        self.predictor = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every and epoch + 1 != self.params.get("epochs"):
            return
        self.predictor = self.predictor or Predictor(self.model)  # traced once for all epochs
        drawn = draw_predictions(self.predictor, self.records, self.folder)
        if self.writer:
            with self.writer.as_default():
                for name, picture in drawn.items():
                    tf.summary.image(name, picture[None], step=epoch)


class ResourceUse(keras.callbacks.Callback):
    """Puts what an epoch's steps cost into `logs`: `seconds_per_step`, and `peak_memory_mb` of the process so far."""

    def on_epoch_begin(self, epoch, logs=None):
        self._start, self._steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps = batch + 1
        self._end = time.perf_counter()  # what comes after the last step is evaluation

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and self._steps:
            logs["seconds_per_step"] = (self._end - self._start) / self._steps
            logs["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def draw_predictions(predictor, records, folder) -> dict:
    """Draw what is found in pictures, as PNG files in `folder`.

    Args:
        predictor: a `Predictor`.
        records: sequence of `ImageRecord`.
        folder: made if need be.

    Returns:
        `{file name: (H, W, 3) uint8}`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for record in records:
        picture = read_record(record)
        scale = max(1, LEGIBLE_SIZE // max(picture.shape))
        name = f"{record.image_id}_{Path(record.path).stem}.png"
        drawn[name] = draw_detections(picture, predictor(picture), scale=scale)
        write_picture(folder / name, drawn[name])
    return drawn
