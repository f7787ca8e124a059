"""One call from a recipe and two datasets to a trained, evaluated model and its pictures."""

import dataclasses
import json
import logging
import os
from pathlib import Path

import keras

from kmaskrcnn.config import MaskRCNNConfig, Recipe, load_yaml, save_yaml, to_dict
from kmaskrcnn.data.advice import log_advice
from kmaskrcnn.data.formats import load_dataset
from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import CocoDataset
from kmaskrcnn.layers.backbones import freeze_backbone
from kmaskrcnn.layers.norms import BATCH, FROZEN, GROUP, SYNC
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.training.callbacks import AverageWeights, CocoEvaluation
from kmaskrcnn.training.monitors import NanGuard, PredictionPictures, ResourceUse
from kmaskrcnn.training.optimizers import make_optimizer
from kmaskrcnn.training.resuming import Resume
from kmaskrcnn.visualize import plot_history
from kmaskrcnn.weights.backbones import load_backbone_weights
from kmaskrcnn.weights.presets import OpenedPreset

logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    train_data,
    validation_data,
    output,
    pictures: int = 4,
    resume: bool = False,
    verbose="auto",
):
    """Train a model as a recipe says, and write down all that one wants to know of it.

    Writes into `output`: `model.keras` (the last epoch's weights, or their averages), `recipe.yaml`, `metrics.json`
    (AP of boxes and masks), `history.csv` (losses and AP by epoch), `history.png` and drawn
    `pictures/`; with `training.tensorboard` also `tensorboard/`.

    Args:
        recipe: model, data and training; names of classes and keypoints are taken from the training data.
        train_data, validation_data: `(annotations, image folder)`, as `load_dataset` takes them.
        output: a folder, made if need be.
        pictures: how many validation pictures to draw.
        resume: go on with the training of the same recipe that was interrupted in `output`.
        verbose: as `keras.Model.fit` takes it.

    Returns:
        `{"box": {"AP": ...}, "mask": {...}}`, as `evaluate_model` gives it.

    Raises:
        DatasetError: naming file, image id and annotation id, before training starts.
        ValueError: `resume` with another recipe.
        FloatingPointError: the loss is no longer a number; it names the image ids.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    reading = {"format": recipe.data.format, "on_error": recipe.data.on_error}
    train_records = load_dataset(*train_data, **reading)
    validation_records = load_dataset(
        *validation_data, class_names=train_records.class_names, **reading
    )
    recipe = dataclasses.replace(recipe, model=name_classes(recipe.model, train_records))
    state = Resume(output / "resume") if resume else _fresh_state(output)
    if state.epoch:
        _check_same(recipe, output / "recipe.yaml")
        logger.info("going on after %d of %d epochs", state.epoch, recipe.training.epochs)
    elif resume:
        logger.warning("resume: nothing was interrupted in %s, training begins anew", output)
    save_yaml(recipe, output / "recipe.yaml")
    log_advice(train_records, validation_records, recipe.model)

    guard = NanGuard()
    train_dataset = recipe_dataset(recipe, train_records, training=True, first_epoch=state.epoch)
    validation_dataset = recipe_dataset(recipe, validation_records, training=False)
    model = build_model(recipe)
    model.compile(optimizer=make_optimizer(recipe, model, int(train_dataset.cardinality())))
    state.restore(model)
    _keep_rows(output / "history.csv", state.epoch)
    evaluation = CocoEvaluation(
        validation_dataset,
        validation_records,
        every=recipe.training.evaluate_every,
        sigmas=recipe.model.keypoint_sigmas,
    )
    last, evaluated = recipe.training.epochs, recipe.training.evaluate_every
    logs = output / "tensorboard" if recipe.training.tensorboard else None
    model.fit(
        guard.watch(train_dataset),
        epochs=recipe.training.epochs,
        initial_epoch=state.epoch,
        callbacks=[
            guard,
            *([] if recipe.training.ema_momentum is None else [AverageWeights()]),
            evaluation,
            PredictionPictures(
                validation_records, output / "pictures", pictures, evaluated if logs else last, logs
            ),
            ResourceUse(),
            keras.callbacks.CSVLogger(str(output / "history.csv"), append=state.epoch > 0),
            *([keras.callbacks.TensorBoard(str(logs))] if logs else []),
            state,
        ],
        shuffle=False,  # the dataset shuffles itself
        verbose=verbose,
    )
    _save_whole(model, output / "model.keras")
    (output / "metrics.json").write_text(json.dumps(evaluation.metrics, indent=2))
    plot_history(output / "history.csv", output / "history.png")
    state.discard()  # not before all is written: a kill until here costs the last epoch, not the training
    return evaluation.metrics


def _fresh_state(output):
    """The state of a training that starts from the beginning, whatever was interrupted here."""
    state = Resume(output / "resume")
    state.discard()
    return state


def _keep_rows(history, epochs):
    """Of a training that goes on, the rows of the epochs that its state holds: a later one runs again."""
    if epochs and history.is_file():
        head, *rows = history.read_text().splitlines(keepends=True)
        kept = [row for row in rows if int(row.split(",")[0]) < epochs]
        history.write_text("".join([head, *kept]))


def _save_whole(model, path):
    """Save a model under a name that only a whole file ever has."""
    part = path.with_name(f"{path.stem}.part{path.suffix}")  # Keras wants its own ending
    model.save(part)
    os.replace(part, path)


def _check_same(recipe, path):
    before = load_yaml(path)
    if before != recipe:
        told, now = to_dict(before), to_dict(recipe)
        changed = [
            f"{part}.{name}"
            for part, values in now.items()
            for name, value in values.items()
            if told[part][name] != value
        ]
        raise ValueError(f"resume: {path} was interrupted with other {', '.join(changed)}")


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
    """The model that a recipe describes, with its initial weights, ready to compile.

    It, and what it draws in training, depends on `training.seed` alone, which is given to Keras, NumPy and Python.
    """
    config = recipe.training
    if config.deterministic:
        make_deterministic()
    keras.utils.set_random_seed(config.seed)
    model = MaskRCNN(recipe.model, dtype=config.mixed_precision)
    if config.initial_weights:
        load_initial_weights(model, config.initial_weights)
    if config.backbone_weights:
        load_backbone_weights(model.backbone, config.backbone_weights, model.stage5)
        logger.info("backbone weights from %s", config.backbone_weights)
    freeze_backbone(model.backbone, config.trainable_stages, model.stage5)
    _warn_of_statistics(recipe)
    return model


def _warn_of_statistics(recipe):
    """Batch norms of regions see the zeros in places without a region, see `MaskRCNNConfig.head_norm`."""
    trains_stage5 = recipe.model.pyramid == "c4" and recipe.training.trainable_stages > 0
    norms = {"head_norm": recipe.model.head_norm}
    norms |= {"norm": recipe.model.norm} if trains_stage5 else {}
    for name, norm in norms.items():
        if norm in (BATCH, SYNC):
            logger.warning(
                "%s: %r takes its statistics of empty places, too; %r has none, %r keeps those it has",
                *(name, norm, GROUP, FROZEN),
            )


def make_deterministic():
    """Let TensorFlow take only operations that give the same bits at every run, in the whole process from now on.

    Where it has none, training stops with an error that names the operation. On CPUs it has all that is needed; on
    GPUs this was never tried. XLA on CPUs is deterministic.
    """
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf  # other backends train without it

        tf.config.experimental.enable_op_determinism()


def load_initial_weights(model: MaskRCNN, source: str):
    """Begin with a trained model's weights: all of them where it knows the same classes, else its trunk.

    In which fields the configurations differ goes to the log: the weights were trained with their own.

    Args:
        model: filled in place.
        source: a preset's name, or a path; see `MaskRCNN.from_preset`.

    Raises:
        FileNotFoundError, OSError, ValueError: as `MaskRCNN.from_preset`.
    """
    opened = OpenedPreset(source)
    told, here = to_dict(opened.config()), to_dict(model.config)
    # As many other classes would fit, too.
    same = told["class_names"] == here["class_names"]
    logger.info("%s: %s", source, opened.load_into(model, "all" if same else "trunk"))
    differing = [
        f"{name} {told[name]} (here {value})"
        for name, value in here.items()
        if told[name] != value and name not in ("class_names", "category_ids")
    ]
    if differing:
        logger.info("%s was made with other %s", source, ", ".join(differing))


def recipe_dataset(recipe: Recipe, records: CocoDataset, training: bool, first_epoch: int = 0):
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
        first_epoch=first_epoch,
    )
