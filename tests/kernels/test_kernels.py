"""The operation of our own: its gradient, its number formats, its edges, and what happens where it was not built."""

import logging
from unittest import mock

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from tiny import batch, tiny_model

from kmaskrcnn.kernels import library
from kmaskrcnn.kernels import roi_align as kernel
from kmaskrcnn.kernels.builder import build_kernels
from kmaskrcnn.kernels.roi_align import roi_align
from kmaskrcnn.layers.roi_align import RoIAlign
from kmaskrcnn.layers.roi_pool import RoIWarp

SIZES, STRIDES = ((12, 15), (6, 8)), (4.0, 8.0)
OPTIONS = {"strides": STRIDES, "pool_size": 3, "sampling_ratio": 2, "aligned": True}


def draw(rng, count=24, channels=5):
    """Features of two levels and two images, and regions on them of which many cross the border."""
    features = [rng.normal(size=(2, *size, channels)).astype("float32") for size in SIZES]
    boxes = oracles.random_boxes(rng, (count,), 48, 60)
    images, levels = (rng.integers(0, 2, count).astype("int32") for _ in range(2))
    return features, boxes, images, levels


def expected(features, boxes, images, levels, sampling=2, aligned=True):
    return np.stack(
        [
            oracles.roi_align(
                features[level][image], box, STRIDES[level], 3, sampling, aligned=aligned
            )
            for box, image, level in zip(boxes, images, levels)
        ]
    )


def expected_gradient(upstream, boxes, images, levels, **options):
    """Pooling maps whose channels are the cells gives each cell's weight in each bin."""
    channels = upstream.shape[-1]
    gradients = [np.zeros((2, *size, channels)) for size in SIZES]
    identities = [np.tile(np.eye(h * w).reshape(1, h, w, h * w), (2, 1, 1, 1)) for h, w in SIZES]
    for n, (box, image, level) in enumerate(zip(boxes, images, levels)):
        region = [x[n : n + 1] for x in (boxes, images, levels)]
        weights = expected(identities, *region, **options)[0]  # (P, P, cells)
        cells = np.einsum("ijk,ijc->kc", weights, upstream[n].astype("float64"))
        gradients[level][image] += cells.reshape(*SIZES[level], channels)
    return gradients


def gradients_of(features, upstream, regions, **options):
    features = [tf.convert_to_tensor(x) for x in features]
    with tf.GradientTape() as tape:
        tape.watch(features)
        pooled = roi_align(features, *regions, **{**OPTIONS, **options})
    return pooled, tape.gradient(pooled, features, tf.cast(upstream, pooled.dtype))


@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 5])
@pytest.mark.parametrize("aligned", [True, False])
def test_gradient_equals_the_loop(kernels, sampling_ratio, aligned):
    rng = np.random.default_rng(0)
    features, *regions = draw(rng)
    upstream = rng.normal(size=(24, 3, 3, 5)).astype("float32")
    options = {"sampling_ratio": sampling_ratio, "aligned": aligned}
    _, gradients = gradients_of(features, upstream, regions, **options)
    oracle = expected_gradient(upstream, *regions, sampling=sampling_ratio, aligned=aligned)
    for gradient, wanted in zip(gradients, oracle):
        np.testing.assert_allclose(gradient, wanted, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3, 8, 21, 64, 128 + 64 + 16 + 3])
@pytest.mark.parametrize(
    "dtype, precision", [("float32", 0), ("bfloat16", 2**-8), ("float16", 2**-11)]
)
def test_every_number_format_at_every_width(kernels, dtype, precision, channels):
    """Inputs are rounded first, so the result is off by its own rounding alone; sums are float32."""
    rng = np.random.default_rng(channels)
    features, *regions = draw(rng, channels=channels)
    upstream = rng.normal(size=(24, 3, 3, channels))
    features, upstream = [tf.cast(x, dtype) for x in features], tf.cast(upstream, dtype)
    pooled, gradients = gradients_of(features, upstream, regions)
    assert pooled.dtype == dtype and all(x.dtype == dtype for x in gradients)
    rounded = [tf.cast(x, "float64").numpy() for x in features]
    wanted = expected(rounded, *regions)
    np.testing.assert_allclose(tf.cast(pooled, "float64"), wanted, rtol=precision, atol=2e-5)
    wanted = expected_gradient(tf.cast(upstream, "float64").numpy(), *regions)
    for gradient, cells in zip(gradients, wanted):
        np.testing.assert_allclose(tf.cast(gradient, "float64"), cells, rtol=precision, atol=2e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_numbers_round_as_tensorflow_rounds_them(kernels, dtype):
    """A region of one cell's size on a flat map gives the map's value back: subnormal, huge, infinite, NaN."""
    values = [1e-7, -6e-8, 3e-5, 65504.0, 1e30, -np.inf, np.nan, 0.1] * 3
    flat = tf.cast(np.tile(np.array(values, "float32"), (1, 4, 4, 1)), dtype)
    box = np.array([[2, 2, 3, 3]], "float32")
    zero = np.zeros(1, "int32")
    options = {"strides": [1.0], "pool_size": 1, "sampling_ratio": 1, "aligned": True}
    pooled = roi_align([flat], box, zero, zero, **options)[0, 0, 0]
    np.testing.assert_array_equal(tf.cast(pooled, "float32"), tf.cast(flat[0, 0, 0], "float32"))


def test_the_gradient_is_the_same_at_every_run(kernels):
    rng = np.random.default_rng(1)
    features, *regions = draw(rng, count=300, channels=32)
    upstream = rng.normal(size=(300, 3, 3, 32)).astype("float32")
    first = gradients_of(features, upstream, regions)[1]
    for _ in range(20):
        for gradient, same in zip(gradients_of(features, upstream, regions)[1], first):
            np.testing.assert_array_equal(gradient, same)


def test_pooling_is_its_gradients_gradient(kernels):
    """It is linear: the gradient of <gradient(g), v> in g is the pooled v."""
    rng = np.random.default_rng(2)
    features, *regions = draw(rng)
    upstream = tf.Variable(rng.normal(size=(24, 3, 3, 5)).astype("float32"))
    with tf.GradientTape() as tape:
        _, gradients = gradients_of(features, upstream, regions)
        total = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(gradients, features)])
    second = tape.gradient(total, upstream)
    np.testing.assert_allclose(second, expected(features, *regions), atol=2e-5)


