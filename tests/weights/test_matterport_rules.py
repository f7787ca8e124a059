"""A file in the layout of matterport's `mask_rcnn_coco.h5`: our converted model gives what its rules give."""

import numpy as np
import pytest
from made_weights import made_picture, made_state
from matterport_oracle import (
    Oracle,
    in_pixels,
    keras_layout,
    keras_part,
    paste,
    shapes,
    write_h5,
)

from kmaskrcnn.detections import Detections
from kmaskrcnn.layers.backbones import build_backbone
from kmaskrcnn.layers.detection import DetectionLayer
from kmaskrcnn.layers.normalizer import ImageNormalizer
from kmaskrcnn.layers.rpn import ProposalLayer
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.serving.detectors import prepare
from kmaskrcnn.weights import matterport
from kmaskrcnn.weights.architectures import recognise
from kmaskrcnn.weights.convert import named_weights, translate

SIDE = 128  # of the square, which the picture fills
ANCHORS, PROPOSALS = 600, 60


@pytest.fixture(scope="module")
def state():
    # The picture is not divided by its spread: the stem's share of it. The rest keeps boxes near their
    # anchors and scores apart.
    scales = {
        "conv1.weight": 1 / 60,
        **{f"fpn_p{level}.weight": 0.3 for level in (2, 3, 4, 5)},
        "mrcnn_class_logits.weight": 12.0,
    }
    made = made_state(shapes(), 0, {f"scale/{name}": scale for name, scale in scales.items()})
    for name in made:
        if name.endswith("_branch2c.weight") and name.startswith("bn"):
            made[name] *= 0.3  # made_weights knows torchvision's name of this norm alone
    return made


@pytest.fixture(scope="module")
def ours(state, tmp_path_factory):
    """Our model from the file, its features, proposals and detections of the picture."""
    path = tmp_path_factory.mktemp("matterport") / "mask_rcnn_coco.h5"
    write_h5(path, state)
    sides = {name: SIDE for name in ("min_size", "max_size", "size_divisor")}
    counts = {"rpn_pre_nms_topk": ANCHORS, "rpn_post_nms_topk": PROPOSALS}
    model = MaskRCNN.from_preset(path, **sides, **counts)
    assert model.config.class_names[0] == "person" and len(model.config.class_names) == 80
    inputs, _ = prepare(picture(), model.config)
    assert inputs["images"].shape == (1, SIDE, SIDE, 3)
    images = model.normalizer(inputs["images"], inputs["image_sizes"])
    features = model.fpn(model.backbone(images))
    logits, deltas = model.rpn_head(features)
    proposals = model.proposals(model.anchors(features), logits, deltas, inputs["image_sizes"])
    outputs = {name: np.asarray(x) for name, x in model.predict_graph(inputs).items()}
    return features, np.asarray(proposals)[0], outputs


@pytest.fixture(scope="module")
def theirs(state):
    oracle = Oracle(state, ANCHORS, PROPOSALS)
    features = oracle.features(picture())
    proposals = oracle.proposals(features, SIDE)
    boxes, scores, labels = oracle.detect(features, proposals, SIDE)
    masks = oracle.masks(features, boxes[:5], labels[:5], SIDE)
    return features, in_pixels(proposals, SIDE), in_pixels(boxes, SIDE), scores, labels, masks


def picture():
    return made_picture("street", SIDE, SIDE)


def test_trunk_and_pyramid(ours, theirs):
    """Mean without spread, biases before norms of epsilon 1e-3, "same" max pool, stride in the 1x1."""
    for level, expected in theirs[0].items():
        found = np.asarray(ours[0][f"P{level}"])[0].transpose(2, 0, 1)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_proposals(ours, theirs):
    """Objectness of two classes, deltas y first, boxes to their last pixel, all levels together."""
    assert len(theirs[1]) == PROPOSALS
    np.testing.assert_allclose(ours[1], theirs[1], atol=0.01)


def test_detections(ours, theirs):
    """`crop_and_resize`, levels by `round`, norms folded into dense layers, each region of its best class."""
    _, _, boxes, scores, labels, _ = theirs
    count = int(ours[2]["num_detections"][0])
    assert 5 <= count == len(boxes) and len(set(labels)) > 1
    np.testing.assert_array_equal(ours[2]["labels"][0][:count], labels)
    np.testing.assert_allclose(ours[2]["boxes"][0][:count], boxes, atol=1e-3)
    np.testing.assert_allclose(ours[2]["scores"][0][:count], scores, atol=2e-5)


def test_masks_and_their_paste(ours, theirs):
    _, _, boxes, _, _, masks = theirs
    np.testing.assert_allclose(ours[2]["masks"][0][: len(masks)], masks, atol=1e-3)
    size = (SIDE, SIDE)
    found = Detections.from_outputs(ours[2], 0, size, size, paste_rule="matterport").full_masks()
    for i, (mask, box) in enumerate(zip(masks, boxes)):
        expected = paste(mask, box, size)
        assert (found[i] & expected).sum() >= 0.995 * (found[i] | expected).sum() > 0


