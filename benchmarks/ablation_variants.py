"""The variants that `benchmarks/ablations.py` trains, and the tables of the paper that they make up."""

import dataclasses
from pathlib import Path

from kmaskrcnn.config import DataConfig, MaskRCNNConfig, Recipe, TrainingConfig

SHARED = Path(__file__).parents[2] / "shared/data"
WEIGHTS = SHARED / "weights_mobilenet_v2/mobilenet_v2_1.0_224_notop_folded.npz"

# For one or two objects of 55 to 90 pixels in pictures of 128: 3 to 6 cells at stride 16.
SMALL = MaskRCNNConfig(
    min_size=128,
    max_size=192,
    backbone="mobilenet_v2",
    fpn_channels=48,
    fpn_norm="batch_norm",  # a new pyramid learns much sooner with it
    anchor_scales=(16.0, 32.0, 64.0, 96.0, 128.0),
    rpn_anchors_per_image=64,
    rpn_pre_nms_topk_train=300,
    rpn_pre_nms_topk=300,
    rpn_post_nms_topk_train=100,
    rpn_post_nms_topk=100,
    rois_per_image=16,
    roi_positive_fraction=0.5,
    roi_align="crop_and_resize",  # the same whether kernels are built or not
    box_head_units=256,
    mask_head_convs=2,
    mask_head_channels=32,
    mask_head_units=256,
    keypoint_head_convs=2,
    keypoint_head_channels=48,
    max_detections=20,
)
TRAINING = TrainingConfig(
    epochs=6,
    optimizer="adamw",
    learning_rate=2e-3,
    weight_decay=0.01,
    schedule="cosine",
    warmup_steps=50,
    gradient_clip_norm=10.0,
    trainable_stages=2,
    backbone_weights=str(WEIGHTS) if WEIGHTS.exists() else "imagenet",
)
FROM_SCRATCH = {"backbone_weights": None, "trainable_stages": 5}
# What a dataset changes of the model, and its (batch size, epochs).
DATA = {
    "fine": ({}, 8, 6),
    "persons": ({}, 8, 6),
    "nuclei": (
        {
            "min_size": 256,
            "max_size": 384,
            "anchor_scales": (12.0, 24.0, 48.0, 96.0, 192.0),
            "rpn_anchors_per_image": 128,
            "rpn_post_nms_topk_train": 200,
            "rpn_post_nms_topk": 200,
            "rois_per_image": 48,
            "max_detections": 100,
        },
        4,
        6,
    ),
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One model to train: on which data, with which fields of its configuration and its training changed."""

    data: str
    model: dict = dataclasses.field(default_factory=dict)
    training: dict = dataclasses.field(default_factory=dict)

    def recipe(self, seed):
        """What `train_and_evaluate` trains."""
        of_data, batch_size, epochs = DATA[self.data]
        return Recipe(
            model=dataclasses.replace(SMALL, **{**of_data, **self.model}),
            data=DataConfig(batch_size=batch_size, seed=seed),
            training=dataclasses.replace(
                TRAINING, **{"epochs": epochs, "seed": seed, **self.training}
            ),
        )


def _from_scratch(backbone, **model):
    model |= {"backbone": backbone, "norm": "batch_norm"}
    return Variant("fine", model, training=FROM_SCRATCH)


# Regions of 8 x 8 cells where the paper has 14 x 14, and few of them: the fifth stage on every region is what costs.
C4 = {
    "pyramid": "c4",
    "rois_per_image": 8,
    "box_pool_size": 8,
    "box_head_dense": 0,
    "mask_head_convs": 0,
    "rpn_pre_nms_topk": 900,
    "rpn_pre_nms_topk_train": 900,
}


# Pictures twice as large: at stride 32 an object is as many cells wide as at stride 16 in the others.
P5 = {
    "roi_levels": ("P5",),
    "min_size": 256,
    "max_size": 384,
    "anchor_scales": (32.0, 64.0, 128.0, 192.0, 256.0),
}
# Regions that see the end of the trunk alone: at the full rate of learning, those of P5 learned nothing in 240 steps.
GENTLY = {"layer_decay": 0.1}
NO_MASK, KEYPOINTS = {"with_mask": False}, {"with_keypoints": True}
LONG = {"epochs": 12}
VARIANTS = {
    "pool_16": Variant("fine", {"roi_pooling": "pool", "roi_levels": ("P4",)}),
    "align_16": Variant("fine", {"roi_levels": ("P4",)}),
    "pool_32": Variant("fine", {"roi_pooling": "pool"} | P5, GENTLY),
    "align_32": Variant("fine", P5, GENTLY),
    "default": Variant("fine"),
    "softmax": Variant("fine", {"mask_activation": "softmax"}),
    "default_long": Variant("fine", training=LONG),
    "softmax_long": Variant("fine", {"mask_activation": "softmax"}, LONG),
    "warp_16": Variant("fine", {"roi_pooling": "warp", "roi_levels": ("P4",)}),
    "warp_32": Variant("fine", {"roi_pooling": "warp"} | P5, GENTLY),
    "mlp": Variant("fine", {"mask_head": "mlp"}),
    "no_mask": Variant("fine", NO_MASK),
    "persons_boxes": Variant("persons", NO_MASK),
    "persons_masks": Variant("persons"),
    "persons_keypoints": Variant("persons", NO_MASK | KEYPOINTS),
    "persons_all": Variant("persons", KEYPOINTS),
    "persons_pool": Variant("persons", NO_MASK | KEYPOINTS | {"roi_pooling": "pool"}),
    "nuclei_pool": Variant("nuclei", {"roi_pooling": "pool"}),
    "nuclei_warp": Variant("nuclei", {"roi_pooling": "warp"}),
    "nuclei_default": Variant("nuclei"),
    "nuclei_mlp": Variant("nuclei", {"mask_head": "mlp"}),
    "nuclei_no_mask": Variant("nuclei", NO_MASK),
    "resnet18": _from_scratch("resnet18"),
    "resnet34": _from_scratch("resnet34"),
    "resnet50": _from_scratch("resnet50"),
    "c4": Variant("fine", C4, GENTLY | {"epochs": 4}),
    "fpn": Variant("fine", {"rois_per_image": 8}, GENTLY | {"epochs": 4}),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """One comparison: which numbers, of which variants; the first row is what the others are held against.

    Args:
        title: what is compared, and where in the paper.
        columns: tasks and metrics, the decisive one first.
        rows: (variant, its name, the paper's numbers for the same columns).
    """

    title: str
    columns: tuple
    rows: tuple


MASK_COLUMNS = ("mask AP75", "mask AP", "mask AP50")
POSE_COLUMNS = ("keypoint AP", "box AP", "mask AP")
TABLES = {
    "roi_16": Table(
        "RoI layer at stride 16 (paper: table 2c, R50-C4)",
        MASK_COLUMNS,
        (
            ("pool_16", "RoIPool", (26.4, 26.9, 48.8)),
            ("warp_16", "RoIWarp", (27.1, 27.1, 48.9)),
            ("align_16", "RoIAlign", (31.5, 30.3, 51.2)),
        ),
    ),
    "roi_32": Table(
        "RoI layer at stride 32 (paper: table 2d, R50-C5)",
        MASK_COLUMNS,
        (
            ("pool_32", "RoIPool", (21.6, 23.6, 46.5)),
            ("warp_32", "RoIWarp", (None, None, None)),
            ("align_32", "RoIAlign", (32.1, 30.9, 51.8)),
        ),
    ),
    "softmax": Table(
        "Classes that compete, or not (paper: table 2b, R50-C4)",
        MASK_COLUMNS,
        (
            ("softmax", "softmax", (25.1, 24.8, 44.1)),
            ("default", "sigmoid", (31.5, 30.3, 51.2)),
        ),
    ),
    "softmax_long": Table(
        "Classes that compete, or not, trained twice as long (paper: table 2b, R50-C4)",
        MASK_COLUMNS,
        (
            ("softmax_long", "softmax", (25.1, 24.8, 44.1)),
            ("default_long", "sigmoid", (31.5, 30.3, 51.2)),
        ),
    ),
    "mask_head": Table(
        "Mask head (paper: table 2e, R50-FPN)",
        MASK_COLUMNS,
        (("mlp", "MLP", (32.8, 31.5, 53.7)), ("default", "FCN", (35.3, 33.6, 55.2))),
    ),
    "mask_branch": Table(
        "What learning masks does for boxes (paper: table 3, R101-FPN, test-dev)",
        ("box AP", "box AP50", "box AP75"),
        (
            ("no_mask", "boxes alone", (37.3, 59.6, 40.3)),
            ("default", "boxes and masks", (38.2, 60.3, 41.7)),
        ),
    ),
    "keypoints": Table(
        "Persons: boxes, masks and keypoints together (paper: table 5, R50-FPN)",
        POSE_COLUMNS,
        (
            ("persons_boxes", "boxes", (None, 52.5, None)),
            ("persons_masks", "boxes, masks", (None, 53.6, 45.8)),
            ("persons_keypoints", "boxes, keypoints", (64.2, 50.7, None)),
            ("persons_all", "all three", (64.7, 52.0, 45.1)),
        ),
    ),
    "keypoint_roi": Table(
        "RoI layer and keypoints (paper: table 6, R50-FPN)",
        ("keypoint AP", "keypoint AP50", "keypoint AP75"),
        (
            ("persons_pool", "RoIPool", (59.8, 86.2, 66.7)),
            ("persons_keypoints", "RoIAlign", (64.2, 86.6, 69.7)),
        ),
    ),
    "nuclei_roi": Table(
        "Nuclei: RoI layer (paper: table 2c, COCO)",
        MASK_COLUMNS,
        (
            ("nuclei_pool", "RoIPool", (26.4, 26.9, 48.8)),
            ("nuclei_warp", "RoIWarp", (27.1, 27.1, 48.9)),
            ("nuclei_default", "RoIAlign", (31.5, 30.3, 51.2)),
        ),
    ),
    "nuclei_head": Table(
        "Nuclei: mask head (paper: table 2e, COCO)",
        MASK_COLUMNS,
        (
            ("nuclei_mlp", "MLP", (32.8, 31.5, 53.7)),
            ("nuclei_default", "FCN", (35.3, 33.6, 55.2)),
        ),
    ),
    "nuclei_branch": Table(
        "Nuclei: what learning masks does for boxes (paper: table 3, COCO)",
        ("box AP", "box AP50", "box AP75"),
        (
            ("nuclei_no_mask", "boxes alone", (37.3, 59.6, 40.3)),
            ("nuclei_default", "boxes and masks", (38.2, 60.3, 41.7)),
        ),
    ),
    "pyramid": Table(
        "C4 and FPN (paper: table 2a, R50)",
        MASK_COLUMNS,
        (("c4", "C4", (31.5, 30.3, 51.2)), ("fpn", "FPN", (35.3, 33.6, 55.2))),
    ),
    "depth": Table(
        "Depth, from random weights (paper: table 2a, R50 -> R101-FPN from ImageNet's)",
        MASK_COLUMNS,
        (
            ("resnet18", "ResNet-18", (None, None, None)),
            ("resnet34", "ResNet-34", (None, None, None)),
            ("resnet50", "ResNet-50 (paper: 50, and 101: 37.5, 35.4, 57.3)", (35.3, 33.6, 55.2)),
        ),
    ),
}
