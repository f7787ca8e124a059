"""What training tells while it runs: the images of a broken step, pictures, seconds and memory."""

import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.records import ImageRecord
from kmaskrcnn.training.monitors import NanGuard, ResourceUse, draw_predictions


class Line(keras.Model):
    """Its loss is the mean of the inputs times a weight."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs["images"])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean(y_pred)


def dataset(values):
    images = np.array(values, np.float32)[:, None]
    inputs = {"images": images}
    targets = {"image_ids": 100 + np.arange(len(values), dtype=np.int64)}
    return tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(2)


@pytest.fixture
def model():
    model = Line()
    model.compile(keras.optimizers.SGD(1e-6))
    return model


def test_the_guard_names_step_and_image_ids(model):
    guard = NanGuard()
    # the sixth value breaks the third step; of the second epoch, for the first one is sound
    sound, broken = dataset([1.0] * 8), dataset([1.0] * 5 + [np.nan] + [1.0] * 2)
    model.fit(guard.watch(sound), callbacks=[guard], verbose=0)
    with pytest.raises(
        FloatingPointError, match=r"epoch 1, step 3: loss not finite; image ids \[104, 105\]"
    ):
        model.fit(guard.watch(broken), callbacks=[guard], verbose=0)


def test_the_guard_changes_no_batch():
    guard = NanGuard()
    for given, watched in zip(dataset([1.0, 2.0, 3.0]), guard.watch(dataset([1.0, 2.0, 3.0]))):
        tf.nest.map_structure(np.testing.assert_array_equal, given, watched)


def test_an_infinite_loss_breaks_too(model):
    guard = NanGuard()
    with pytest.raises(FloatingPointError, match=r"image ids \[100, 101\]"):
        model.fit(guard.watch(dataset([np.inf, 1.0])), callbacks=[guard], verbose=0)


def test_steps_are_timed_without_what_comes_after(model):
    wait = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: time.sleep(0.02))
    history = model.fit(dataset([1.0] * 8), callbacks=[wait, ResourceUse()], verbose=0).history
    assert 0.02 <= history["seconds_per_step"][0] < 5 and history["peak_memory_mb"][0] > 50


def test_a_picture_that_is_gone_is_named(tmp_path):
    gone = ImageRecord(7, str(tmp_path / "gone.png"), 20, 30)
    with pytest.raises(DatasetError, match="cannot be read.*gone.png, image id 7"):
        draw_predictions(None, [gone], tmp_path / "drawn")
