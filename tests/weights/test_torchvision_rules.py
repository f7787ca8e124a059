"""The rules that torchvision's weights know, each against what torchvision computes: anchors, resize, paste."""

import json

import cv2
import numpy as np
import pytest
from made_weights import made_picture
from parity_stages import FIXTURES

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.data.pictures import read_picture
from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.geometry.masks import masks_to_rles, paste_masks, paste_windows
from kmaskrcnn.geometry.resizing import resize_pixels, resize_shape
from kmaskrcnn.layers.rpn import AnchorGenerator
from kmaskrcnn.serving.detectors import prepare


@pytest.fixture(scope="module")
def recorded():
    return np.load(FIXTURES / "torchvision_ops.npz")


def test_anchors_are_whole_pixels_at_strides_of_whole_pixels(recorded):
    """160 x 224 pixels: the coarsest map has 3 x 4 cells, 53 and 56 pixels apart."""
    sizes = recorded["anchors/map_sizes"]
    features = {f"P{i}": np.zeros((1, *size, 1)) for i, size in enumerate(sizes, start=2)}
    layer = AnchorGenerator((32, 64, 128, 256, 512), rule="torchvision")
    anchors = np.concatenate([np.asarray(one) for one in layer(features).values()])
    np.testing.assert_array_equal(anchors, recorded["anchors/all"])
    assert AnchorGenerator.from_config(layer.get_config()).rule == "torchvision"
    with pytest.raises(ValueError, match="rule: got 'round', accepted are 'exact'"):
        AnchorGenerator((32,), rule="round")


@pytest.mark.parametrize("i", [0, 1])
def test_pictures_are_resized_as_floats_to_sides_cut_to_pixels(recorded, i):
    picture = recorded[f"transform/picture{i}"].transpose(1, 2, 0)
    size = resize_shape(*picture.shape[:2], 48, 80, "torchvision")
    assert size == tuple(recorded["transform/sizes"][i])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    found = (resize_pixels(picture, size, "torchvision") - mean) / std
    expected = recorded["transform/out"][i].transpose(1, 2, 0)[: size[0], : size[1]]
    # OpenCV rounds its float32 weights in another order: 1.5e-5, of a byte of 0.017
    np.testing.assert_allclose(found, expected, atol=5e-5)
    assert resize_shape(37, 53, 48, 80) == (48, 69) and resize_shape(
        37, 53, 48, 80, "torchvision"
    ) == (48, 68)


def test_masks_are_pasted_into_boxes_of_whole_pixels(recorded):
    masks, boxes, soft = (recorded[f"paste/{name}"] for name in ("masks", "boxes", "out"))
    pasted = paste_masks(masks[:, 0], boxes, (48, 64), rule="torchvision")
    undecided = np.abs(soft[:, 0] - 0.5) < 1e-5
    np.testing.assert_array_equal(pasted[~undecided], (soft[:, 0] >= 0.5)[~undecided])
    assert pasted.any() and not np.array_equal(pasted, paste_masks(masks[:, 0], boxes, (48, 64)))
    ((window, top, left),) = paste_windows(masks[0], boxes[:1], (48, 64), rule="torchvision")
    assert window.sum() == pasted[0].sum() and top >= 0 and left >= 0
    rles = masks_to_rles(masks[:, 0], boxes, (48, 64), rule="torchvision")
    assert [one["size"] for one in rles] == [[48, 64]] * 8


@pytest.mark.parametrize("rule", ["opencv", "torchvision", "detectron2"])
def test_a_dataset_and_a_prediction_see_the_same_pixels(tmp_path, rule):
    document = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for i, (height, width) in enumerate([(97, 141), (120, 60)]):
        name = f"{i}.png"
        cv2.imwrite(str(tmp_path / name), made_picture(name, height, width))
        image = {"id": i + 1, "file_name": name, "height": height, "width": width}
        document["images"].append(image)
    (tmp_path / "data.json").write_text(json.dumps(document))
    records = load_coco(tmp_path / "data.json", tmp_path)
    config = MaskRCNNConfig(min_size=50, max_size=80, resize_rule=rule, size_divisor=32)
    options = {"min_size": 50, "max_size": 80, "resize_rule": rule, "size_divisor": 32}
    dataset = make_dataset(records, batch_size=1, **options)
    seen = 0
    for inputs, targets in dataset:
        image_id = int(targets["image_ids"][0])
        (path,) = (record.path for record in records.images if record.image_id == image_id)
        expected, _ = prepare(read_picture(path), config)
        assert inputs["images"].dtype == ("float32" if rule == "torchvision" else "uint8")
        np.testing.assert_array_equal(inputs["images"], expected["images"])
        np.testing.assert_array_equal(inputs["image_sizes"], expected["image_sizes"])
        seen += 1
    assert seen == len(records.images)