def test_every_name_of_resnet101_has_its_place():
    """Without the numbers, of which there are 64 million."""
    arrays = {}
    for name, shape in shapes(blocks_of_c4=23).items():
        layer, part = name.rsplit(".", 1)
        turned = keras_layout(layer, np.broadcast_to(np.float32(1), shape))
        arrays[f"{layer}/{layer}/{keras_part(layer, part)}:0"] = turned
    assert recognise(arrays) == "matterport_resnet101"
    translated, unused = translate({**arrays, "anchors/Variable:0": np.ones(4)}, matterport.ORIGIN)
    wanted = named_weights(build_backbone("resnet101"))
    assert not unused and set(wanted) <= set(translated)
    assert all(translated[path].shape == tuple(w.shape) for path, w in wanted.items())


def test_arrays_of_other_shapes_are_left_for_the_error_that_names_them():
    names = ("rpn_class_raw", "rpn_bbox_pred", "mrcnn_class_conv1", "mrcnn_class_bn1")
    for value in (np.float32(1), np.ones(3, "float32"), np.ones((2, 2), bool)):
        arrays = {
            f"{name}/{name}/{part}:0": value
            for name in names
            for part in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
        }
        translated, _ = translate(arrays, matterport.ORIGIN)
        assert all(np.array_equal(array, value) for array in translated.values())


def test_a_box_ends_at_its_last_pixel():
    """Of a side of 10 a quarter more is 12.5 between edges, and 1 + 9 * 1.25 = 12.25 between pixels."""
    rois = np.array([[[10, 10, 20, 20], [0, 0, 0, 0]]], "float32")
    deltas = np.zeros((2, 1, 4), "float32")
    deltas[0, 0, 2:] = np.log(1.25) / 0.2
    logits, sizes = np.array([[5, 0], [5, 0]], "float32"), np.array([[100, 100]], "int32")
    edges = DetectionLayer()(rois, logits, deltas, sizes)["boxes"][0]
    pixels = DetectionLayer(box_rule="pixels")(rois, logits, deltas, sizes)["boxes"][0]
    np.testing.assert_allclose(edges[0], [8.75, 8.75, 21.25, 21.25], rtol=1e-6)
    np.testing.assert_allclose(pixels[0], [8.875, 8.875, 21.125, 21.125], rtol=1e-6)
    assert not np.any(pixels[1])


@pytest.mark.parametrize("rule", ["edges", "pixels"])
def test_boxes_of_the_whole_picture_stay_so(rule):
    rois = np.array([[[-5, -5, 60, 90]]], "float32")
    layer = DetectionLayer(box_rule=rule)
    args = np.array([[5, 0]], "float32"), np.zeros((1, 1, 4), "float32"), np.array([[80, 50]])
    assert layer(rois, *args)["boxes"][0, 0].numpy().tolist() == [0, 0, 50, 80]


def test_a_region_is_of_its_best_class_alone():
    """Probabilities .5, .3, .2 (background), and .3, .2, .5."""
    rois = np.array([[[0, 0, 20, 20], [40, 40, 60, 60]]], "float32")
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.3, 0.2, 0.5]], "float32"))
    args = rois, logits, np.zeros((2, 2, 4), "float32"), np.array([[99, 99]])
    assert DetectionLayer()(*args)["num_detections"][0] == 4
    found = DetectionLayer(best_class_only=True)(*args)
    assert found["num_detections"][0] == 1 and found["labels"][0, 0] == 0
    assert found["scores"][0, 0].numpy() == pytest.approx(0.5)


def test_levels_are_suppressed_together():
    """The same box on two levels: one proposal of both, or one of each."""
    box = np.array([[10, 10, 50, 50]], "float32")
    logits = {"P2": np.array([[2]], "float32"), "P3": np.array([[1]], "float32")}
    deltas = {level: np.zeros((1, 1, 4), "float32") for level in logits}
    args = {level: box for level in logits}, logits, deltas, np.array([[99, 99]])
    for joint, expected in ((False, 2), (True, 1)):
        proposals = ProposalLayer(5, 5, joint_levels=joint)(*args).numpy()
        assert (proposals[0].max(1) > 0).sum() == expected


def test_around_a_picture_it_is_black_or_grey():
    images, sizes = np.full((1, 2, 3, 1), 200, "float32"), np.array([[2, 2]], "int32")
    for padding, beyond in (("mean", 0), ("black", -50)):
        found = ImageNormalizer((100,), (2,), padding=padding)(images, sizes)
        assert np.array(found)[0, :, :, 0].tolist() == [[50, 50, beyond]] * 2
