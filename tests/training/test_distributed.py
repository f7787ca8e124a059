"""Two devices and two processes against one device on the same global batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kmaskrcnn.training.distributed import fit_multi_worker, share_batches

SCRIPT = Path(__file__).with_name("distributed_run.py")


def start(mode, **environment):
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def results(process):
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors[-3000:]
    lines = [line.split()[1:] for line in output.splitlines() if line.startswith("result")]
    return {name: [float(value) for value in values] for name, *values in lines}


@pytest.fixture(scope="module")
def one():
    return results(start("one"))


def check_equal(found, expected):
    assert found.pop("replicas") == [2]
    assert set(found) == set(expected) - {"replicas"}
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, err_msg=name)
    assert expected["loss"][0] != expected["loss"][1]  # it learnt something meanwhile


def test_two_devices_learn_as_one(one):
    check_equal(results(start("mirrored")), one)


def free_ports(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def test_two_processes_learn_as_one(one):
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": i}} for i in range(2)]
    workers = [start("worker", TF_CONFIG=json.dumps(task)) for task in tasks]
    first, second = map(results, workers)
    assert first == second
    check_equal(first, one)


class Slope(keras.Model):
    """One weight, whose gradient is its input."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(initializer="zeros")

    def call(self, inputs):
        return inputs["x"] * self.weight

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return tf.reduce_mean(y_pred)


def test_the_loop_begins_and_ends_as_keras_does():
    """After a training that was stopped, and with the averages that the optimizer keeps."""
    inputs = {"x": np.arange(1, 7, dtype="float32")}
    data = tf.data.Dataset.from_tensor_slices((inputs, {"is_crowd": np.zeros(6, bool)})).batch(2)
    weights, epochs = [], []
    for fit in (keras.Model.fit, fit_multi_worker):
        with tf.distribute.OneDeviceStrategy("CPU:0").scope():
            model = Slope()
            model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
        model.stop_training = True
        epochs.append(fit(model, share_batches(data), epochs=2).epoch)
        weights.append(float(model.weight))
    assert epochs == [[0, 1]] * 2
    assert weights[1] == pytest.approx(weights[0], rel=1e-6) and weights[0] > -2.0
    assert model.optimizer.iterations == 6  # without averages, 0.1 * 21 below 0: -2.1


def test_a_dataset_of_unknown_length_is_refused():
    dataset = tf.data.Dataset.range(3).filter(lambda x: x > 0)
    with pytest.raises(ValueError, match="known number of batches"):
        fit_multi_worker(None, dataset, epochs=1)
