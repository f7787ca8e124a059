"""What a training takes from its data: names of classes and keypoints."""

import json

import cv2
import numpy as np
import pytest

from kmaskrcnn.config import DataConfig, MaskRCNNConfig, Recipe
from kmaskrcnn.data.keypoints import KeypointNames
from kmaskrcnn.data.records import CocoDataset, DatasetError
from kmaskrcnn.training.trainer import name_classes, train

NAMES = KeypointNames(("nose", "left_ear", "right_ear"), ((0, 1),))
RECORDS = CocoDataset((), ("cat",), (1,), keypoints=NAMES)


def test_names_come_from_the_data():
    named = name_classes(MaskRCNNConfig(with_keypoints=True), RECORDS)
    assert named.class_names == ("cat",) and named.keypoint_names == NAMES.names
    assert named.keypoint_flip_pairs == ((1, 2),) and named.keypoint_skeleton == ((0, 1),)
    assert named.num_keypoints == 3 and named.heatmap_size == 56


def test_without_keypoints_their_names_do_not_matter():
    assert name_classes(MaskRCNNConfig(), RECORDS).keypoint_names == ()


def test_keypoints_that_the_data_lack_are_named_before_a_model_is_built(tmp_path):
    picture = {"id": 1, "file_name": "1.png", "height": 40, "width": 60}
    category = {"id": 1, "name": "cat"}
    document = {"images": [picture], "annotations": [], "categories": [category]}
    (tmp_path / "data.json").write_text(json.dumps(document))
    cv2.imwrite(str(tmp_path / "1.png"), np.zeros((40, 60, 3), np.uint8))
    data = tmp_path / "data.json", tmp_path
    recipe = Recipe(MaskRCNNConfig(with_keypoints=True), DataConfig(flip=False))
    with pytest.raises(DatasetError, match="name no keypoints"):
        train(recipe, data, data, tmp_path / "out", verbose=0)
