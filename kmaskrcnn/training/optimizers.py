"""Optimizers of the recipes that detectors are trained with."""

import keras
from keras import ops

from kmaskrcnn.config import Recipe
from kmaskrcnn.layers.backbones import backbone_stages
from kmaskrcnn.training.schedules import WarmupSchedule


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class LayerDecayAdamW(keras.optimizers.AdamW):
    """AdamW with a learning rate, and so a weight decay, of its own for each weight.

    A pretrained network's first layers are good as they are; they are moved less than the last ones.

    Args:
        factors: of the learning rate, a number for each trainable weight, see `layer_factors`.
        **options: of `keras.optimizers.AdamW`.

    Raises:
        ValueError: when it meets another number of weights than `factors` has.

    Reference:
        [BEiT](https://arxiv.org/abs/2106.08254), section 3.1; [ViTDet](https://arxiv.org/abs/2203.16527), appendix A
    """

    def __init__(self, factors, **options):
        super().__init__(**options)
        self.factors = [float(factor) for factor in factors]

    def build(self, variables):
        if len(variables) != len(self.factors):
            raise ValueError(f"factors: got {len(self.factors)} for {len(variables)} weights")
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        factor = self.factors[self._get_variable_index(variable)]
        rate = ops.cast(learning_rate, variable.dtype) * factor
        if self._use_weight_decay(variable):
            self.assign_sub(variable, variable * (rate * self.weight_decay))
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables):
        """Nothing: Keras would decay by the common rate here, before `update_step` decays by each weight's own."""

    def get_config(self):
        return super().get_config() | {"factors": list(self.factors)}


def layer_factors(model, layer_decay: float):
    """How fast each weight of a model learns, by how far its layer is from the heads.

    Args:
        model: a `MaskRCNN`.
        layer_decay: what each stage of the backbone learns slower than the next one: C5 has `layer_decay`,
            C4 its square, C3, C2 and the stem the third to fifth power; pyramid and heads have 1.

    Returns:
        A list of numbers, in the order of `model.trainable_variables`.
    """
    factors, stages = {}, backbone_stages(model.backbone, model.stage5)
    for distance, stage in enumerate(reversed(stages), start=1):
        for layer in stage:
            factors |= {id(weight): layer_decay**distance for weight in layer.weights}
    return [factors.get(id(weight), 1.0) for weight in model.trainable_variables]


def scaled_learning_rate(recipe: Recipe) -> float:
    """The recipe's rate for the pictures that one update of the weights sees, in proportion to `base_batch_size`.

    Reference:
        [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677), section 2.1
    """
    config = recipe.training
    if config.base_batch_size is None:
        return config.learning_rate
    pictures = recipe.data.batch_size * (config.gradient_accumulation_steps or 1)
    return config.learning_rate * pictures / config.base_batch_size


def make_optimizer(recipe: Recipe, model, steps_per_epoch: int):
    """The optimizer of a recipe for a model.

    Weight decay is decoupled from the gradient, as Keras does it, and spares what has a single axis:
    biases, scales and offsets of normalisations, layer scales. Keras does not save what is spared: an
    optimizer that `load_model` brings back decays everything. Published recipes of SGD, the paper's 1e-4
    among them, add the decay to the gradient, so that momentum makes it 1 / (1 - momentum) times as
    strong; `TrainingConfig.weight_decay` means theirs.

    Args:
        recipe: see `TrainingConfig`.
        model: a `MaskRCNN`.
        steps_per_epoch: batches an epoch.
    """
    config = recipe.training
    accumulate = config.gradient_accumulation_steps or 1
    # Keras asks the schedule by batches seen, also where several batches make one update.
    batches = max(1, config.epochs * steps_per_epoch)
    warmup = min(config.warmup_steps * accumulate, batches // 2)
    rate = scaled_learning_rate(recipe)
    options = {
        "learning_rate": WarmupSchedule(rate, batches, warmup, config.schedule),
        "weight_decay": config.weight_decay,
        "global_clipnorm": config.gradient_clip_norm,
        "gradient_accumulation_steps": accumulate if accumulate > 1 else None,
        **_averages(config.ema_momentum, accumulate),
    }
    if config.optimizer == "sgd":
        options["weight_decay"] = config.weight_decay / (1 - config.momentum)
        optimizer = keras.optimizers.SGD(momentum=config.momentum, **options)
    elif config.layer_decay is not None:
        optimizer = LayerDecayAdamW(layer_factors(model, config.layer_decay), **options)
    else:
        optimizer = keras.optimizers.AdamW(**options)
    # Not by name: Keras gives the layer scales of its ConvNeXt none.
    optimizer.exclude_from_weight_decay([w for w in model.weights if len(w.shape) < 2])
    return optimizer


def _averages(momentum, accumulate):
    """The average's arguments. Keras averages after each batch, also where several make one update."""
    if momentum is None:
        return {}
    return {"use_ema": True, "ema_momentum": momentum ** (1 / accumulate)}
