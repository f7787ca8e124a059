"""COCO AP in the logs of a fit, where other callbacks can watch it."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.training.callbacks import CocoEvaluation

BOX = (4.0, 4.0, 44.0, 44.0)  # 40 x 40: a medium object
INSTANCE = SimpleNamespace(
    annotation_id=0,
    box=BOX,
    label=0,
    is_crowd=False,
    segmentation=[[4, 4, 44, 4, 44, 44, 4, 44]],
    area=1600.0,
)
RECORDS = SimpleNamespace(
    images=[SimpleNamespace(image_id=7, height=64, width=64, instances=(INSTANCE,))],
    class_names=("square",),
)


class Shrinking(keras.Model):
    """Trains nothing; each epoch its one detection is a little smaller."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), initializer="ones", trainable=False)
        self.bias = self.add_weight(shape=())

    def call(self, inputs):
        batch = tf.shape(inputs["images"])[0]
        corner = tf.constant(BOX[:2])
        box = tf.concat([corner, corner + (tf.constant(BOX[2:]) - corner) * self.scale], 0)
        return {
            "boxes": tf.tile(box[None, None], [batch, 1, 1]) + 0 * self.bias,
            "labels": tf.zeros([batch, 1], tf.int32),
            "scores": tf.fill([batch, 1], 0.9),
            "masks": tf.ones([batch, 1, 28, 28]),
            "num_detections": tf.ones([batch], tf.int32),
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_sum(y_pred["boxes"]) * 0.0


def fit(epochs, callbacks, scales):
    inputs = {"images": np.zeros((1, 64, 64, 3), np.uint8), "image_sizes": np.array([[64, 64]])}
    targets = {"image_ids": np.array([7]), "original_sizes": np.array([[64, 64]])}
    dataset = tf.data.Dataset.from_tensors((inputs, targets))
    model = Shrinking()
    shrink = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.scale.assign(scales[epoch])
    )
    model.compile(optimizer="sgd")
    history = model.fit(dataset, epochs=epochs, verbose=0, callbacks=[shrink, *callbacks(dataset)])
    return model, history


def test_checkpoint_and_early_stopping_watch_the_ap(tmp_path, recwarn):
    path = tmp_path / "best.weights.h5"
    watched = {"monitor": "val_mask_AP", "mode": "max"}
    best = {"save_best_only": True, "save_weights_only": True}
    model, history = fit(
        9,
        lambda dataset: [
            CocoEvaluation(dataset, RECORDS),
            keras.callbacks.ModelCheckpoint(path, **best, **watched),
            keras.callbacks.EarlyStopping(patience=2, **watched),
        ],
        scales=[0.8, 1.0, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6],
    )
    # IoU of 0.8 x 0.8 is 0.64: right at thresholds 0.50, 0.55, 0.60; stopped 2 epochs after the best.
    assert history.history["val_box_AP"] == pytest.approx([0.3, 1.0, 0.7, 0.5])
    assert history.history["val_mask_AP"] == pytest.approx([0.3, 1.0, 0.7, 0.5])
    assert history.history["val_mask_AP50"] == pytest.approx([1.0] * 4)
    assert "val_box_APm" in history.history and "val_box_APl" not in history.history
    model.load_weights(path)
    assert float(model.scale) == 1.0
    assert not [warning for warning in recwarn if "val_mask_AP" in str(warning.message)]


def test_epochs_left_out_repeat_the_last_values(tmp_path):
    scales = [0.8, 0.9, 1.0, 0.9, 0.8]
    log = tmp_path / "history.csv"
    _, history = fit(
        5,
        lambda dataset: [
            CocoEvaluation(dataset, RECORDS, every=3, prefix="coco_"),
            keras.callbacks.CSVLogger(log),
        ],
        scales,
    )
    # Evaluated: the first, the third, the last.
    assert history.history["coco_box_AP"] == pytest.approx([0.3, 0.3, 1.0, 1.0, 0.3])
    columns, *rows = (line.split(",") for line in log.read_text().splitlines())
    place = columns.index("coco_box_AP")
    assert [float(row[place]) for row in rows] == pytest.approx([0.3, 0.3, 1.0, 1.0, 0.3])


def test_the_last_evaluation_is_kept_in_full():
    kept = []
    fit(
        1,
        lambda dataset: kept.append(CocoEvaluation(dataset, RECORDS)) or kept,
        scales=[1.0],
    )
    assert kept[0].metrics["mask"]["per_class"] == pytest.approx({"square": 1.0})


@pytest.mark.parametrize("every", [0, 1.5, "2"])
def test_every_is_checked(every):
    with pytest.raises(ValueError, match="every"):
        CocoEvaluation(None, RECORDS, every=every)
