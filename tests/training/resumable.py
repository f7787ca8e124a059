"""A small training that may be killed: `python resumable.py FOLDER`; prints a sum over its final weights, bit by bit.

Run by test_resuming.py in a process of its own.
"""

import hashlib
import sys
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import batch, tiny_model  # noqa: E402

from kmaskrcnn.training.resuming import Resume  # noqa: E402
from kmaskrcnn.training.schedules import WarmupSchedule  # noqa: E402

EPOCHS, STEPS = 3, 4


def dataset(first_epoch):
    """Each epoch another order, from the epoch's number alone."""
    inputs, targets = batch(np.random.default_rng(0), objects=(2, 1, 2, 1))

    def epoch():
        order = np.random.default_rng(next(epochs)).permutation(4)
        for i in order:
            yield tf.nest.map_structure(lambda x: x[i : i + 1], (inputs, targets))

    epochs = iter(range(first_epoch, 99))
    spec = tf.nest.map_structure(
        lambda x: tf.TensorSpec((1, *x.shape[1:]), x.dtype), (inputs, targets)
    )
    batches = tf.data.Dataset.from_generator(epoch, output_signature=spec)
    # Of unknown length, the step in which it runs out would count as one more of the optimizer's.
    return batches.apply(tf.data.experimental.assert_cardinality(STEPS))


class SlowSteps(keras.callbacks.Callback):
    """Says where training is, and leaves time to kill it there."""

    def __init__(self, wait):
        super().__init__()
        self.wait = wait

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, step, logs=None):
        print(f"epoch {self.epoch} step {step}", flush=True)
        if self.epoch == 1 and step == 1:
            time.sleep(self.wait)


def main(folder, wait):
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(3)
    model = tiny_model(roi_align="gather")
    schedule = WarmupSchedule(0.01, EPOCHS * STEPS, 2, "cosine")
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9))
    resume = Resume(folder)
    start = resume.epoch
    resume.restore(model)
    model.fit(
        dataset(start),
        epochs=EPOCHS,
        initial_epoch=start,
        callbacks=[SlowSteps(wait), resume],
        verbose=0,
    )
    resume.discard()
    weights = b"".join(w.tobytes() for w in model.get_weights())
    print("started", start, "iterations", int(model.optimizer.iterations), flush=True)
    print("weights", hashlib.sha256(weights).hexdigest(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
