"""Others' networks by name: whose tables they follow, and the configuration that their weights assume."""

import dataclasses

from kmaskrcnn.config import MaskRCNNConfig, fit_to_channels
from kmaskrcnn.weights import coco, matterport, tables
from kmaskrcnn.weights.coco import COCO_80, COCO_80_IDS, COCO_90
from kmaskrcnn.weights.convert import num_classes_of, translate


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network of others.

    Args:
        origin: whose names its weights have.
        settings: fields of `MaskRCNNConfig` that differ from the defaults.
        class_names: of its published weights.
    """

    origin: tables.Origin
    settings: dict
    class_names: tuple = ()


# RGB statistics of ImageNet on the scale 0-255, as all but Detectron2's first models use them.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)

_TORCHVISION = {
    "backbone": "resnet50",
    "size_divisor": 32,
    "resize_rule": "torchvision",
    "pixel_mean": _MEAN,
    "pixel_std": _STD,
    "anchor_rule": "torchvision",
    "rpn_post_nms_topk_train": 2000,
    "roi_aligned": False,
    "roi_sampling_ratio": 2,
    "paste_rule": "torchvision",
}
# With its COCO_V1 weights torchvision sets epsilon to 0: batch norms were folded when it was trained.
# A model that somebody trained from ImageNet weights has 1e-5: pass `norm_epsilon=1e-5`.
_TORCHVISION_V1 = {**_TORCHVISION, "norm": "frozen_batch_norm", "norm_epsilon": 0.0}
_TORCHVISION_V2 = {
    **_TORCHVISION,
    "norm": "batch_norm",
    "norm_epsilon": 1e-5,
    "fpn_norm": "batch_norm",
    "head_norm": "batch_norm",
    "rpn_convs": 2,
    "box_head_convs": 4,
    "box_head_dense": 1,
}
_BOXES = {"with_mask": False}
_KEYPOINTS = {
    "with_mask": False,
    "with_keypoints": True,
    "keypoint_names": coco.PERSON_KEYPOINTS,
    "keypoint_flip_pairs": coco.PERSON_FLIP_PAIRS,
    "keypoint_skeleton": coco.PERSON_SKELETON,
}

_DETECTRON2 = {
    "size_divisor": 32,
    "resize_rule": "detectron2",
    "pixel_mean": _MEAN,
    "pixel_std": (1.0, 1.0, 1.0),
    "stride_in_1x1": True,
    "norm": "frozen_batch_norm",
    "norm_epsilon": 1e-5,
    "rpn_min_box_size": 1e-6,  # it keeps whatever has an area
    "roi_aligned": True,
    "roi_sampling_ratio": 0,
    "smooth_l1_beta": 0.0,
}
_R50, _R101 = {"backbone": "resnet50"}, {"backbone": "resnet101"}
_X101 = {"backbone": "resnext101_32x8d", "stride_in_1x1": False, "pixel_std": _STD}
_ONE_LEVEL = {
    "size_divisor": 1,
    "rpn_pre_nms_topk_train": 12000,
    "rpn_pre_nms_topk": 6000,
    "rpn_post_nms_topk_train": 2000,
}
_DC5 = {**_ONE_LEVEL, "pyramid": "dc5"}
_C4 = {
    **_ONE_LEVEL,
    "pyramid": "c4",
    "box_pool_size": 14,
    "box_head_dense": 0,
    "mask_head_convs": 0,
}

ARCHITECTURES = {
    "maskrcnn_resnet50_fpn": Architecture(tables.TORCHVISION, _TORCHVISION_V1, COCO_90),
    "maskrcnn_resnet50_fpn_v2": Architecture(tables.TORCHVISION, _TORCHVISION_V2, COCO_90),
    "fasterrcnn_resnet50_fpn": Architecture(
        tables.TORCHVISION, {**_TORCHVISION_V1, **_BOXES}, COCO_90
    ),
    "fasterrcnn_resnet50_fpn_v2": Architecture(
        tables.TORCHVISION, {**_TORCHVISION_V2, **_BOXES}, COCO_90
    ),
    "keypointrcnn_resnet50_fpn": Architecture(
        tables.TORCHVISION,
        {**_TORCHVISION_V1, **_KEYPOINTS, "keypoint_rule": "torchvision"},
        ("person",),
    ),
    "mask_rcnn_R_50_FPN": Architecture(tables.DETECTRON2, {**_DETECTRON2, **_R50}, COCO_80),
    "mask_rcnn_R_101_FPN": Architecture(tables.DETECTRON2, {**_DETECTRON2, **_R101}, COCO_80),
    "faster_rcnn_R_50_FPN": Architecture(
        tables.DETECTRON2, {**_DETECTRON2, **_R50, **_BOXES}, COCO_80
    ),
    "faster_rcnn_R_101_FPN": Architecture(
        tables.DETECTRON2, {**_DETECTRON2, **_R101, **_BOXES}, COCO_80
    ),
    "keypoint_rcnn_R_50_FPN": Architecture(
        tables.DETECTRON2, {**_DETECTRON2, **_R50, **_KEYPOINTS}, ("person",)
    ),
    "keypoint_rcnn_R_101_FPN": Architecture(
        tables.DETECTRON2, {**_DETECTRON2, **_R101, **_KEYPOINTS}, ("person",)
    ),
    **{
        f"matterport_resnet{depth}": Architecture(
            matterport.ORIGIN, {**matterport.SETTINGS, "backbone": f"resnet{depth}"}, COCO_80
        )
        for depth in (50, 101)
    },
    "mask_rcnn_X_101_32x8d_FPN": Architecture(tables.DETECTRON2, {**_DETECTRON2, **_X101}, COCO_80),
    "faster_rcnn_X_101_32x8d_FPN": Architecture(
        tables.DETECTRON2, {**_DETECTRON2, **_X101, **_BOXES}, COCO_80
    ),
    "keypoint_rcnn_X_101_32x8d_FPN": Architecture(
        tables.DETECTRON2, {**_DETECTRON2, **_X101, **_KEYPOINTS}, ("person",)
    ),
    # Detectron2's models on one level.
    **{
        f"{task}_rcnn_R_{depth}_{kind}": Architecture(
            tables.DETECTRON2,
            {**_DETECTRON2, **pyramid, "backbone": f"resnet{depth}", "with_mask": task == "mask"},
            COCO_80,
        )
        for task in ("mask", "faster")
        for depth in (50, 101)
        for kind, pyramid in (("C4", _C4), ("DC5", _DC5))
    },
    # Trunks: the detector around them is ours.
    **{
        name: Architecture(tables.TORCHVISION_CLASSIFIER, {"backbone": name})
        for name in (
            *("resnet18", "resnet34", "resnet50", "resnet101"),
            *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d"),
        )
    },
    "X-101-32x8d": Architecture(tables.CAFFE2_TRUNK, {**_X101, "pixel_mean": _MEAN}),
    **{
        f"R-{depth}": Architecture(
            tables.CAFFE2_TRUNK,
            {
                "backbone": f"resnet{depth}",
                "stride_in_1x1": True,
                "pixel_mean": _MEAN,
                "pixel_std": (1.0, 1.0, 1.0),
            },
        )
        for depth in (50, 101)
    },
    **{
        f"ResNet{depth}": Architecture(
            tables.KERAS_TRUNK,
            {
                "backbone": f"resnet{depth}",
                "stride_in_1x1": True,
                "norm_epsilon": 1.001e-5,
                "pixel_mean": (123.68, 116.779, 103.939),
                "pixel_std": (1.0, 1.0, 1.0),
            },
        )
        for depth in (50, 101)
    },
}

ORIGINS = (*tables.ORIGINS, matterport.ORIGIN)

# (blocks of C4, whether blocks have three convolutions, groups of the second) -> the trunk
_TRUNKS = {
    (2, False, 1): "resnet18",
    (6, False, 1): "resnet34",
    (6, True, 1): "resnet50",
    (23, True, 1): "resnet101",
    (6, True, 32): "resnext50_32x4d",
    (23, True, 32): "resnext101_32x8d",
    (23, True, 64): "resnext101_64x4d",
}


def find_architecture(name):
    """The `Architecture` of that name.

    Raises:
        ValueError: for an unknown name, listing the known ones.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"architecture: got {name!r}, accepted are {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def recognise(arrays):
    """Finds, by the names in a file, which network its weights are of.

    Args:
        arrays: name -> array, as `read_weights` gives them.

    Returns:
        A name among `ARCHITECTURES`.

    Raises:
        ValueError: if no network of the table has such names.
    """
    fitting = {origin.name: translate(arrays, origin)[0] for origin in ORIGINS}
    origin = max(fitting, key=lambda name: len(fitting[name]))
    traits = _traits(fitting[origin])
    for name, architecture in ARCHITECTURES.items():
        settings = dataclasses.asdict(MaskRCNNConfig()) | architecture.settings
        if architecture.origin.name == origin and all(
            settings[key] == value for key, value in traits.items()
        ):
            return name
    shown = ", ".join(list(arrays)[:4])
    raise ValueError(f"names such as {shown} are of none of {', '.join(ARCHITECTURES)}")


