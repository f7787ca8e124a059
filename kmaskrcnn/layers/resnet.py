"""ResNet and ResNeXt trunks: a picture in, the stages C2..C5 out; or C2..C4, and C5 for regions alone.

    stem       7x7 / 2, 64           stride 2
    max pool   3x3 / 2               stride 4
    C2         3 bottlenecks, 256    stride 4      (ResNet-50)
    C3         4 bottlenecks, 512    stride 8
    C4         6 bottlenecks, 1024   stride 16
    C5         3 bottlenecks, 2048   stride 32

Layer names, on which tables of others' weight names rest: `stem`, `C2_block1_conv1` ... `_conv3`,
`C2_block1_shortcut` (only where shape changes), and the same for every block of every stage.
"""

import dataclasses

import keras
from keras import layers

from kmaskrcnn.layers.convolution import ConvNorm

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGES = ("C2", "C3", "C4", "C5")


@dataclasses.dataclass(frozen=True)
class _Block:
    """What all residual blocks of one trunk share."""

    bottleneck: bool
    stride_in_1x1: bool
    groups: int
    width_per_group: int
    norm: str | None
    norm_epsilon: float

    def conv(self, name, filters, kernel_size, **kwargs):
        kwargs = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **kwargs}
        return ConvNorm(filters, kernel_size, name=name, **kwargs)

    def __call__(self, x, filters, strides, dilation_rate, name):
        """Adds one block of `filters` (64 in C2 ... 512 in C5) to the graph."""
        residual = self._bottleneck if self.bottleneck else self._basic
        y = residual(x, filters, strides, dilation_rate, name)
        if x.shape[-1] != y.shape[-1] or strides != 1:
            x = self.conv(f"{name}_shortcut", y.shape[-1], 1, strides=strides)(x)
        y = layers.Add(name=f"{name}_add")([x, y])
        return layers.ReLU(name=f"{name}_relu")(y)

    def _basic(self, x, filters, strides, dilation_rate, name):
        dilated = {"dilation_rate": dilation_rate}
        x = self.conv(f"{name}_conv1", filters, 3, strides=strides, activation="relu", **dilated)(x)
        return self.conv(f"{name}_conv2", filters, 3, **dilated)(x)

    def _bottleneck(self, x, filters, strides, dilation_rate, name):
        width = filters * self.width_per_group // 64 * self.groups
        # v1 (Caffe, Detectron's MSRA weights) steps in the 1x1, v1.5 (torchvision) in the 3x3.
        first, second = (strides, 1) if self.stride_in_1x1 else (1, strides)
        x = self.conv(f"{name}_conv1", width, 1, strides=first, activation="relu")(x)
        x = self.conv(
            f"{name}_conv2",
            width,
            3,
            strides=second,
            dilation_rate=dilation_rate,
            groups=self.groups,
            activation="relu",
        )(x)
        return self.conv(f"{name}_conv3", 4 * filters, 1)(x)


