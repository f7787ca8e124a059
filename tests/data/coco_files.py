"""A small sound dataset on disk, made by hand, that tests then spoil item by item."""

import json

import cv2
import numpy as np
from pycocotools import mask as coco_mask

CROWD_RUNS = [0, 60 * 10, 60 * 70]  # the 10 columns at the left of a 60 x 80 picture


def circle_rle(height, width):
    y, x = np.mgrid[:height, :width]
    disc = np.asfortranarray((y - 30) ** 2 + (x - 40) ** 2 < 15**2, dtype=np.uint8)
    rle = coco_mask.encode(disc)
    return {"size": [height, width], "counts": rle["counts"].decode()}


def sound_document():
    """3 pictures, one of them empty; category ids 90, 3 and 7; all kinds of segmentation."""
    return {
        "images": [
            {"id": 501, "file_name": "wide.png", "height": 60, "width": 80},
            {"id": 12, "file_name": "tall.jpg", "height": 90, "width": 50},
            {"id": 7, "file_name": "empty.png", "height": 40, "width": 40},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 501,
                "category_id": 7,
                "bbox": [25, 15, 30, 30],
                "iscrowd": 0,
                "area": 697,
                "segmentation": circle_rle(60, 80),
            },
            {
                "id": 2,
                "image_id": 501,
                "category_id": 90,
                "bbox": [0, 0, 10, 60],
                "iscrowd": 1,
                "area": 600,
                "segmentation": {"size": [60, 80], "counts": CROWD_RUNS},
            },
            {
                "id": 3,
                "image_id": 12,
                "category_id": 3,
                "bbox": [10.5, 20.25, 20, 40],
                "segmentation": [[10.5, 20.25, 30.5, 20.25, 20.5, 60.25]],
            },
            {
                "id": 4,
                "image_id": 12,
                "category_id": 90,
                "bbox": [-2, 80, 60, 20],
                "iscrowd": 0,
                "area": 500,
                "segmentation": [
                    [-2, 80, 20, 80, 20, 100, -2, 100],
                    [40, 82, 58, 82, 58, 90, 40, 90],
                ],
                "keypoints": [3, 85, 2, 0, 0, 0],
            },
        ],
        "categories": [
            {"id": 90, "name": "bear"},
            {"id": 3, "name": "ant"},
            {"id": 7, "name": "bee"},
        ],
    }


def write_files(folder, document):
    """Writes the json and a textured picture for each entry; the paths of json and pictures."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for entry in sound_document()["images"]:
        generator = np.random.default_rng(entry["id"])
        coarse = generator.integers(0, 256, (5, 4, 3)).astype(np.uint8)
        picture = cv2.resize(coarse, (entry["width"], entry["height"]))
        cv2.imwrite(str(images / entry["file_name"]), picture)
    json_path = folder / "data.json"
    json_path.write_text(json.dumps(document))
    return json_path, images


def annotation_ids(dataset):
    return {i.annotation_id for record in dataset.images for i in record.instances}


def image_ids(dataset):
    return {record.image_id for record in dataset.images}