def test_regions_that_are_none(kernels):
    """Far outside, inverted, without extent, not a number: finite values, zeros where nothing is sampled."""
    features, *_ = draw(np.random.default_rng(3))
    big = 1e30
    boxes = [[900, 900, 950, 950], [-99, -99, -50, -50], [np.nan] * 4, [-big, -big, big, big]]
    boxes = np.array([*boxes, [0, 0, np.inf, np.inf], [30, 30, 10, 10], [8, 8, 8, 8]], "float32")
    zeros = np.zeros(len(boxes), "int32")
    for sampling_ratio in (0, 2):
        upstream = np.ones((len(boxes), 3, 3, 5), "float32")
        options = {"sampling_ratio": sampling_ratio}
        pooled, gradients = gradients_of(features, upstream, (boxes, zeros, zeros), **options)
        assert np.isfinite(pooled).all() and all(np.isfinite(x).all() for x in gradients)
        assert not pooled[:3].numpy().any()
        oracle = expected(features, boxes[5:], zeros[5:], zeros[5:], sampling_ratio)
        np.testing.assert_allclose(pooled[5:], oracle, atol=2e-5)


def test_no_region_has_a_gradient_of_zeros(kernels):
    features, *_ = draw(np.random.default_rng(4))
    nothing = np.zeros((0, 4), "float32"), np.zeros(0, "int32"), np.zeros(0, "int32")
    pooled, gradients = gradients_of(features, np.zeros((0, 3, 3, 5), "float32"), nothing)
    assert pooled.shape == (0, 3, 3, 5)
    assert [x.shape for x in gradients] == [x.shape for x in features]
    assert not any(x.numpy().any() for x in gradients)


def test_what_does_not_fit_is_named(kernels):
    features, boxes, images, levels = draw(np.random.default_rng(5))
    wrong = [
        ((features, boxes, images + 2, levels), "image_indices: got"),
        ((features, boxes, images, levels - 2), "level_indices: got"),
        ((features, boxes[:, :3], images, levels), "rois: got"),
        ((features, boxes, images[:3], levels), "one number for each of the rois"),
        (([features[0], features[1][..., :3]], boxes, images, levels), "same B and C"),
        (([features[0], features[1][:, :0]], boxes, images, levels), "H and W of 1 or more"),
        (([features[0], features[1][:, :, :0]], boxes, images, levels), "H and W of 1 or more"),
    ]
    for arguments, message in wrong:
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match=message):
            roi_align(*arguments, **OPTIONS)


def test_symbolic_shapes_and_free_sizes(kernels):
    features, boxes, images, levels = draw(np.random.default_rng(6))
    free = tf.TensorSpec((None, None, None, 5), tf.float32)

    @tf.function(input_signature=[[free, free], tf.TensorSpec((None, 4), tf.float32)])
    def pool(maps, rois):
        pooled = roi_align(maps, rois, images, levels, **OPTIONS)
        assert pooled.shape.as_list() == [None, 3, 3, 5]
        return pooled, tf.gradients(pooled, maps)

    pooled, gradients = pool(features, boxes)
    np.testing.assert_allclose(pooled, expected(features, boxes, images, levels), atol=2e-5)
    assert [x.shape for x in gradients] == [x.shape for x in features]


def test_roi_warp_by_the_kernel(kernels):
    rng = np.random.default_rng(7)
    features = {f"P{2 + i}": x for i, x in enumerate(draw(rng)[0])}
    boxes, images = oracles.random_boxes(rng, (40,), 48, 300), rng.integers(0, 2, 40)
    options = {"pool_size": 3, "levels": ("P2", "P3")}
    pooled, wanted = (
        RoIWarp(implementation=name, **options)(features, boxes, images)
        for name in ("kernel", "gather")
    )
    np.testing.assert_allclose(pooled, wanted, atol=2e-5)


