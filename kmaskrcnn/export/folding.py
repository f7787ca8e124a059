"""Batch norms become part of the convolutions before them: a copy of a model that predicts the same, faster.

At inference a batch norm is `y = scale * x + shift` with fixed numbers, and `scale * conv(x, kernel) + shift` is
`conv(x, kernel * scale) + shift`.
"""

import dataclasses

import keras
from keras import ops

from kmaskrcnn.layers.convolution import ConvNorm
from kmaskrcnn.layers.norms import BATCH, FROZEN, SYNC, scale_and_shift
from kmaskrcnn.weights.convert import named_weights

FOLDED = (FROZEN, BATCH, SYNC)
CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D")
BATCH_NORMS = ("BatchNormalization", "FrozenBatchNormalization")


def fold_batch_norms(model, dtype="float32", **changes):
    """Copy a model for inference, without batch norms.

    A batch norm that follows something else than one convolution stays, as do group and layer norms, and those in the
    fifth stage of a C4 model on a trunk of `keras.applications`.

    Args:
        model: a `MaskRCNN`; it stays as it is.
        dtype: dtype policy of the copy, `"float32"` or `"mixed_bfloat16"`.
        **changes: fields of the copy's config, such as `portable=True`.

    Returns:
        A model of the same class whose predictions equal the given one's up to rounding.

    Example:
        >>> fold_batch_norms(model).count_params() < model.count_params()
        True
    """
    config = model.config
    kinds = ["fpn_norm", "head_norm"]
    if model.stage5 is None or _conv_norms(model.stage5):
        kinds.append("norm")  # else the fifth stage, built from it, cannot do without
    norms = {name: None for name in kinds if getattr(config, name) in FOLDED}
    serialised = keras.saving.serialize_keras_object(model.backbone)
    pairs = _edit(serialised, dtype)
    folded = type(model)(
        dataclasses.replace(config, **{**norms, **changes}),
        backbone=keras.saving.deserialize_keras_object(serialised),
        name=model.name,
        dtype=dtype,
    )
    _copy_weights(model, folded, pairs)
    return folded


def _edit(serialised, dtype):
    """Take the batch norms out of a serialised backbone, in place.

    Returns:
        `{convolution's name: batch norm's name}` where these were layers of their own.
    """
    layers = {layer["config"]["name"]: layer for layer in serialised["config"]["layers"]}
    pairs = _followed_by_norm(layers)
    for name, layer in layers.items():
        config = layer["config"]
        if "dtype" in config and layer["class_name"] != "InputLayer":
            config["dtype"] = dtype
        if layer["class_name"] == "ConvNorm" and config["norm"] in FOLDED:
            config.update(norm=None, use_bias=True)
        elif name in pairs:
            config["use_bias"] = True
        elif name in pairs.values():
            identity = keras.layers.Activation("linear", name=name, dtype=dtype)
            calls = [{**call, "kwargs": {}} for call in layer["inbound_nodes"]]
            layer.update(keras.saving.serialize_keras_object(identity), inbound_nodes=calls)
    return pairs


def _followed_by_norm(layers):
    """Convolutions without activation whose only reader is a batch norm: `{name: norm's name}`."""
    readers = {}
    for name, layer in layers.items():
        for source in _sources(layer["inbound_nodes"]):
            readers.setdefault(source, []).append(name)
    return {
        name: readers[name][0]
        for name, layer in layers.items()
        if layer["class_name"] in CONVOLUTIONS
        and layer["config"]["activation"] == "linear"
        and len(readers.get(name, ())) == 1
        and layers[readers[name][0]]["class_name"] in BATCH_NORMS
    }


def _sources(nodes):
    """Names of the layers whose outputs these serialised calls take."""
    if isinstance(nodes, dict):
        if nodes.get("class_name") == "__keras_tensor__":
            return [nodes["config"]["keras_history"][0]]
        nodes = nodes.values()
    return [name for node in nodes for name in _sources(node)] if _is_nested(nodes) else []


def _is_nested(nodes):
    return not isinstance(nodes, (str, bytes)) and hasattr(nodes, "__iter__")


def _copy_weights(model, folded, pairs):
    values, wanted = named_weights(model), named_weights(folded)
    # What a norm becomes, a bias, is new; kernels before norms are assigned again below.
    lost = [path for path in wanted if path not in values and not path.endswith("/bias")]
    if lost:
        raise ValueError(f"model {model.name!r}: its copy has weights of other names: {lost[:5]}.")
    for path in wanted.keys() & values.keys():
        # JAX would share the array, and delete it when one of the models gives its own away.
        wanted[path].assign(ops.copy(values[path]))
    for old, new in zip(_conv_norms(model), _conv_norms(folded), strict=True):
        if old.norm in FOLDED:
            bias = old.bias if old.use_bias else 0.0
            _assign(new, *_folded(old.kernel, bias, old.norm_layer))
    for name, norm in pairs.items():
        old, new = model.backbone.get_layer(name), folded.backbone.get_layer(name)
        bias = old.bias if old.use_bias else 0.0
        _assign(new, *_folded(old.kernel, bias, model.backbone.get_layer(norm)))


def _folded(kernel, bias, norm):
    scale, shift = scale_and_shift(norm)
    # A depthwise kernel is (k, k, C, 1), any other one (k, k, C, F).
    across = ops.reshape(scale, (-1, 1)) if kernel.shape[-1] != scale.shape[0] else scale
    return kernel * across, bias * scale + shift


def _assign(layer, kernel, bias):
    layer.kernel.assign(kernel)
    layer.bias.assign(bias)


def _conv_norms(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, ConvNorm)]