def _traits(translated):
    """The fields of a configuration that show in the names of its weights."""
    blocks = {path.split("_")[1] for path in translated if path.startswith("C4_block")}
    kind = len(blocks), "C2_block1_conv3/kernel" in translated, _groups(translated)
    traits = {"backbone": _TRUNKS.get(kind)}
    if num_classes_of(translated) is not None:
        traits["pyramid"] = _pyramid(translated)
        traits["with_mask"] = "mask_head/logits/kernel" in translated
        traits["with_keypoints"] = "keypoint_head/logits/kernel" in translated
        traits["rpn_convs"] = sum(f"rpn_head/conv{i}/kernel" in translated for i in range(1, 9))
        traits["box_head_convs"] = sum(f"box_head/conv{i}/kernel" in translated for i in range(9))
    return traits


def _groups(translated):
    """In how many groups the 3x3 convolutions behind a 1x1 see its channels."""
    first, second = (translated.get(f"C2_block1_conv{i}/kernel") for i in (1, 2))
    return 1 if first is None or second is None else first.shape[-1] // second.shape[2]


def _pyramid(translated):
    if any(path.startswith("fpn/") for path in translated):
        return "fpn"
    return "dc5" if "box_head/dense1/kernel" in translated else "c4"


def make_config(architecture, translated_classes=None, class_names=None, **changes):
    """The configuration of a network of others.

    Args:
        architecture: an `Architecture`.
        translated_classes: K of its weights, where known.
        class_names: names for the model; by default those of the published weights, or `class 1` ...
            `class K` where a file has another number of classes.
        **changes: fields that shall differ, such as `score_threshold` or `in_channels`.

    Returns:
        `MaskRCNNConfig`. Its `category_ids` are COCO's own where the names are COCO's 80, whose ids have gaps; those
        of its 90 and of persons alone are label + 1, as without any.
    """
    names = class_names or architecture.class_names
    if class_names is None and translated_classes not in (None, len(names)):
        names = tuple(f"class {i + 1}" for i in range(translated_classes))
    settings = {**architecture.settings, **changes}
    if names:
        settings["class_names"] = tuple(names)
    if tuple(names) == COCO_80:
        settings.setdefault("category_ids", COCO_80_IDS)
    channels = settings.get("in_channels", 3)
    for key in ("pixel_mean", "pixel_std"):
        if key in settings and key not in changes and settings[key]:
            settings[key] = fit_to_channels(settings[key], channels)
    return MaskRCNNConfig(**settings)
