"""Reader of MobileNetV2 weights whose batch norms were folded into the convolutions.

The file is an `.npz` with `<layer>/kernel` and `<layer>/bias` for each convolution, under the layer
names of `keras.applications.MobileNetV2` without its top; the network takes RGB / 127.5 - 1.
"""

import numpy as np


def load_folded_mobilenet_v2(backbone, path, stage5=None):
    """Fills a MobileNetV2 backbone from a folded `.npz` file.

    A batch norm cannot be left out of the built network, so each is made to add the bias alone: gamma
    1, beta the bias, mean 0, variance 1 - epsilon. Keep these norms frozen: batch statistics would
    undo the folding.

    Args:
        backbone: of `build_backbone("mobilenet_v2")`; changed in place once the whole file has been
            checked.
        path: of the `.npz` file.
        stage5: the last stage, where it stands apart, see `build_stage5`.

    Raises:
        ValueError: naming the file and every name that is missing, left over or of another shape.

    Reference: [MobileNetV2](https://arxiv.org/abs/1801.04381), table 2.
    """
    with np.load(path, allow_pickle=False) as file:
        values = {name: file[name] for name in file.files}
    layers = {layer.name: layer for layer in backbone.layers + (stage5.layers if stage5 else [])}
    convolutions = [layer for layer in layers.values() if hasattr(layer, "kernel")]
    expected = {f"{layer.name}/{part}" for layer in convolutions for part in ("kernel", "bias")}
    faults = [f"{name} is missing" for name in sorted(expected - set(values))]
    faults += [f"{name} has no place" for name in sorted(set(values) - expected)]
    if not faults:
        faults = [fault for layer in convolutions for fault in _wrong_shapes(layer, values)]
    if faults:
        raise ValueError(f"{path} does not fit backbone {backbone.name!r}: {'; '.join(faults)}.")
    for layer in convolutions:
        layer.kernel.assign(values[f"{layer.name}/kernel"])
        _set_bias(layers[_norm_name(layer.name)], values[f"{layer.name}/bias"])


def _wrong_shapes(layer, values):
    shapes = {"kernel": tuple(layer.kernel.shape), "bias": tuple(layer.output.shape[-1:])}
    for part, shape in shapes.items():
        given = values[f"{layer.name}/{part}"].shape
        if given != shape:
            yield f"{layer.name}/{part} has shape {given}, the network {shape}"


def _norm_name(convolution):
    if convolution == "Conv1":
        return "bn_Conv1"
    return f"{convolution}_bn" if convolution == "Conv_1" else f"{convolution}_BN"


def _set_bias(norm, bias):
    norm.gamma.assign(np.ones_like(bias))
    norm.beta.assign(bias)
    norm.moving_mean.assign(np.zeros_like(bias))
    norm.moving_variance.assign(np.full_like(bias, 1 - norm.epsilon))
