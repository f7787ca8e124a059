"""Two trainings of one deterministic recipe: prints a sum over the final weights of each, bit by bit.

Run by test_determinism.py in a process of its own: the mode stays on.
"""

import dataclasses
import hashlib
import random
import sys
from pathlib import Path

import keras

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tiny import TINY, tiny_backbone  # noqa: E402

import kmaskrcnn.components  # noqa: E402
from kmaskrcnn.config import (  # noqa: E402
    AugmentationConfig,
    DataConfig,
    MaskRCNNConfig,
    Recipe,
    TrainingConfig,
)
from kmaskrcnn.data.shapes import write_shapes  # noqa: E402
from kmaskrcnn.training import callbacks, monitors, trainer  # noqa: E402

RECIPE = Recipe(
    MaskRCNNConfig(**TINY),
    DataConfig(batch_size=2),
    TrainingConfig(epochs=1, trainable_stages=5, seed=5, deterministic=True),
    AugmentationConfig(rotation=20.0, brightness=0.2),
)


def main(folder):
    kmaskrcnn.components.build_backbone = lambda *_, **__: tiny_backbone()
    # What comes after the last step changes no weight.
    callbacks.evaluate_model = lambda *_: {"box": {"AP": 0.0}}
    monitors.draw_predictions = lambda *_: {}
    shapes = write_shapes(folder, num_train=6, num_validation=1, image_size=(64, 80))
    data = shapes[:2], shapes[2:]
    for number, seed in enumerate((5, 5, 6)):
        random.seed(number)  # what ran before must not matter
        training = dataclasses.replace(RECIPE.training, seed=seed)
        recipe = dataclasses.replace(RECIPE, training=training)
        trainer.train(recipe, *data, Path(folder) / f"run{number}", pictures=0, verbose=0)
        model = keras.saving.load_model(Path(folder) / f"run{number}/model.keras", compile=False)
        weights = b"".join(weight.tobytes() for weight in model.get_weights())
        print(hashlib.sha256(weights).hexdigest(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