# -- with and without the library -------------------------------------------------------------------------------------


def operations_of(layer, dtype=tf.float32):
    """The kinds of operations in a layer's graph."""
    features, boxes = tf.TensorSpec((1, 8, 8, 4), dtype), tf.TensorSpec((1, 5, 4), tf.float32)
    graph = tf.function(lambda x, rois: layer({"P2": x}, rois)).get_concrete_function(
        features, boxes
    )
    return {operation.type for operation in graph.graph.get_operations()}


@pytest.mark.parametrize("implementation", ["auto", "kernel"])
def test_layers_use_it_where_it_was_built(kernels, implementation):
    layer = RoIAlign(implementation=implementation, levels=("P2",))
    assert "KmaskrcnnRoiAlign" in operations_of(layer) and not layer.supports_jit
    half = RoIAlign(implementation=implementation, levels=("P2",), dtype="mixed_bfloat16")
    assert "KmaskrcnnRoiAlign" in operations_of(half, tf.bfloat16)


def test_auto_knows_what_it_cannot(kernels):
    for options in ({"reduce": "max"}, {"dtype": "float64"}):
        assert "CropAndResize" in operations_of(RoIAlign(levels=("P2",), **options))


@pytest.mark.parametrize("implementation", ["auto", "kernel"])
def test_without_it_layers_fall_back_and_say_so_once(implementation, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KMASKRCNN_KERNELS", str(tmp_path))
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            layer = RoIAlign(implementation=implementation, levels=("P2",))
            assert "CropAndResize" in operations_of(layer)
    assert [r.message for r in caplog.records if "build-kernels" in r.message] == [
        "RoIAlign and 3x3 convolutions run on TensorFlow's own operations; "
        "`kmaskrcnn build-kernels` builds faster ones"
    ]


def test_a_library_that_does_not_load_is_named_and_left(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KMASKRCNN_KERNELS", str(tmp_path))
    library.library_path().write_text("no library")
    assert library.load_library() is None
    assert str(library.library_path()) in caplog.text
    with pytest.raises(RuntimeError, match="build-kernels"):
        roi_align([], None, None, None)


def test_building_again_needs_no_compiler(kernels, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build_kernels(cuda=False) == library.library_path()


def test_a_library_without_gpu_kernels_does_not_stand_for_one_with_them(kernels, monkeypatch):
    """`--cuda` after a build for the CPU compiles: here it finds no compiler, where it once was content."""
    monkeypatch.setattr("kmaskrcnn.kernels.builder._nvcc", lambda: None)
    with pytest.raises(RuntimeError, match="nvcc: no such compiler"):
        build_kernels(cuda=True)


def test_of_two_libraries_the_one_for_gpus_is_loaded(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KMASKRCNN_KERNELS", str(tmp_path))
    for cuda in (True, False):
        library.library_path(cuda).write_text("no library")
    assert library.load_library() is None
    assert f"{library.library_path(cuda=True)} does not load" in caplog.text


def test_a_gpu_without_kernels_for_it_is_told(kernels, monkeypatch, caplog):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["a GPU"])
    with caplog.at_level(logging.INFO):
        assert not kernel.is_available()
    assert "the library has no kernels for GPUs" in caplog.text


@pytest.mark.parametrize(
    "compiler, message", [("no-such-compiler", "no such compiler"), ("false", "failed with 1")]
)
def test_a_compiler_that_fails_is_named(compiler, message, tmp_path, monkeypatch):
    monkeypatch.setenv("KMASKRCNN_KERNELS", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(RuntimeError, match=f"{compiler}.*{message}"):
        build_kernels(cuda=False)
    assert not list(tmp_path.iterdir())


def test_another_tensorflow_is_another_file(monkeypatch):
    library._library_stem.cache_clear()
    own = library.library_path().name
    monkeypatch.setattr(tf.version, "GIT_VERSION", "v9")
    library._library_stem.cache_clear()
    other = library.library_path().name
    library._library_stem.cache_clear()
    assert own.startswith(f"tensorflow-{tf.__version__}-") and own != other


def test_a_model_predicts_the_same(built_kernels, kernels_folder, monkeypatch):
    model = tiny_model()
    inputs, _ = batch(np.random.default_rng(0))
    used, found = mock.Mock(wraps=roi_align), []
    monkeypatch.setattr(kernel, "roi_align", used)
    for folder in (kernels_folder, built_kernels):
        monkeypatch.setenv("KMASKRCNN_KERNELS", str(folder))
        found.append(keras.tree.map_structure(np.array, model.predict_graph(inputs)))
        assert used.call_count == (2 if folder == built_kernels else 0)  # boxes and masks
    for name, wanted in found[0].items():
        np.testing.assert_allclose(found[1][name], wanted, atol=1e-4, err_msg=name)
