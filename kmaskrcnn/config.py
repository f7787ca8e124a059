"""What a model, its data and its training are made of: frozen dataclasses, to and from YAML.

A key that does not exist, or a value of the wrong type, is an error that names the key and the nearest valid one.
"""

import dataclasses
import typing
from pathlib import Path

import yaml

from kmaskrcnn.config_checks import (
    ConfigError,
    check_augmentation,
    check_ranges,
    check_recipe,
    check_training,
    check_types,
    require,
    require_one_of,
)
from kmaskrcnn.config_dicts import from_dict, full_key, to_dict

__all__ = [
    "AugmentationConfig",
    "ConfigError",
    "DataConfig",
    "MaskRCNNConfig",
    "Recipe",
    "TrainingConfig",
    "fit_to_channels",
    "from_dict",
    "load_yaml",
    "override",
    "save_yaml",
    "to_dict",
]


@dataclasses.dataclass(frozen=True)
class MaskRCNNConfig:
    """The architecture of one Mask R-CNN, and how it turns a picture into detections.

    Defaults are those of the Feature Pyramid Network version of the paper as Detectron2 and torchvision train it.
    Lengths are pixels of the network image; `(P2, P3, P4, P5, P6)` order where a tuple speaks of pyramid levels.

    Example:
        ```python
        config = MaskRCNNConfig(class_names=("nucleus",), backbone="resnet18")
        ```
    """

    # Classes: ids 0 ... K-1 in this order; the background is the last logit, K.
    class_names: tuple[str, ...] = ("object",)
    category_ids: tuple[int, ...] = ()  # of the COCO json they came from, in the same order

    # The picture, RGB 0-255: resized to `min_size` at its short side, `max_size` at most at its long side.
    min_size: int = 800
    max_size: int = 1333
    in_channels: int = 3
    size_divisor: int = 64  # padded to multiples of it: whole cells of P6; others' weights know 32
    resize_rule: str = "opencv"  # "torchvision", "detectron2": see geometry/resizing.py
    pixel_mean: tuple[float, ...] | None = None  # None: what the backbone was trained with
    pixel_std: tuple[float, ...] | None = None
    padding: str = "mean"  # or "black"

    # Backbone and pyramid
    backbone: str = "resnet50"
    stride_in_1x1: bool = False  # True for the original (MSRA) ResNets, False for PyTorch's
    stem_pool: str = "symmetric"  # "same": of even sides padded at the bottom and right alone
    norm: str | None = "frozen_batch_norm"
    norm_epsilon: float = 1e-5
    # Or one level of stride 16: "c4", whose fifth stage is the regions' head; "dc5", whose fifth stage is dilated
    pyramid: str = "fpn"
    fpn_channels: int = 256
    fpn_norm: str | None = None

    # Anchors: one scale a level (all where there is one level), every aspect ratio (height / width) at each place
    anchor_scales: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    anchor_aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchor_rule: str = "exact"  # "torchvision": rounded to pixels, see AnchorGenerator

    # Region proposal network
    rpn_convs: int = 1
    rpn_channels: int | None = None  # None: those of the features
    rpn_positive_threshold: float = 0.7
    rpn_negative_threshold: float = 0.3
    rpn_anchors_per_image: int = 256
    rpn_positive_fraction: float = 0.5
    rpn_nms_threshold: float = 0.7
    rpn_box_variance: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    rpn_min_box_size: float = 1e-3
    rpn_joint_levels: bool = False  # choose and suppress among all levels together
    rpn_pre_nms_topk_train: int = 2000  # a level, or of all levels together
    rpn_pre_nms_topk: int = 1000
    rpn_post_nms_topk_train: int = 1000  # an image
    rpn_post_nms_topk: int = 1000

    # Regions: sampled for training, pooled from the pyramid
    rois_per_image: int = 512
    roi_positive_threshold: float = 0.5
    roi_positive_fraction: float = 0.25
    roi_pooling: str = (
        "align"  # "warp", "pool": what the paper compares it with; "crop": matterport's
    )
    roi_levels: tuple[str, ...] = ("P2", "P3", "P4", "P5")  # a region's size tells which of them
    roi_reduce: str = "average"  # or "max", of a bin's samples
    roi_align: str = "auto"  # "kernel", "crop_and_resize", "gather"
    roi_sampling_ratio: int = 2  # 0: as many samples as a bin has cells
    roi_aligned: bool = True

    # Box head
    box_pool_size: int = 7  # "c4" halves it
    box_head_convs: int = 0
    box_head_dense: int = 2
    box_head_units: int = 1024
    # Of the convolutions in box and mask head. Statistics of batches ("batch_norm", "sync_batch_norm"; with "c4" also
    # of `norm`) are those of all places, empty ones too, where a picture has few regions: "group_norm" has none.
    head_norm: str | None = None
    box_variance: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    box_rule: str = "edges"  # "pixels": a box ends at its last pixel, see geometry/boxes.py
    box_loss: str = "smooth_l1"  # "l1", "giou", "diou", "ciou"
    box_loss_weight: float = 1.0
    smooth_l1_beta: float = 1.0 / 9.0
    class_agnostic_boxes: bool = False  # one box a region instead of one a class

    # Cascade R-CNN: box heads one after the other, such as (0.5, 0.6, 0.7): each one's positive threshold. They take
    # the place of roi_positive_threshold, box_variance and class_agnostic_boxes.
    cascade_thresholds: tuple[float, ...] = ()
    cascade_box_variances: tuple[tuple[float, ...], ...] = (  # Detectron2's
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (1 / 30, 1 / 30, 1 / 15, 1 / 15),
    )

    # Mask head
    with_mask: bool = True
    mask_head: str = "fcn"  # "mlp": dense layers; "point_rend": a coarse mask, refined at its edges
    mask_activation: str = "sigmoid"  # "softmax": classes compete at each pixel
    class_agnostic_masks: bool = False  # one mask a region instead of one a class
    mask_pool_size: int = 14  # masks are twice as fine, "point_rend"'s eight times, "c4"'s as fine
    mask_head_convs: int = 4
    mask_head_channels: int = 256
    mask_head_units: int = 1024  # of "mlp" and the coarse mask of "point_rend"
    paste_rule: str = "half_pixel"  # "torchvision", "matterport": into boxes of whole pixels

    # Keypoint head. Like the classes, the names come from the data, and with them the pairs that a mirror swaps and the
    # lines to draw, as places among the names.
    with_keypoints: bool = False
    keypoint_names: tuple[str, ...] = ()
    keypoint_flip_pairs: tuple[tuple[int, ...], ...] = ()
    keypoint_skeleton: tuple[tuple[int, ...], ...] = ()
    keypoint_sigmas: tuple[float, ...] | None = None  # of COCO's OKS; None: see CocoEvaluator
    keypoint_pool_size: int = 14  # heatmaps are four times as fine
    keypoint_head_convs: int = 8
    keypoint_head_channels: int = 512
    keypoint_rule: str = (
        "window"  # "torchvision": its search, its scores, pixels' numbers for their centres
    )

    # Detections
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    best_class_only: bool = False  # True: at most one detection a region
    suppression: str = "hard"  # "soft_linear", "soft_gaussian"
    soft_nms_sigma: float = 0.5  # of "soft_gaussian"
    max_detections: int = 100

    convolution: str = "auto"  # "direct": never by Winograd's algorithm, see ConvNorm

    # Only operations that XLA, JAX, ONNX and LiteRT have, with fixed shapes; slower in a TensorFlow graph
    portable: bool = False

    def __post_init__(self):
        check_types(self)
        check_ranges(self)

    @property
    def num_classes(self) -> int:
        """How many classes there are, the background not counted."""
        return len(self.class_names)

    @property
    def box_stages(self) -> dict[str, "MaskRCNNConfig"]:
        """Each box head as a configuration without cascade, by what the names of its layer and losses end in."""
        stages = zip(self.cascade_thresholds, self.cascade_box_variances)
        return {
            f"_stage{number}" if number > 1 else "": dataclasses.replace(
                self,
                roi_positive_threshold=threshold,
                box_variance=variance,
                class_agnostic_boxes=True,
                cascade_thresholds=(),
            )
            for number, (threshold, variance) in enumerate(stages, start=1)
        } or {"": self}

    @property
    def mask_size(self) -> int:
        """Height and width of a predicted mask, in its box's frame."""
        if self.pyramid == "c4":
            return self.mask_pool_size
        return (8 if self.mask_head == "point_rend" else 2) * self.mask_pool_size

    @property
    def num_keypoints(self) -> int:
        """How many kinds of keypoints an object has."""
        return len(self.keypoint_names)

    @property
    def heatmap_size(self) -> int:
        """Height and width of a keypoint's heatmap, in its region's frame."""
        return 4 * self.keypoint_pool_size


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How pictures become batches."""

    batch_size: int = 2
    flip: bool = True
    seed: int = 0
    on_error: str = "raise"  # or "skip": leave faulty items out and list them
    format: str = "auto"  # or a name, see data/formats.py

    def __post_init__(self):
        check_types(self)
        require(self.batch_size >= 1, "data.batch_size", self.batch_size, "at least 1")
        require(self.seed >= 0, "data.seed", self.seed, "0 or more")
        require_one_of("data.on_error", self.on_error, ("raise", "skip"))


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """What training may do to pictures beside the mirror of `DataConfig.flip`; by default nothing.

    See `data/augmentation.py`; `kmaskrcnn inspect --augmented` draws it.
    """

    min_sizes: tuple[int, ...] = ()  # multi-scale: one of these instead of the model's `min_size`
    scale_jitter: tuple[float, ...] = (1.0, 1.0)  # then this factor, and a crop: (0.1, 2.0) is LSJ
    vertical_flip: float = 0.0  # probability: for pictures that have no above and below
    rotation: float = 0.0  # degrees, either way
    brightness: float = 0.0  # factors 1 - x ... 1 + x
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # of a turn of the colour wheel, either way
    cutout: int = 0  # rectangles covered, at most
    copy_paste: float = 0.0  # probability of another picture's objects

    def __post_init__(self):
        check_types(self)
        check_augmentation(self)

    @property
    def is_none(self) -> bool:
        """Whether pictures are left as they are."""
        return self == AugmentationConfig()


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast and from what weights a model trains.

    The schedule is a linear warm-up, then `"step"` (tenfold drops at 2/3 and 8/9 of the steps) or `"cosine"`.
    """

    epochs: int = 12
    optimizer: str = "sgd"  # or "adamw"
    learning_rate: float = 0.02
    base_batch_size: int | None = None  # pictures an update that the rate is for; None: any number
    momentum: float = 0.9
    weight_decay: float = 1e-4  # not of biases and norms; "sgd": as if added to the gradient
    layer_decay: float | None = None  # of "adamw": the rate of a backbone's stage in the next one's
    ema_momentum: float | None = None  # evaluate and keep an average of the weights, such as 0.999
    schedule: str = "step"
    warmup_steps: int = 500
    gradient_clip_norm: float | None = None
    gradient_accumulation_steps: int | None = None
    trainable_stages: int = 3  # of the backbone, counted from its end; 5: all, 0: heads alone
    backbone_weights: str | None = None  # "imagenet" or a file
    initial_weights: str | None = None  # of a whole model instead: a preset or what `train` wrote
    mixed_precision: str | None = None  # "mixed_bfloat16" or "mixed_float16"
    evaluate_every: int = 1  # epochs
    tensorboard: bool = False  # losses, AP and pictures for TensorBoard, too
    seed: int = 0
    deterministic: bool = False  # the same weights, bit by bit, at every run; slower

    def __post_init__(self):
        check_types(self)
        check_training(self)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One YAML file in `configs/`: a model, its data, what is done to the pictures, and its training."""

    model: MaskRCNNConfig = dataclasses.field(default_factory=MaskRCNNConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)

    def __post_init__(self):
        check_recipe(self)


# ---------------------------------------------------------------------------------------------------------------------
# YAML


def load_yaml(path: str | Path, cls: type = Recipe):
    """Read a configuration from a YAML file; errors name the file."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        return from_dict(cls, values)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (yaml.YAMLError, ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def save_yaml(config, path: str | Path) -> None:
    """Write a configuration as YAML that `load_yaml` reads back equal."""
    Path(path).write_text(yaml.safe_dump(to_dict(config), sort_keys=False), encoding="utf-8")


def override(recipe: Recipe, assignments: typing.Iterable[str]) -> Recipe:
    """Apply `key=value` strings to a recipe, as `--set` on the command line gives them.

    Args:
        recipe: what to start from.
        assignments: `"training.epochs=3"`; the part may be left out where one part alone has the key.
    """
    values = to_dict(recipe)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: expected key=value")
        part, _, name = full_key(key.strip(), values).partition(".")
        try:
            values[part][name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment!r}: the value is not YAML: {error}") from error
    return from_dict(Recipe, values)


def fit_to_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Statistics of RGB pictures for another number of channels: those of grey, or of grey added."""
    grey = sum(values) / len(values)
    if channels < len(values):
        return (grey,) * channels
    return (*values, *(grey,) * (channels - len(values)))
