"""What training will see, drawn before it starts."""

import numpy as np

from kmaskrcnn.config import Recipe
from kmaskrcnn.data.augmentation import Augmentation
from kmaskrcnn.data.pictures import read_picture
from kmaskrcnn.data.records import CocoDataset
from kmaskrcnn.visualize import contact_sheet, draw_ground_truth


def draw_augmented(recipe: Recipe, records: CocoDataset, count=12, columns=4):
    """Draw pictures with their objects as a recipe's augmentation changes them.

    Args:
        recipe: its `model`, `data` and `augmentation` parts say how.
        records: the dataset; its first pictures are drawn, again from the first if there are fewer than `count`.
        count: pictures.
        columns: of the sheet.

    Returns:
        `(H, W, 3)` uint8 RGB, one sheet.
    """
    keypoints = records.keypoints
    augment = Augmentation(
        recipe.augmentation,
        recipe.model.min_size,
        recipe.model.max_size,
        0.5 * recipe.data.flip,
        keypoints.flip_pairs if keypoints else (),
    )

    def load(record):
        return read_picture(record.path, (record.height, record.width)), record

    drawn = []
    for number in range(count):
        generator = np.random.default_rng([recipe.data.seed, number])
        pixels, record = augment(
            *load(records.images[number % len(records.images)]),
            generator,
            lambda: load(records.images[generator.integers(len(records.images))]),
        )
        drawn.append(draw_ground_truth(pixels, record, records.class_names, keypoints=keypoints))
    return contact_sheet(drawn, columns)