def resnet(
    depth,
    *,
    stride_in_1x1=False,
    norm="frozen_batch_norm",
    norm_epsilon=1e-5,
    in_channels=3,
    groups=1,
    width_per_group=64,
    c5_dilation=1,
    last_stage="C5",
    stem_pool="symmetric",
    name=None,
):
    """Builds a ResNet (or ResNeXt) trunk.

    Args:
        depth: 18, 34 (basic blocks), 50 or 101 (bottlenecks).
        stride_in_1x1: v1 (`True`) takes a stage's stride in the first 1x1 convolution, v1.5 in the
            3x3. Basic blocks have no 1x1: there it changes nothing.
        norm, norm_epsilon: normalisation of every convolution, see `ConvNorm`.
        in_channels: of the picture.
        groups, width_per_group: ResNeXt's; 32 and 4 for ResNeXt-50 32x4d. Bottlenecks only.
        c5_dilation: 2 keeps C5 at stride 16 with dilated 3x3 convolutions in all of its blocks, as in
            Detectron2's DC5 models.
        last_stage: where the trunk ends: `"C4"` leaves the last stage to `resnet_stage5`.
        stem_pool: how the max pool is padded: `"symmetric"`, or `"same"` as Keras does: of even sides at
            the bottom and right alone.
        name: of the model, by default `resnet50` and so on.

    Returns:
        A functional `keras.Model` from `(B, H, W, in_channels)` normalised floats to the dict
        `{"C2", "C3", "C4", "C5"}` of `(B, ceil(H / s), ceil(W / s), C)` with s = 4, 8, 16, 32, as far
        as `last_stage`. H and W are free. Weights are random.

    Raises:
        ValueError: for another depth or last stage, or for groups and width with basic blocks.

    Example:
        >>> resnet(50)(images)["C5"].shape
        (1, 25, 38, 2048)

    Reference: [Deep Residual Learning](https://arxiv.org/abs/1512.03385), table 1;
    [ResNeXt](https://arxiv.org/abs/1611.05431), table 1.
    """
    _check_arguments(depth, groups, width_per_group)
    if last_stage not in STAGES:
        raise ValueError(f"last_stage={last_stage!r}; accepted are {', '.join(STAGES)}.")
    block = _Block(depth >= 50, stride_in_1x1, groups, width_per_group, norm, norm_epsilon)
    images = keras.Input((None, None, in_channels), name="images")
    x = block.conv("stem", 64, 7, strides=2, activation="relu")(images)
    if stem_pool == "symmetric":
        # Zeros are a neutral padding for a maximum, because the stem ends in a ReLU.
        x = layers.ZeroPadding2D(1, name="stem_pad")(x)
    padding = "valid" if stem_pool == "symmetric" else "same"
    x = layers.MaxPooling2D(3, strides=2, padding=padding, name="stem_pool")(x)
    features = {}
    for stage in STAGES[: STAGES.index(last_stage) + 1]:
        x = features[stage] = _stage(block, x, depth, stage, c5_dilation if stage == "C5" else 1)
    return keras.Model(images, features, name=name or f"resnet{depth}")


def resnet_stage5(
    depth,
    *,
    stride_in_1x1=False,
    norm="frozen_batch_norm",
    norm_epsilon=1e-5,
    groups=1,
    width_per_group=64,
    name="res5",
):
    """Builds the fifth stage alone, which in a C4 model is the head of every region.

    Its layers have the names of a whole trunk's C5, so that the same weights fit.

    Args:
        depth, stride_in_1x1, norm, norm_epsilon, groups, width_per_group: of the trunk, see `resnet`.
        name: of the model.

    Returns:
        A functional `keras.Model` from regions pooled of C4, `(N, P, P, 1024)`, to
        `(N, ceil(P / 2), ceil(P / 2), 2048)`; basic blocks make 512 of 256 channels.

    Raises:
        ValueError: for another depth, or for groups and width with basic blocks.

    Reference: [Mask R-CNN](https://arxiv.org/abs/1703.06870), figure 4 (left)
    """
    _check_arguments(depth, groups, width_per_group)
    block = _Block(depth >= 50, stride_in_1x1, groups, width_per_group, norm, norm_epsilon)
    pooled = keras.Input((None, None, 1024 if block.bottleneck else 256), name="pooled")
    return keras.Model(pooled, _stage(block, pooled, depth, "C5", 1), name=name)


def _stage(block, x, depth, stage, dilation):
    """Adds the blocks of one stage to the graph; a dilated one keeps the resolution."""
    index = STAGES.index(stage)
    for number in range(BLOCKS[depth][index]):
        strides = 2 if number == 0 and stage != "C2" and dilation == 1 else 1
        x = block(x, 64 * 2**index, strides, dilation, f"{stage}_block{number + 1}")
    return x


def _check_arguments(depth, groups, width_per_group):
    if depth not in BLOCKS:
        raise ValueError(f"depth={depth} is not known; accepted are {', '.join(map(str, BLOCKS))}.")
    if depth < 50 and (groups, width_per_group) != (1, 64):
        raise ValueError(
            f"groups={groups} and width_per_group={width_per_group} need bottlenecks; "
            f"depth={depth} has basic blocks. Accepted there are 1 and 64."
        )
