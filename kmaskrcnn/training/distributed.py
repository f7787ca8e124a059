"""Training on more than one device or machine, with TensorFlow's strategies.

On the devices of one machine `fit` does it all: build and compile the model under `tf.distribute.MirroredStrategy`'s
scope, and give `fit` what `share_batches` makes of the dataset. Over several machines `fit` fails in Keras 3.15, whose
`reduce_per_replica` knows no multi-worker strategy; `fit_multi_worker` is its loop in small.

Batches are global: of 16 pictures, each of 8 devices takes 2, and the loss is the mean of the devices' losses.
"""

import keras
import tensorflow as tf


def share_batches(dataset):
    """A dataset whose batches a strategy shares among its devices and workers.

    Args:
        dataset: `tf.data.Dataset` of `(inputs, targets)` in global batches that have a picture for each device: take
            `make_dataset(..., drop_remainder=True)`. Every worker makes the same one, from the same seed.

    Returns:
        The dataset, told to be cut by batches, for what comes from code has no files to be cut by. `is_crowd` is uint8:
        Keras averages the devices' first batches to see their shapes, and TensorFlow has no sum of bools.
    """
    dataset = dataset.map(
        lambda inputs, targets: (
            inputs,
            {**targets, "is_crowd": tf.cast(targets["is_crowd"], tf.uint8)},
        )
    )
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return dataset.with_options(options)


def fit_multi_worker(model, dataset, epochs, callbacks=(), initial_epoch=0):
    """`model.fit` under `tf.distribute.MultiWorkerMirroredStrategy`.

    Args:
        model: a compiled `MaskRCNN` that was built under the strategy's scope.
        dataset: `tf.data.Dataset` of `(inputs, targets)` in global batches, of known length; the same on every worker.
        epochs: the number of the last one.
        callbacks: Keras callbacks; on every worker, so those that write files are given to the first worker alone.
        initial_epoch: the epoch to begin with.

    Returns:
        `keras.callbacks.History`, the mean over all workers' batches.

    Raises:
        ValueError: the dataset's length is not known, so workers could not stop together.

    Example:
        ```python
        strategy = tf.distribute.MultiWorkerMirroredStrategy()  # reads TF_CONFIG
        with strategy.scope():
            model = MaskRCNN(config)
            model.compile(optimizer=keras.optimizers.SGD(0.02, momentum=0.9))
        fit_multi_worker(model, dataset, epochs=12)
        ```
    """
    steps = int(dataset.cardinality())
    if steps < 1:
        raise ValueError(
            f"dataset: a known number of batches is wanted, its cardinality is {steps}"
        )
    strategy = model.distribute_strategy
    batches = strategy.experimental_distribute_dataset(share_batches(dataset))
    step = tf.function(lambda data: strategy.run(model.train_step, args=(data,)))
    listeners = keras.callbacks.CallbackList(
        list(callbacks), add_history=True, model=model, epochs=epochs, steps=steps
    )
    model.stop_training = False  # of a training before
    listeners.on_train_begin()
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        listeners.on_epoch_begin(epoch)
        for number, data in zip(range(steps), batches):
            listeners.on_train_batch_begin(number)
            step(data)
            listeners.on_train_batch_end(number, logs=model.get_metrics_result())
        listeners.on_epoch_end(epoch, logs=_numbers(model.get_metrics_result()))
        if model.stop_training:
            break
    model.optimizer.finalize_variable_values(model.trainable_weights)  # averages, if it keeps them
    listeners.on_train_end()
    return model.history


def _numbers(results):
    return {name: float(value) for name, value in results.items()}
