"""Learning rates of the recipes that detectors are trained with."""

import math

import keras
from keras import ops

# Steps of Detectron's schedules: a tenth of the rate after 2/3 and a hundredth after 8/9 of the time.
DROPS = ((2 / 3, 0.1), (8 / 9, 0.01))


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up, then a constant, stepped or cosine rate.

    Without a warm-up, the first steps of a new box head ruin the pretrained trunk
    (Goyal et al., [Accurate, Large Minibatch SGD](https://arxiv.org/abs/1706.02677), section 2.2).

    Args:
        learning_rate: the highest rate.
        total_steps: of the whole training.
        warmup_steps: steps until the highest rate; the first one has a thousandth of it.
        kind: `"constant"`, `"step"` (see `DROPS`) or `"cosine"` (to 0).
    """

    def __init__(self, learning_rate, total_steps, warmup_steps=0, kind="step"):
        if kind not in ("constant", "step", "cosine"):
            accepted = "'constant', 'step' and 'cosine'"
            raise ValueError(f"kind: got {kind!r}, accepted are {accepted}")
        self.learning_rate = learning_rate
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.kind = kind

    def __call__(self, step):
        step = ops.cast(step, "float32")
        warmup = ops.clip(step / max(self.warmup_steps, 1), 1e-3, 1.0) if self.warmup_steps else 1.0
        return self.learning_rate * warmup * self._decay(step / self.total_steps)

    def _decay(self, progress):
        if self.kind == "cosine":
            return 0.5 * (1.0 + ops.cos(math.pi * ops.minimum(progress, 1.0)))
        factor = ops.ones_like(progress)
        if self.kind == "step":
            for start, value in DROPS:
                factor = ops.where(progress >= start, value, factor)
        return factor

    def get_config(self):
        names = ("learning_rate", "total_steps", "warmup_steps", "kind")
        return {name: getattr(self, name) for name in names}
