"""JAX and PyTorch against TensorFlow, and against the same loops in NumPy; each in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from backend_run import detect, learn, made_model
from test_folding import shaken

SCRIPT = Path(__file__).with_name("backend_run.py")
TESTS = Path(__file__).parents[1]
INSTALL = {"jax": "pip install jax", "torch": "pip install torch"}
# What a test asks of TensorFlow itself, its gradient tape or its graphs, is left out.
LAYER_TESTS = (
    "test_losses.py",
    "geometry/test_suppression.py::test_equals_the_greedy_loop",
    "layers/test_targets.py",
    "layers/test_roi_align.py::test_equals_the_loop",
)
LEFT_OUT = "not overlap_losses and not crop_and_resize and not kernel and not runner"


def start(backend, *command, **environment):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: {INSTALL[backend]}")
    # Compiling well takes longer here than computing slowly.
    environment |= {"KERAS_BACKEND": backend, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    run = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=TESTS.parent,
    )
    assert run.returncode == 0, f"{run.stdout[-3000:]}\n{run.stderr[-3000:]}"
    return run.stdout


def run(backend, folder, way="one", **environment):
    start(backend, SCRIPT, folder, way, **environment)
    with np.load(folder / f"{backend}_{way}.npz") as results:
        return dict(results)


def part(results, prefix):
    names = [name for name in results if name.startswith(f"{prefix}/")]
    return {name.removeprefix(f"{prefix}/"): results[name] for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backends")
    shaken(made_model()).save_weights(folder / "start.weights.h5")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    """TensorFlow's."""
    return made_model()


@pytest.fixture(scope="module")
def tensorflow_losses(model, folder):
    model.load_weights(folder / "start.weights.h5")
    return learn(model)


@pytest.fixture(scope="module", params=sorted(INSTALL))
def other(request, folder):
    """What another backend made of the same weights and the same batch."""
    return request.param, run(request.param, folder)


def check_detections(found, expected):
    np.testing.assert_array_equal(found["labels"], expected["labels"])
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    assert expected["num_detections"].min() > 0
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=0.01)  # pixels
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-5)
    np.testing.assert_allclose(found["masks"], expected["masks"], atol=1e-4)


def check_losses(found, expected):
    assert set(found) == set(expected)
    for name in expected:
        # float32 sums in another order, carried through four steps
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-3, err_msg=name)
    assert expected["loss"][1] < expected["loss"][0]


def test_weights_of_tensorflow_detect_the_same(other, model, folder):
    model.load_weights(folder / "start.weights.h5")
    check_detections(part(other[1], "start"), detect(model))


def test_a_folded_copy_detects_the_same_and_leaves_the_model_whole(other, model, folder):
    """The script goes on with the model: under JAX a copy that shared its arrays would delete them."""
    model.load_weights(folder / "start.weights.h5")
    expected = detect(model)
    check_detections(part(other[1], "folded"), expected)
    check_detections(part(other[1], "start"), expected)


def test_it_learns_as_tensorflow_does(other, tensorflow_losses):
    backend, results = other
    check_losses(part(results, "loss"), tensorflow_losses)
    assert bool(results["compiled"]) == (backend == "jax")


def test_weights_learnt_there_detect_the_same_in_tensorflow(other, model, folder):
    backend, results = other
    model.load_weights(folder / f"{backend}_one.weights.h5")
    check_detections(part(results, "learnt"), detect(model))


@pytest.mark.parametrize("backend", sorted(INSTALL))
def test_layers_and_losses_equal_their_loops(backend):
    tests = [TESTS / name for name in LAYER_TESTS]
    output = start(backend, "-m", "pytest", "-k", LEFT_OUT, *tests)
    assert " passed" in output and "failed" not in output


def test_eight_devices_of_jax_learn_as_one(folder, tensorflow_losses):
    eight = "--xla_force_host_platform_device_count=8"
    results = run("jax", folder, "data_parallel", XLA_FLAGS=eight)
    assert results["devices"] == 8
    check_losses(part(results, "loss"), tensorflow_losses)
