"""Which learning rates teach a model: each update at a higher one, until the loss grows.

rates 1e-6 ... 1, evenly in their logarithms -> one update each -> losses -> smoothed -> a rate to begin with
"""

import dataclasses
import itertools

import keras
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kmaskrcnn.config import Recipe
from kmaskrcnn.data.formats import load_dataset
from kmaskrcnn.training.optimizers import make_optimizer
from kmaskrcnn.training.trainer import build_model, name_classes, recipe_dataset

DIVERGED = 4.0  # times the lowest smoothed loss, from which the sweep stops
WINDOW = 0.06  # share of the updates over which the loss is smoothed


@dataclasses.dataclass(frozen=True)
class LearningRateCurve:
    """The losses of a sweep.

    Args:
        rates: tuple of floats, rising.
        losses: tuple of floats, before the update at each rate.
        smoothed: tuple of floats, means of each loss and its neighbours.
        scale: what a rate is multiplied by to stand in the recipe, see `TrainingConfig.base_batch_size`.
    """

    rates: tuple
    losses: tuple
    smoothed: tuple
    scale: float = 1.0

    @property
    def lowest(self) -> int:
        """Where the smoothed loss is lowest."""
        return int(np.argmin(self.smoothed))

    @property
    def suggestion(self) -> float:
        """A tenth of the rate where the loss is lowest: there, higher rates have begun to do harm."""
        return self.rates[self.lowest] / 10

    @property
    def steepest(self) -> float:
        """The rate at which the loss falls fastest, by the logarithm of the rate."""
        falling = np.gradient(np.array(self.smoothed), np.log(self.rates))[: self.lowest + 1]
        return self.rates[int(np.argmin(falling))]

    def to_dict(self):
        """The curve in values that json can hold."""
        return dataclasses.asdict(self) | {
            "suggestion": self.suggestion,
            "steepest": self.steepest,
        }

    def to_text(self):
        """What it says, as lines for a terminal; the last ones are a recipe's."""
        return "\n".join(
            [
                f"{len(self.rates)} updates at rates from {self.rates[0]:.2g} to {self.rates[-1]:.2g}",
                f"the loss is lowest at {self.rates[self.lowest]:.2g}, a tenth of it is {self.suggestion:.2g}",
                f"the loss falls fastest at {self.steepest:.2g}",
                "training:",
                f"  learning_rate: {self.suggestion * self.scale:.2g}",
            ]
        )

    def plot(self, path):
        """Draw losses by rates; the path's ending decides the format."""
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.75", label="loss of each update")
        axes.plot(self.rates, self.smoothed, color="#0072b2", label="smoothed")
        for rate, style, name in (
            (self.suggestion, "-", "a tenth of the lowest"),
            (self.steepest, "--", "falls fastest"),
        ):
            axes.axvline(rate, color="#d55e00", linestyle=style, label=f"{name}: {rate:.2g}")
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        # A loss that broke out would flatten all others.
        axes.set_ylim(top=min(max(self.losses), DIVERGED * min(self.smoothed)))
        axes.legend()
        figure.savefig(path, dpi=120)


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class ExponentialSweep(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that grows by the same factor at every step.

    Args:
        lowest, highest: the first rate and the last one.
        steps: from one to the other; it goes on growing beyond.
        first: the step that has the lowest rate.
    """

    def __init__(self, lowest, highest, steps, first=0):
        self.lowest, self.highest, self.steps, self.first = lowest, highest, steps, first

    def __call__(self, step):
        factor = (self.highest / self.lowest) ** (1 / max(self.steps - 1, 1))
        exponent = keras.ops.cast(step, "float32") - self.first
        return self.lowest * keras.ops.power(factor, exponent)

    def get_config(self):
        return {name: getattr(self, name) for name in ("lowest", "highest", "steps", "first")}


def find_learning_rate(model, dataset, lowest=1e-6, highest=1.0, steps=100) -> LearningRateCurve:
    """Train a model for some updates, each at a higher rate, and look at the losses.

    The model and its optimizer are as before afterwards: weights, random draws, steps, rate.

    Args:
        model: any compiled Keras model.
        dataset: iterable of `(inputs, targets)`, begun again where it ends; batches as training has them.
        lowest, highest: rates of the first and the last update.
        steps: updates; the sweep ends before where the loss is no number, or `DIVERGED` times its lowest. Those that
            loss scaling skips are not among the curve's.

    Raises:
        ValueError: an argument is out of its range, the dataset is empty, or no loss or gradient is a number.

    Example:
        ```python
        curve = find_learning_rate(model, dataset)
        curve.plot("rates.png")
        model.compile(keras.optimizers.AdamW(curve.suggestion))
        ```

    Reference:
        [Cyclical Learning Rates](https://arxiv.org/abs/1506.01186), section 3.3
    """
    if not 0 < lowest < highest or steps < 2:
        accepted = "0 < lowest < highest and 2 steps or more"
        raise ValueError(
            f"got lowest={lowest}, highest={highest}, steps={steps}; accepted {accepted}"
        )
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    # In mixed_float16 `compile` wraps the optimizer, and updates follow the inner one's rate.
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    variables = [*model.variables, *model.optimizer.variables]
    before = [np.array(variable) for variable in variables]
    schedule = optimizer._learning_rate  # Keras shows its value alone
    batches = optimizer.gradient_accumulation_steps or 1  # of an update
    # A schedule is asked by batches; `iterations` would be the updates.
    rate = ExponentialSweep(lowest, highest, steps * batches, int(optimizer._iterations))
    try:
        optimizer._learning_rate = rate
        model.make_train_function(force=True)
        rates, losses = _rates_and_losses(model, dataset, optimizer, steps)
    finally:
        optimizer._learning_rate = schedule
        model.make_train_function(force=True)
        for variable, value in zip(variables, before):
            variable.assign(value)
        model.reset_metrics()
    return LearningRateCurve(tuple(rates), tuple(losses), tuple(_smooth(losses, steps).tolist()))


def _rates_and_losses(model, dataset, optimizer, steps):
    """The rate of each update and the loss before it, as long as they make sense."""
    rates, losses = [], []
    rate, batches = optimizer._learning_rate, optimizer.gradient_accumulation_steps or 1
    source = itertools.chain.from_iterable(itertools.repeat(dataset))
    if next(iter(dataset), None) is None:
        raise ValueError("dataset: it is empty")
    for _ in range(steps):
        parts, updates = [], int(optimizer.iterations)
        for inputs, targets in itertools.islice(source, batches):
            model.reset_metrics()
            parts.append(model.train_on_batch(inputs, targets, return_dict=True)["loss"])
        loss = float(np.mean(parts))
        if not np.isfinite(loss):
            break
        if int(optimizer.iterations) == updates:
            continue  # loss scaling skips updates until its scale suits
        rates.append(float(rate(int(optimizer.iterations) * batches - 1)))
        losses.append(loss)
        smoothed = _smooth(losses, steps)
        if smoothed[-1] > DIVERGED * smoothed.min():
            break
    if not losses:
        raise ValueError(
            "dataset: the first loss, or every gradient, is no number; `kmaskrcnn inspect` names faults"
        )
    return rates, losses


def _smooth(losses, steps):
    """Each loss's mean with its neighbours, as many on either side as there are; `steps` is the whole sweep's."""
    widest, last = int(WINDOW * steps / 2), len(losses) - 1
    reaches = [min(widest, place, last - place) for place in range(len(losses))]
    windows = [losses[i - reach : i + reach + 1] for i, reach in enumerate(reaches)]
    return np.array([np.mean(window) for window in windows])


def find_recipe_rate(recipe: Recipe, data, lowest=1e-6, highest=1.0, steps=100):
    """`find_learning_rate` of a recipe's model, optimizer and batches.

    Args:
        recipe: all of it counts but `training.learning_rate`, warm-up and schedule.
        data: `(annotations, image folder)`, as `load_dataset` takes them.
        lowest, highest, steps: as for `find_learning_rate`.

    Returns:
        `LearningRateCurve`; its text has the rate for `training.base_batch_size`.
    """
    records = load_dataset(*data, format=recipe.data.format, on_error=recipe.data.on_error)
    recipe = dataclasses.replace(recipe, model=name_classes(recipe.model, records))
    model = build_model(recipe)
    model.compile(make_optimizer(recipe, model, steps))
    dataset = recipe_dataset(recipe, records, training=True)
    curve = find_learning_rate(model, dataset, lowest, highest, steps)
    pictures = recipe.data.batch_size * (recipe.training.gradient_accumulation_steps or 1)
    return dataclasses.replace(
        curve, scale=(recipe.training.base_batch_size or pictures) / pictures
    )
