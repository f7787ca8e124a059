"""The one runner for every kind of layer: configuration, shapes, mixed precision, save and load.

    from layer_checks import check_layer

    def test_runner():
        check_layer(FeaturePyramid(), {"C4": c4, "C5": c5})

`inputs` is one NumPy array or a dict or list of arrays, given to the layer as its first argument; a
tuple is spread over the layer's positional arguments, each of them such a nest.
"""

import inspect
import os
import tempfile

import keras
import numpy as np
from keras import tree


def check_layer(layer, inputs, *, free_axes=(), mixed_precision=True, rtol=1e-5, atol=1e-5, **call):
    """Checks what every layer of the package promises.

    Its configuration holds every argument and survives a round trip; symbolic shapes and dtypes
    equal the eager ones; it runs in mixed bfloat16 with finite outputs; a functional model of it
    saves, loads and then gives equal outputs (weights are made random first, so that one that is
    not saved shows). A layer that draws random numbers passes if its `keras.random.SeedGenerator`
    is an attribute, so saved.

    Args:
        layer: a `keras.layers.Layer`.
        inputs: array, dict, list, or a tuple of these, one per positional argument; axis 0 is free.
        free_axes: further axes that are `None` in the symbolic inputs, such as `(1, 2)` for height
            and width; they apply to inputs of rank 4.
        mixed_precision: whether to run the layer in mixed bfloat16.
        rtol, atol: tolerances between the outputs of the saved and the loaded model.
        **call: further arguments of the layer's `call` that are no tensors, e.g. `training=False`.

    Returns:
        The eager outputs of `layer`, as NumPy arrays in the layer's own nest.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    arguments = tree.map_structure(np.asarray, arguments)
    outputs = layer(*_tensors(arguments), **call)
    _check_config(layer)
    _check_symbolic(layer, arguments, outputs, free_axes, call)
    if mixed_precision:
        _check_mixed_precision(layer, arguments, call)
    _check_saving(layer, arguments, free_axes, rtol, atol, call)
    return tree.map_structure(keras.ops.convert_to_numpy, outputs)


def _tensors(arguments):
    return tree.map_structure(keras.ops.convert_to_tensor, arguments)


def _dtype(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def _symbolic(arguments, free_axes):
    def one(array):
        free = (0, *free_axes) if array.ndim == 4 else (0,)
        shape = [None if axis in free else size for axis, size in enumerate(array.shape)]
        return keras.Input(batch_shape=shape, dtype=str(array.dtype))

    return tree.map_structure(one, arguments)


def _check_config(layer):
    config = layer.get_config()
    copy = type(layer).from_config(config)
    assert copy.get_config() == config
    # An argument that get_config forgets comes back with its default on both sides.
    arguments = inspect.signature(type(layer).__init__).parameters
    forgotten = set(arguments) - {"self", "args", "kwargs"} - set(config)
    assert not forgotten, f"get_config lacks {sorted(forgotten)}"
    registered = keras.saving.get_registered_name(type(layer))
    assert registered == f"kmaskrcnn>{type(layer).__name__}"


def _check_symbolic(layer, arguments, outputs, free_axes, call):
    symbolic = layer(*_symbolic(arguments, free_axes), **call)
    tree.assert_same_structure(symbolic, outputs)
    for expected, actual in zip(tree.flatten(symbolic), tree.flatten(outputs)):
        assert len(expected.shape) == len(actual.shape), (expected, actual.shape)
        for wanted, got in zip(expected.shape, actual.shape):
            assert wanted is None or wanted == got, (expected, actual.shape)
        # A layer with `compute_output_shape` alone is taken to give its compute dtype everywhere:
        # one with integer outputs needs `compute_output_spec`, or neither of them.
        assert _dtype(expected) == _dtype(actual), (expected, _dtype(actual))


def _check_mixed_precision(layer, arguments, call):
    # Sublayers made without a dtype follow the global policy, the layer itself its configuration.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        copy = type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
        outputs = tree.flatten(copy(*_tensors(arguments), **call))
    finally:
        keras.config.set_dtype_policy(policy)
    for variable in copy.trainable_variables:
        assert variable.dtype == "float32", variable.path
    for output in outputs:
        if keras.backend.is_float_dtype(_dtype(output)):
            assert np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(output, "float32"))).all()


def _check_saving(layer, arguments, free_axes, rtol, atol, call):
    generator = np.random.default_rng(0)
    # A copy, so that the caller's layer keeps its weights.
    copy = type(layer).from_config(layer.get_config())
    symbolic = _symbolic(arguments, free_axes)
    model = keras.Model(symbolic, copy(*symbolic, **call))
    for weight in model.weights:
        if keras.backend.is_float_dtype(weight.dtype):
            # Added, never subtracted: a variance must stay positive.
            weight.assign(weight + generator.uniform(0.0, 0.1, weight.shape).astype("float32"))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)  # before the first call: a random layer's state is saved as it starts
        loaded = keras.saving.load_model(path)
    wanted, got = model(_tensors(arguments)), loaded(_tensors(arguments))
    wanted, got = tree.flatten(wanted), tree.flatten(got)  # a loaded model gives lists for tuples
    assert len(wanted) == len(got)
    for expected, actual in zip(wanted, got):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(keras.ops.cast(actual, "float32")),
            keras.ops.convert_to_numpy(keras.ops.cast(expected, "float32")),
            rtol=rtol,
            atol=atol,
        )
