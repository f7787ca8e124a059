"""ImageNet weights for a built backbone: Keras's own download, or a local file."""

import functools
import logging
import pathlib

import keras

from kmaskrcnn.weights.architectures import find_architecture, recognise
from kmaskrcnn.weights.convert import load_backbone_arrays
from kmaskrcnn.weights.mobilenet import load_folded_mobilenet_v2
from kmaskrcnn.weights.presets import fetch
from kmaskrcnn.weights.readers import read_weights

logger = logging.getLogger(__name__)

_MOBILENET = keras.applications.MobileNetV2
_EFFICIENTNET = {"include_preprocessing": False}

# The name of a backbone -> the function of `keras.applications` whose weights fit it.
NETWORKS = {
    "mobilenet_v2": _MOBILENET,
    **{
        f"mobilenet_v2_{alpha:g}": functools.partial(_MOBILENET, alpha=alpha)
        for alpha in (0.35, 0.5, 0.75, 1.3, 1.4)
    },
    "efficientnetv2_b0": functools.partial(keras.applications.EfficientNetV2B0, **_EFFICIENTNET),
    "efficientnetv2_s": functools.partial(keras.applications.EfficientNetV2S, **_EFFICIENTNET),
    "convnext_tiny": functools.partial(
        keras.applications.ConvNeXtTiny, include_preprocessing=False
    ),
}


def load_backbone_weights(backbone, source, stage5=None):
    """Fills a built backbone with weights, in place.

    Args:
        backbone: a `keras.Model` of `build_backbone`, known by its name.
        source: one of

            - `"imagenet"`: downloaded once and kept: Keras's weights, torchvision's for the ResNets;
            - a `.weights.h5` file that `backbone.save_weights` wrote;
            - for a ResNet, a file of torchvision (`.pth`), Detectron2's MSRA trunks (`.pkl`) or
              `keras.applications` (`.h5`): the configuration must be the one that they assume, see
              `architectures.py`;
            - an `.h5` file without top as published for `keras.applications`;
            - an `.npz` file of folded MobileNetV2 weights, see `load_folded_mobilenet_v2`.
        stage5: a C4 model's `stage5`, the last stage of the same trunk; filled from all but `.weights.h5`,
            which warns. So does a trunk that ends with C4 without it: the regions' head would stay random.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for a source that this backbone has none of, or whose shapes differ.
        OSError: when the download fails; it says where to put the file instead.

    Example:
        >>> load_backbone_weights(build_backbone("mobilenet_v2"), "imagenet")
    """
    if "C5" not in backbone.output and stage5 is None:
        logger.warning("%s ends with C4: pass stage5=model.stage5 to fill it too", backbone.name)
    is_resnet = backbone.name.startswith(("resnet", "resnext"))
    if source == "imagenet" and is_resnet:
        source = fetch(f"{backbone.name}_imagenet")
    elif source == "imagenet":
        _copy_weights(_download(backbone.name), backbone, stage5)
        return
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"source={str(source)!r}: no such file, and not 'imagenet'.")
    if path.name.endswith(".weights.h5"):
        backbone.load_weights(path)
        if stage5 is not None:
            logger.warning("%s holds the trunk alone: stage5 stays as it was", path.name)
    elif is_resnet:
        arrays = read_weights(path)
        origin = find_architecture(recognise(arrays)).origin
        report = load_backbone_arrays(backbone, arrays, origin, stage5)
        logger.info("%s: %s", path.name, report)
    elif path.suffix == ".h5":
        _copy_weights(_network(backbone.name)(weights=str(path)), backbone, stage5)
    elif path.suffix == ".npz" and backbone.name.startswith("mobilenet_v2"):
        load_folded_mobilenet_v2(backbone, path, stage5)
    else:
        raise ValueError(
            f"source={str(source)!r} is not for backbone {backbone.name!r}; accepted are "
            "'imagenet', .weights.h5, .h5, and .npz for mobilenet_v2."
        )


def _network(name):
    if name not in NETWORKS:
        raise ValueError(
            f"backbone {name!r} has no weights in keras.applications; accepted are "
            f"{', '.join(NETWORKS)}, or give a .weights.h5 file."
        )
    # The size that the weights were published for; they do not depend on it.
    return functools.partial(NETWORKS[name], include_top=False, input_shape=(224, 224, 3))


def _download(name):
    network = _network(name)
    try:
        return network(weights="imagenet")
    except Exception as error:  # a plain Exception is what keras.utils.get_file raises
        raise OSError(
            f"The ImageNet weights of {name!r} could not be had: {error}. Put the file of that "
            "address into ~/.keras/models, or give its path instead of 'imagenet'."
        ) from error


def _copy_weights(network, backbone, stage5):
    """Copies weights layer by layer; all were built by the same function, so in the same order."""
    layers = backbone.layers + (stage5.layers[1:] if stage5 else [])  # the first is its input
    if len(layers) > len(network.layers):
        raise ValueError(
            f"backbone {backbone.name!r} has {len(layers)} layers, the source {len(network.layers)}."
        )
    for given, layer in zip(network.layers, layers):  # its layers behind C5 are not needed
        # Automatic names such as layer_normalization_3 differ, shapes must not.
        shapes = [[tuple(weight.shape) for weight in one.weights] for one in (given, layer)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"layer {layer.name!r} of backbone {backbone.name!r} has weights of shapes "
                f"{shapes[1]}, the source ({given.name!r}) {shapes[0]}."
            )
        layer.set_weights(given.get_weights())
