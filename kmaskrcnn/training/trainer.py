"""One call from a recipe and two datasets to a trained, evaluated model and its pictures."""

import dataclasses
import json
import logging
from pathlib import Path

import keras

from kmaskrcnn.config import MaskRCNNConfig, Recipe, save_yaml
from kmaskrcnn.data.formats import load_dataset
from kmaskrcnn.data.pictures import read_picture, write_picture
from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import CocoDataset
from kmaskrcnn.layers.backbones import freeze_backbone
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.serving.predictor import Predictor
from kmaskrcnn.training.callbacks import AverageWeights, CocoEvaluation
from kmaskrcnn.training.optimizers import make_optimizer
from kmaskrcnn.visualize import draw_detections, plot_history
from kmaskrcnn.weights.backbones import load_backbone_weights

LEGIBLE_SIZE = 800  # pixels; smaller pictures are enlarged before names are written on them

logger = logging.getLogger(__name__)


def train(recipe: Recipe, train_data, validation_data, output, pictures: int = 4, verbose="auto"):
    """Train a model as a recipe says, and write down all that one wants to know of it.

    Writes into `output`: `model.keras` (the last epoch's weights, or their averages), `recipe.yaml`, `metrics.json`
    (AP of boxes and masks), `history.csv` (losses and AP by epoch), `history.png` and drawn
    `pictures/`.

    Args:
        recipe: model, data and training; names of classes and keypoints are taken from the training data.
        train_data, validation_data: `(annotations, image folder)`, as `load_dataset` takes them.
        output: a folder, made if need be.
        pictures: how many validation pictures to draw.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        `{"box": {"AP": ...}, "mask": {...}}`, as `evaluate_model` gives it.

    Raises:
        DatasetError: naming file, image id and annotation id, before training starts.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(recipe.training.seed)
    reading = {"format": recipe.data.format, "on_error": recipe.data.on_error}
    train_records = load_dataset(*train_data, **reading)
    validation_records = load_dataset(
        *validation_data, class_names=train_records.class_names, **reading
    )
    recipe = dataclasses.replace(recipe, model=name_classes(recipe.model, train_records))
    save_yaml(recipe, output / "recipe.yaml")

    train_dataset = recipe_dataset(recipe, train_records, training=True)
    validation_dataset = recipe_dataset(recipe, validation_records, training=False)
    model = build_model(recipe)
    model.compile(optimizer=make_optimizer(recipe, model, int(train_dataset.cardinality())))
    evaluation = CocoEvaluation(
        validation_dataset,
        validation_records,
        every=recipe.training.evaluate_every,
        sigmas=recipe.model.keypoint_sigmas,
    )
    averages = [] if recipe.training.ema_momentum is None else [AverageWeights()]
    history = keras.callbacks.CSVLogger(str(output / "history.csv"))
    model.fit(
        train_dataset,
        epochs=recipe.training.epochs,
        callbacks=[*averages, evaluation, history],
        shuffle=False,  # the dataset shuffles itself
        verbose=verbose,
    )
    model.save(output / "model.keras")
    (output / "metrics.json").write_text(json.dumps(evaluation.metrics, indent=2))
    plot_history(output / "history.csv", output / "history.png")
    draw_predictions(model, validation_records, output / "pictures", pictures)
    return evaluation.metrics


def name_classes(config: MaskRCNNConfig, records: CocoDataset) -> MaskRCNNConfig:
    """The configuration with the names of the data's classes and, where it has them, keypoints."""
    if config.in_channels != 3:
        raise ValueError(
            f"in_channels: got {config.in_channels}; datasets of picture files yield 3"
        )
    named = {"class_names": records.class_names, "category_ids": tuple(records.category_ids)}
    if config.with_keypoints and records.keypoints:
        names = records.keypoints
        pairs = config.keypoint_flip_pairs or names.flip_pairs
        named |= {"keypoint_names": names.names, "keypoint_flip_pairs": pairs}
        named["keypoint_skeleton"] = names.skeleton
    return dataclasses.replace(config, **named)


def build_model(recipe: Recipe) -> MaskRCNN:
    """The model that a recipe describes, with its initial weights, ready to compile."""
    model = MaskRCNN(recipe.model, dtype=recipe.training.mixed_precision)
    if recipe.training.backbone_weights:
        load_backbone_weights(model.backbone, recipe.training.backbone_weights)
        logger.info("backbone weights from %s", recipe.training.backbone_weights)
    freeze_backbone(model.backbone, recipe.training.trainable_stages)
    return model


def recipe_dataset(recipe: Recipe, records: CocoDataset, training: bool):
    """The `(inputs, targets)` batches that a recipe makes of records."""
    return make_dataset(
        records,
        batch_size=recipe.data.batch_size,
        min_size=recipe.model.min_size,
        max_size=recipe.model.max_size,
        size_divisor=recipe.model.size_divisor,
        resize_rule=recipe.model.resize_rule,
        training=training,
        flip=0.5 if training and recipe.data.flip else 0.0,
        seed=recipe.data.seed,
        with_masks=recipe.model.with_mask,
        with_keypoints=recipe.model.with_keypoints,
        keypoint_flip_pairs=recipe.model.keypoint_flip_pairs,
        augmentation=recipe.augmentation if training else None,
    )


def draw_predictions(model, records: CocoDataset, folder, count: int) -> None:
    """Draw what a model finds in the first pictures of a dataset, as PNG files in `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(model)
    for record in records.images[:count]:
        picture = read_picture(record.path, (record.height, record.width))
        scale = max(1, LEGIBLE_SIZE // max(picture.shape))
        drawn = draw_detections(picture, predictor(picture), scale=scale)
        write_picture(folder / f"{record.image_id}_{Path(record.path).stem}.png", drawn)
