"""LVIS v1 json: pictures found by their urls, classes by picture, and faults by name."""

import copy
import json

import cv2
import numpy as np
import pytest

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset
from kmaskrcnn.data.importers.lvis import load_lvis

DOCUMENT = {
    "images": [
        {
            "id": 5,
            "height": 20,
            "width": 30,
            "coco_url": "http://images.cocodataset.org/train2017/000000000005.jpg",
            "neg_category_ids": [9],
            "not_exhaustive_category_ids": [],
        },
        {
            "id": 6,
            "height": 20,
            "width": 30,
            "coco_url": "http://images.cocodataset.org/val2017/000000000006.jpg",
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [4, 2],
        },
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 5,
            "category_id": 4,
            "bbox": [2, 3, 10, 8],
            "area": 40,
            "segmentation": [[2, 3, 12, 3, 7, 11]],
        }
    ],
    "categories": [
        {"id": 2, "name": "apricot", "frequency": "r"},
        {"id": 9, "name": "bagel", "frequency": "f"},
        {"id": 4, "name": "cape", "frequency": "c"},
    ],
}


def write(folder, document, flat=False):
    for name in ("train2017/000000000005.jpg", "val2017/000000000006.jpg"):
        path = folder / (name.split("/")[1] if flat else name)
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.zeros((20, 30, 3), np.uint8))
    (folder / "lvis.json").write_text(json.dumps(document))
    return folder / "lvis.json", folder


@pytest.mark.parametrize("flat", [False, True])
def test_classes_by_picture(tmp_path, flat):
    records = load_lvis(*write(tmp_path, DOCUMENT, flat))
    assert records.class_names == ("apricot", "cape", "bagel")
    assert records.frequencies == ("r", "c", "f") and records.rules == "lvis"
    first, second = records.images
    assert (first.negative_labels, first.not_exhaustive_labels) == ((2,), ())
    assert (second.negative_labels, second.not_exhaustive_labels) == ((), (0, 1))
    assert first.path.endswith("000000000005.jpg" if flat else "train2017/000000000005.jpg")
    (cape,) = first.instances
    assert (cape.label, cape.box, cape.area) == (1, (2, 3, 12, 11), 40)


def test_the_file_tells_the_format(tmp_path):
    paths = write(tmp_path, DOCUMENT)
    assert load_dataset(*paths).rules == "lvis"
    plain = copy.deepcopy(DOCUMENT)
    for image in plain["images"]:
        del image["not_exhaustive_category_ids"]
        image["file_name"] = "/".join(image["coco_url"].split("/")[-2:])
    assert load_dataset(*write(tmp_path, plain)).rules == "coco"


def test_labels_follow_a_trained_models_classes(tmp_path):
    paths = write(tmp_path, DOCUMENT)
    records = load_lvis(*paths, class_names=("cape", "dog", "apricot"), on_error="skip")
    assert records.category_ids == (4, -1, 2) and records.frequencies == ("c", "", "r")
    assert [record.negative_labels for record in records.images] == [(), ()]
    assert records.images[1].not_exhaustive_labels == (0, 2)


def faulty(kind, place, **changes):
    document = copy.deepcopy(DOCUMENT)
    document[kind][place].update(changes)
    return document


@pytest.mark.parametrize(
    ("document", "message", "image_id", "left"),
    [
        (faulty("images", 1, neg_category_ids=3), "'neg_category_ids' must be a list", 6, 1),
        (faulty("images", 1, neg_category_ids=["a"]), "'neg_category_ids' must be a list", 6, 1),
        (faulty("images", 1, not_exhaustive_category_ids=None), "not_exhaustive", 6, 1),
        (faulty("images", 1, coco_url=None), "'file_name' is missing", 6, 1),
        (faulty("categories", 1, frequency="x"), r"categories.1. \(id 9\): 'frequency'", None, 2),
    ],
)
def test_faults_are_named(tmp_path, document, message, image_id, left):
    paths = write(tmp_path, document)
    with pytest.raises(DatasetError, match=message) as error:
        load_lvis(*paths)
    assert error.value.faults[0].image_id == image_id
    assert error.value.faults[0].file == str(paths[0])
    assert len(load_lvis(*paths, on_error="skip").images) == left
