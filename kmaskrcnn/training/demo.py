"""The whole way in 5 to 25 minutes on two CPU cores: make pictures, train, evaluate, predict, draw."""

from pathlib import Path

from kmaskrcnn.config import DataConfig, MaskRCNNConfig, Recipe, TrainingConfig
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.training.trainer import train

# A model for small pictures with a handful of objects: a tenth of the channels and regions of the real one.
DEMO_RECIPE = Recipe(
    model=MaskRCNNConfig(
        min_size=128,
        max_size=192,
        backbone="resnet18",
        norm="batch_norm",
        fpn_channels=64,
        anchor_scales=(16.0, 32.0, 64.0, 96.0, 128.0),
        rpn_anchors_per_image=64,
        rpn_pre_nms_topk_train=300,
        rpn_pre_nms_topk=300,
        rpn_post_nms_topk_train=100,
        rpn_post_nms_topk=100,
        rois_per_image=48,
        box_head_units=256,
        mask_head_channels=64,
        max_detections=30,
    ),
    data=DataConfig(batch_size=8),
    training=TrainingConfig(
        epochs=14,
        optimizer="adamw",
        learning_rate=2e-3,
        weight_decay=0.01,
        schedule="cosine",
        warmup_steps=100,
        gradient_clip_norm=10.0,
        trainable_stages=5,
        evaluate_every=4,
    ),
)


def run_demo(
    output,
    recipe: Recipe = DEMO_RECIPE,
    num_train: int = 600,
    num_validation: int = 80,
    verbose="auto",
):
    """Write a dataset of shapes into `output`, train on it and draw what the model finds.

    Args:
        output: a folder, made if need be.
        recipe: what to train.
        num_train, num_validation: pictures to make.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        AP of boxes and masks on the validation pictures, as `train` gives it.
    """
    output = Path(output)
    shapes = write_shapes(
        output / "shapes",
        num_train=num_train,
        num_validation=num_validation,
        image_size=(128, 128),
        max_objects=4,
    )
    train_data = shapes.train_json, shapes.train_images
    validation_data = shapes.validation_json, shapes.validation_images
    return train(recipe, train_data, validation_data, output, pictures=8, verbose=verbose)
