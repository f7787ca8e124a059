"""Two steps of a small training: `python distributed_run.py one|mirrored|worker`; prints losses and a weight's sum.

Run by test_distributed.py in processes of their own, for devices can only be set up before TensorFlow starts.
Everything is drawn, so no draw differs, and both halves of a batch are alike, so that every way sees the same numbers.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import EVERYTHING, batch, tiny_model  # noqa: E402

from kmaskrcnn.training.distributed import fit_multi_worker, share_batches  # noqa: E402


def strategy_of(mode):
    if mode == "one":
        return tf.distribute.get_strategy()
    if mode == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    return tf.distribute.MultiWorkerMirroredStrategy()


def dataset():
    one = batch(np.random.default_rng(0), objects=(2,))
    double = tf.nest.map_structure(lambda x: np.concatenate([x, x]), one)
    batches = tf.data.Dataset.from_tensor_slices(double).batch(2, drop_remainder=True).repeat(2)
    return batches.apply(tf.data.experimental.assert_cardinality(2))


def main(mode):
    strategy = strategy_of(mode)
    with strategy.scope():
        keras.utils.set_random_seed(1)
        model = tiny_model(**EVERYTHING)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    if mode == "worker":
        history = fit_multi_worker(model, dataset(), epochs=2).history
    else:
        history = model.fit(share_batches(dataset()), epochs=2, verbose=0).history
    for name in sorted(history):
        print("result", name, *(f"{value:.6f}" for value in history[name]))
    print("result", "replicas", strategy.num_replicas_in_sync)
    weight = model.rpn_head.convs[0].kernel
    print("result", "weight", f"{float(tf.reduce_sum(tf.abs(tf.convert_to_tensor(weight)))):.5f}")


if __name__ == "__main__":
    main(sys.argv[1])
