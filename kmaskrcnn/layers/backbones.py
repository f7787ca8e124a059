"""Backbones by name: ResNets of this package and networks of `keras.applications`, one contract.

Every backbone is a `keras.Model` from `(B, H, W, in_channels)` normalised floats to the dict
`{"C2", "C3", "C4", "C5"}` at strides 4, 8, 16, 32, with free H and W. For detectors on one level it may
also end with C4, and a ResNet keep C5 at stride 16.
"""

import dataclasses

import keras

from kmaskrcnn.layers.norms import (
    BATCH,
    FROZEN,
    BatchNormalization,
    FrozenBatchNormalization,
)
from kmaskrcnn.layers.resnet import STAGES, resnet, resnet_stage5

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of `keras.applications` as a backbone.

    Args:
        function: its name there.
        endpoints: stage -> where its map is found: `"layer"` for what the layer gives, `"layer:input"`
            for what it takes, `"output"` for what the network without its top gives.
        normalisation: (mean, standard deviation) per channel, RGB 0-255, that its weights expect.
        arguments: further arguments of the function.
    """

    function: str
    endpoints: dict
    normalisation: tuple
    arguments: dict = dataclasses.field(default_factory=dict)


# The name of a trunk -> what `resnet` makes it of. 32x4d: 32 groups, 4 channels wide in C2.
RESNETS = {
    **{f"resnet{depth}": {"depth": depth} for depth in (18, 34, 50, 101)},
    "resnext50_32x4d": {"depth": 50, "groups": 32, "width_per_group": 4},
    "resnext101_32x8d": {"depth": 101, "groups": 32, "width_per_group": 8},
    "resnext101_64x4d": {"depth": 101, "groups": 64, "width_per_group": 4},
}

# The last map before each reduction. MobileNetV2 widens to six times the channels before it reduces,
# so there it is the widened one, as in the TF Object Detection API's FPN. Its strided convolutions and
# EfficientNetV2's pad at the bottom and right alone: their cells lie half a pixel further down and
# right than the middle of their stride, torchvision's as far up and left. The weights are used to it.
# From odd sizes MobileNetV2 and ConvNeXt give floor(H / 2), the others ceil(H / 2).
APPLICATIONS = {
    "mobilenet_v2": Application(
        "MobileNetV2",
        {
            "C2": "block_3_expand_relu",
            "C3": "block_6_expand_relu",
            "C4": "block_13_expand_relu",
            "C5": "output",
        },
        ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    ),
    "efficientnetv2_b0": Application(
        "EfficientNetV2B0",
        {"C2": "block2b_add", "C3": "block3b_add", "C4": "block5e_add", "C5": "output"},
        IMAGENET,
        {"include_preprocessing": False},
    ),
    "efficientnetv2_s": Application(
        "EfficientNetV2S",
        {"C2": "block2d_add", "C3": "block3d_add", "C4": "block5i_add", "C5": "output"},
        # The S, M and L weights were trained on x / 128 - 1, the B ones on ImageNet's statistics.
        ((128.0, 128.0, 128.0), (128.0, 128.0, 128.0)),
        {"include_preprocessing": False},
    ),
    "convnext_tiny": Application(
        "ConvNeXtTiny",
        {
            "C2": "convnext_tiny_downsampling_block_0:input",
            "C3": "convnext_tiny_downsampling_block_1:input",
            "C4": "convnext_tiny_downsampling_block_2:input",
            "C5": "output",
        },
        IMAGENET,
        {"include_preprocessing": False},
    ),
}


def build_backbone(
    name,
    *,
    norm=FROZEN,
    norm_epsilon=1e-5,
    stride_in_1x1=False,
    stem_pool="symmetric",
    in_channels=3,
    c5_dilation=1,
    last_stage="C5",
    alpha=1.0,
):
    """Builds a backbone by name, with random weights.

    Args:
        name: `"resnet18"`, `"resnet34"`, `"resnet50"`, `"resnet101"`, `"resnext50_32x4d"`,
            `"resnext101_32x8d"`, `"resnext101_64x4d"`, `"mobilenet_v2"`, `"efficientnetv2_b0"`,
            `"efficientnetv2_s"` or `"convnext_tiny"`.
        norm: any of `ConvNorm`'s for a ResNet; `"frozen_batch_norm"` or `"batch_norm"` for the others
            (ConvNeXt has layer norms, which it leaves as they are).
        norm_epsilon: ResNets only; the others bring their own.
        stride_in_1x1, stem_pool: ResNets only, see `resnet`.
        in_channels: of the picture.
        c5_dilation: ResNets only, see `resnet`: 2 keeps C5 at stride 16.
        last_stage: `"C4"` leaves C5 to `build_stage5`.
        alpha: MobileNetV2's width; the model is then named e.g. `mobilenet_v2_0.5`.

    Returns:
        A functional `keras.Model`, see the head of this file.

    Raises:
        ValueError: for an unknown name, or an argument that the backbone does not have.

    Example:
        >>> build_backbone("mobilenet_v2")(images)["C5"].shape
        (1, 25, 38, 1280)
    """
    _check_name(name)
    if alpha != 1.0 and name != "mobilenet_v2":
        raise ValueError(f"alpha={alpha} is for mobilenet_v2; accepted by {name!r} is 1.0.")
    if name in RESNETS:
        return resnet(
            **RESNETS[name],
            stride_in_1x1=stride_in_1x1,
            stem_pool=stem_pool,
            norm=norm,
            norm_epsilon=norm_epsilon,
            in_channels=in_channels,
            c5_dilation=c5_dilation,
            last_stage=last_stage,
            name=name,
        )
    if (stride_in_1x1, stem_pool, c5_dilation) != (False, "symmetric", 1):
        raise ValueError(
            f"stride_in_1x1={stride_in_1x1}, stem_pool={stem_pool!r} and c5_dilation={c5_dilation} are "
            f"for {', '.join(RESNETS)}; accepted by {name!r} are False, 'symmetric' and 1."
        )
    row = APPLICATIONS[name]
    arguments = dict(row.arguments)
    if alpha != 1.0:
        arguments["alpha"], name = alpha, f"{name}_{alpha:g}"
    function = getattr(keras.applications, row.function)
    return application_backbone(
        function,
        row.endpoints,
        norm=norm,
        in_channels=in_channels,
        last_stage=last_stage,
        name=name,
        **arguments,
    )


def build_stage5(name, *, norm=FROZEN, norm_epsilon=1e-5, stride_in_1x1=False):
    """Builds the fifth stage of a trunk by name, as the head of regions pooled from its C4.

    Args:
        name, norm: of the trunk, see `build_backbone`.
        norm_epsilon, stride_in_1x1: of a ResNet's.

    Returns:
        A functional `keras.Model` from `(N, P, P, C)` to `(N, P / 2, P / 2, F)`, P even, with the layers
        of a whole trunk, so that the same weights fit. MobileNetV2's is for a trunk of full width.

    Raises:
        ValueError: for an unknown name, or a norm that the trunk cannot have.

    Example:
        >>> build_stage5("resnet50")(pooled).shape  # pooled (1000, 14, 14, 1024)
        (1000, 7, 7, 2048)
    """
    _check_name(name)
    if name in RESNETS:
        return resnet_stage5(
            **RESNETS[name], stride_in_1x1=stride_in_1x1, norm=norm, norm_epsilon=norm_epsilon
        )
    row = APPLICATIONS[name]
    network = _network(getattr(keras.applications, row.function), norm, 3, row.arguments)
    c4, c5 = (_endpoint(network, row.endpoints[stage]) for stage in ("C4", "C5"))
    return _with_norm(keras.Model(c4, c5, name="res5"), norm)


def application_backbone(
    function, endpoints, *, norm=FROZEN, in_channels=3, last_stage="C5", name=None, **arguments
):
    """Makes a backbone of any function of `keras.applications`, with random weights.

    Args:
        function: such as `keras.applications.ResNet50`.
        endpoints: stage -> place, for `"C2"` to `"C5"`; see `Application`.
        norm: `"frozen_batch_norm"` or `"batch_norm"`.
        in_channels: of the picture.
        last_stage: where the trunk ends: at `"C5"`, or at a stage before.
        name: of the model.
        **arguments: of the function.

    Returns:
        A functional `keras.Model`, see the head of this file.

    Raises:
        ValueError: for another norm, other stages, or (from Keras) a layer that does not exist.

    Example:
        >>> application_backbone(
        ...     keras.applications.ResNet50,
        ...     {f"C{i}": f"conv{i}_block{n}_out" for i, n in enumerate((3, 4, 6, 3), start=2)},
        ... )
    """
    if tuple(sorted(endpoints)) != STAGES:
        raise ValueError(f"endpoints has {sorted(endpoints)}; accepted are exactly {STAGES}.")
    if last_stage not in STAGES:
        raise ValueError(f"last_stage={last_stage!r}; accepted are {', '.join(STAGES)}.")
    network = _network(function, norm, in_channels, arguments)
    stages = STAGES[: STAGES.index(last_stage) + 1]
    features = {stage: _endpoint(network, endpoints[stage]) for stage in stages}
    return _with_norm(keras.Model(network.inputs[0], features, name=name or network.name), norm)


def _network(function, norm, in_channels, arguments):
    if norm not in (FROZEN, BATCH):
        raise ValueError(
            f"norm={norm!r}: an application's batch norms are {FROZEN!r} or {BATCH!r}."
        )
    return function(
        include_top=False, weights=None, input_shape=(None, None, in_channels), **arguments
    )


def _endpoint(network, place):
    if place == "output":
        return network.outputs[0]
    layer, _, side = place.partition(":")
    layer = network.get_layer(layer)
    return layer.input if side == "input" else layer.output


def _with_norm(model, norm):
    kinds = {FROZEN: FrozenBatchNormalization, BATCH: BatchNormalization}

    def clone(layer):
        is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
        kind = kinds[norm] if is_batch_norm else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=clone)


def backbone_normalisation(name):
    """Gives the statistics that a backbone's ImageNet weights expect the picture to be scaled by.

    Args:
        name: as in `build_backbone`.

    Returns:
        `(pixel_mean, pixel_std)`, three floats each, RGB 0-255: feed `(image - mean) / std`.

    Raises:
        ValueError: for an unknown name.
    """
    _check_name(name)
    return APPLICATIONS[name].normalisation if name in APPLICATIONS else IMAGENET


def _check_name(name):
    accepted = (*RESNETS, *APPLICATIONS)
    if name not in accepted:
        raise ValueError(f"backbone {name!r} is not known; accepted are {', '.join(accepted)}.")


def freeze_backbone(backbone, trainable_stages, stage5=None):
    """Lets only the last stages of a backbone train.

    The first stages hold edges and textures that any picture has: training them on little data costs
    time and generality. Frozen batch norms stay frozen in every stage.

    Args:
        backbone: of this file's contract; changed in place.
        trainable_stages: 0 ... 5: 5 trains all, 4 all but the stem, 3 the stages C3..C5, 0 nothing.
        stage5: the last stage, where it stands apart, see `build_stage5`.

    Raises:
        ValueError: for another number.

    Reference: torchvision's `trainable_backbone_layers`; 3 is the detection models' usual choice.
    """
    if trainable_stages not in range(6):
        raise ValueError(f"trainable_stages={trainable_stages!r}; accepted are 0, 1, 2, 3, 4, 5.")
    for number, stage in enumerate(backbone_stages(backbone, stage5), start=1):
        for layer in stage:
            layer.trainable = number > 5 - trainable_stages


def backbone_stages(backbone, stage5=None):
    """Sorts a backbone's layers by stage.

    Args:
        backbone: of this file's contract.
        stage5: the last stage, where it stands apart, see `build_stage5`.

    Returns:
        Five lists of layers: the stem, then what C2, C3, C4 and C5 each add to the stage before, none
        where the backbone ends earlier. The stem is all that comes before the second convolution.
    """
    seen, stages = set(), []
    for stage in STAGES:
        if stage not in backbone.output:
            stages.append([])
            continue
        upstream = keras.Model(backbone.inputs, backbone.output[stage]).layers
        stages.append([layer for layer in upstream if id(layer) not in seen])
        seen.update(map(id, upstream))
    has_kernel = [any(len(w.shape) == 4 for w in layer.weights) for layer in stages[0]]
    second = [index for index, convolves in enumerate(has_kernel) if convolves][1]
    stages[3] = stages[3] + (stage5.layers if stage5 else [])
    return [stages[0][:second], stages[0][second:], *stages[1:]]
