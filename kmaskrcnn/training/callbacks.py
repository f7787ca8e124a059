"""Keras callbacks of a training run."""

import keras

from kmaskrcnn.evaluation import evaluate_model


class CocoEvaluation(keras.callbacks.Callback):
    """COCO AP at the end of epochs, put into `logs`, where every later callback finds it.

    Place it before `ModelCheckpoint`, `EarlyStopping`, `CSVLogger` and their like; give those that
    watch an AP `mode="max"`. The first and the last epoch are always evaluated; an epoch that is
    left out repeats the last values, so that a monitored name never goes missing.

    Args:
        dataset: `tf.data.Dataset` of `(inputs, targets)`, as for `evaluation.evaluate_model`.
        records: the records that `dataset` was made of.
        every: epochs from one evaluation to the next.
        prefix: what the names in `logs` begin with: `val_box_AP`, `val_mask_AP50`, and so on for
            every number of `evaluate_results` that the dataset has (`APl` needs large objects).
        progress: whether to draw a progress bar.
        sigmas: of keypoints, as for `evaluation.CocoEvaluator`.

    Attributes:
        metrics: the last evaluation in full, `{"box": {...}, "mask": {...}}`, per class too.

    Raises:
        ValueError: `every` is not a positive whole number.

    Example:
        >>> watched = dict(monitor="val_mask_AP", mode="max")
        >>> model.fit(train, validation_data=validation, epochs=12, callbacks=[
        ...     CocoEvaluation(validation, records),
        ...     keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True, **watched),
        ... ])
    """

    def __init__(self, dataset, records, every=1, prefix="val_", progress=False, sigmas=None):
        super().__init__()
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every: a whole number of epochs from 1 wanted, got {every!r}.")
        self.dataset = dataset
        self.records = records
        self.every = every
        self.prefix = prefix
        self.progress = progress
        self.sigmas = sigmas
        self.metrics = None

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params.get("epochs")
        if self.metrics is None or last or (epoch + 1) % self.every == 0:
            self.metrics = evaluate_model(
                self.model, self.dataset, self.records, self.progress, self.sigmas
            )
        if logs is not None:
            logs.update(self._as_logs())

    def _as_logs(self):
        return {
            f"{self.prefix}{task}_{name}": value
            for task, numbers in self.metrics.items()
            for name, value in numbers.items()
            if name != "per_class" and value is not None
        }


class AverageWeights(keras.callbacks.Callback):
    """Between epochs, the model holds the averages that its optimizer (`use_ema=True`) keeps of the weights.

    What comes later in the list of callbacks evaluates and saves the averages; what must keep the
    weights themselves, such as `BackupAndRestore`, comes before. Training goes on with the weights,
    and `fit` ends with the averages. Keras's `SwapEMAWeights` puts the weights where the averages
    were, so that a training which another callback stops loses the averages.

    Example:
        >>> model.compile(keras.optimizers.AdamW(1e-4, use_ema=True, ema_momentum=0.999))
        >>> model.fit(train, callbacks=[AverageWeights(), CocoEvaluation(validation, records)])
    """

    def __init__(self):
        super().__init__()
        self._weights = None

    def on_epoch_end(self, epoch, logs=None):
        variables = self.model.trainable_variables
        self._weights = [variable.numpy() for variable in variables]
        self.model.optimizer.finalize_variable_values(variables)

    def on_epoch_begin(self, epoch, logs=None):
        for variable, weight in zip(self.model.trainable_variables, self._weights or ()):
            variable.assign(weight)

    def on_train_end(self, logs=None):
        self._weights = None  # another training begins with the averages
