"""RoIAlign's operation on a GPU, as TensorFlow runs it there: against the loop. `make test-gpu`."""

import numpy as np
import pytest
import tensorflow as tf
from test_kernels import draw, expected, expected_gradient, gradients_of

from kmaskrcnn.kernels.builder import build_kernels
from kmaskrcnn.kernels.library import has_gpu_kernels, load_library

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def gpu_kernels(tmp_path_factory):
    """The library with CUDA's kernels, in which an operation placed on the CPU by mistake is an error."""
    if not tf.config.list_physical_devices("GPU"):
        pytest.fail("TensorFlow sees no GPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMASKRCNN_KERNELS", str(tmp_path_factory.mktemp("gpu_kernels")))
        build_kernels(cuda=True)
        assert has_gpu_kernels(load_library())
        tf.config.set_soft_device_placement(False)
        yield
        tf.config.set_soft_device_placement(True)


@pytest.mark.parametrize(
    "dtype, precision", [("float32", 0), ("bfloat16", 2**-8), ("float16", 2**-11)]
)
@pytest.mark.parametrize("channels", [3, 64, 260])
def test_both_directions_equal_the_loop(dtype, precision, channels):
    rng = np.random.default_rng(0)
    features, *regions = draw(rng, channels=channels)
    features = [tf.cast(x, dtype) for x in features]
    upstream = tf.cast(rng.normal(size=(24, 3, 3, channels)), dtype)
    with tf.device("/GPU:0"):
        pooled, gradients = gradients_of(features, upstream, regions)
    assert "GPU" in pooled.device and all("GPU" in x.device for x in gradients)
    features, upstream = [x.numpy().astype("float32") for x in features], upstream.numpy()
    wanted = [expected(features, *regions)]
    wanted += expected_gradient(upstream.astype("float32"), *regions)
    for found, numbers in zip([pooled, *gradients], wanted):
        found = tf.cast(found, "float32")
        np.testing.assert_allclose(found, numbers, rtol=precision, atol=2e-5)


def test_the_gradient_is_the_same_at_every_run():
    rng = np.random.default_rng(1)
    features, *regions = draw(rng, count=200, channels=64)
    upstream = rng.normal(size=(200, 3, 3, 64)).astype("float32")
    with tf.device("/GPU:0"):
        first = gradients_of(features, upstream, regions)[1]
        for _ in range(5):
            for one, other in zip(first, gradients_of(features, upstream, regions)[1]):
                np.testing.assert_array_equal(one, other)


def test_regions_of_no_image_give_zeros():
    features, boxes, images, levels = draw(np.random.default_rng(2))
    with tf.device("/GPU:0"):
        pooled, _ = gradients_of(features, np.zeros((24, 3, 3, 5)), (boxes, images - 9, levels))
    assert not pooled.numpy().any()
