"""The CUDA kernels' arithmetic without a GPU: compiled for the CPU by cuda_on_cpu.h, against the loop."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_kernels import SIZES, STRIDES, draw, expected, expected_gradient

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def binding():
    """The benchmark's module, whose launchers a GPU machine calls."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import roi_align_cuda
    finally:
        sys.path.pop(0)
    return roi_align_cuda


@pytest.fixture(scope="module")
def launchers(binding, tmp_path_factory):
    library = tmp_path_factory.mktemp("cuda") / "on_cpu.so"
    include = ["-include", str(ROOT / "tests" / "kernels" / "cuda_on_cpu.h")]
    source = str(binding.SOURCES / "roi_align_cuda.cu")
    command = ["g++", "-O1", "-std=c++20", "-fPIC", "-shared", *include, "-x", "c++", source]
    subprocess.run([*command, "-o", str(library), "-lpthread"], check=True)
    return binding.open_launchers(library)


def address(array):
    return array.ctypes.data, array.shape


def launch(binding, launcher, maps, regions, pooled, **options):
    regions = [array.ctypes.data for array in regions]
    call = binding.make_call(
        [address(x) for x in maps], STRIDES, regions, address(pooled), **options
    )
    assert launcher(ctypes.byref(call), None) == 0


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("sampling, aligned", [(2, True), (0, True), (1, False)])
def test_both_directions_equal_the_loop(binding, launchers, channels, sampling, aligned):
    rng = np.random.default_rng(0)
    features, *regions = draw(rng, count=24, channels=channels)
    regions[0][0] = [-500, -500, -400, -400]
    pooled = np.full((24, 3, 3, channels), np.nan, "float32")
    options = {"number": "float32", "sampling": sampling, "aligned": aligned}
    launch(binding, launchers[0], features, regions, pooled, **options)
    oracle = {"sampling": sampling, "aligned": aligned}
    np.testing.assert_allclose(pooled, expected(features, *regions, **oracle), atol=2e-5)

    upstream = rng.normal(size=pooled.shape).astype("float32")
    gradients = [np.full_like(x, np.nan) for x in features]
    launch(binding, launchers[1], gradients, regions, upstream, **options)
    for gradient, wanted in zip(gradients, expected_gradient(upstream, *regions, **oracle)):
        np.testing.assert_allclose(gradient, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "number, precision, count, channels",
    [
        ("float16", 2**-11, 300, 2),  # more regions than threads
        ("float16", 2**-11, 24, 4),  # four numbers at a time
        ("bfloat16", 2**-8, 24, 4),
        ("bfloat16", 2**-8, 24, 3),
        ("float32", 0, 3, 260),  # more channels than a block takes
    ],
)
def test_every_number_format_and_width(binding, launchers, number, precision, count, channels):
    rng, dtype = np.random.default_rng(1), tf.as_dtype(number).as_numpy_dtype
    features, *regions = draw(rng, count=count, channels=channels)
    features = [x.astype(dtype) for x in features]
    upstream = rng.normal(size=(count, 3, 3, channels)).astype(dtype)
    pooled, gradients = np.empty_like(upstream), [np.empty_like(x) for x in features]
    launch(binding, launchers[0], features, regions, pooled, number=number)
    launch(binding, launchers[1], gradients, regions, upstream, number=number)
    features, upstream = [x.astype("float32") for x in features], upstream.astype("float32")
    wanted = [expected(features, *regions), *expected_gradient(upstream, *regions)]
    for found, numbers in zip([pooled, *gradients], wanted):
        np.testing.assert_allclose(found.astype("float32"), numbers, rtol=precision, atol=2e-5)


def test_regions_without_image_or_level_give_zeros(binding, launchers):
    features, boxes, images, levels = draw(np.random.default_rng(2), count=4)
    images[:2], levels[2:] = (-1, 2), (-1, len(SIZES))
    pooled = np.full((4, 3, 3, 5), np.nan, "float32")
    launch(binding, launchers[0], features, (boxes, images, levels), pooled, number="float32")
    assert not pooled.any()
    gradients = [np.full_like(x, np.nan) for x in features]
    ones = np.ones_like(pooled)
    launch(binding, launchers[1], gradients, (boxes, images, levels), ones, number="float32")
    assert not any(x.any() for x in gradients)


def test_the_benchmarks_boxes_fall_on_all_levels(binding):
    boxes = binding.made_up_boxes(1000)
    assert boxes.min() >= 0 and (boxes[:, 2:] > boxes[:, :2]).all()
    from kmaskrcnn.layers.roi_align import assign_levels

    np.testing.assert_array_equal(binding.levels_of(boxes), assign_levels(boxes, 5, 2))
