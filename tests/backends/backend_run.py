"""What every backend does in test_backends.py: `KERAS_BACKEND=jax python backend_run.py FOLDER WAY`.

WAY is `one`, or `data_parallel` for JAX on as many devices as there are. FOLDER holds `start.weights.h5`; what comes
of it goes into `BACKEND_WAY.npz` and `BACKEND_WAY.weights.h5`. A process has one backend, hence a script.
"""

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import EVERYTHING, batch, tiny_model  # noqa: E402

from kmaskrcnn.export.folding import fold_batch_norms  # noqa: E402

PICTURES = 8  # one for each of eight devices


def made_model(**changes):
    """Everything is drawn, so no draw differs. Without a shared canvas, pictures have the size of one."""
    return tiny_model(**{**EVERYTHING, **changes})


def made_batch():
    inputs, targets = batch(np.random.default_rng(0), objects=(2, 1) * 4, size=(64, 128))
    return inputs, targets


def learn(model):
    """Four steps; the losses of both epochs."""
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    dataset = tf.data.Dataset.from_tensors(made_batch()).repeat(2)
    return model.fit(dataset, epochs=2, verbose=0).history


def detect(model):
    return model.predict(made_batch()[0], batch_size=PICTURES, verbose=0)


def main(folder, way):
    if way == "data_parallel":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    model = made_model()
    model.load_weights(folder / "start.weights.h5")
    results = {f"loss/{name}": values for name, values in learn(model).items()}
    results["compiled"] = model.jit_compile
    if way == "data_parallel":
        results["devices"] = len(keras.distribution.list_devices())
    name = f"{keras.backend.backend()}_{way}"
    if way == "one":
        model.save_weights(folder / f"{name}.weights.h5")
        results |= {f"learnt/{key}": value for key, value in detect(model).items()}
        model.load_weights(folder / "start.weights.h5")
        folded = fold_batch_norms(model)
        results |= {f"folded/{key}": value for key, value in detect(folded).items()}
        results |= {f"start/{key}": value for key, value in detect(model).items()}
    np.savez(folder / name, **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
