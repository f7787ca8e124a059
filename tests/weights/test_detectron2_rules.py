"""A state dict of Detectron2's names, made by NumPy: our converted model gives what Detectron2's rules give."""

import numpy as np
import pytest
from detectron2_oracle import Oracle, paste
from made_weights import made_picture, made_state
from PIL import Image

from kmaskrcnn.detections import Detections
from kmaskrcnn.geometry.resizing import resize_pixels, resize_shape
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.serving.detectors import prepare
from kmaskrcnn.weights.architectures import find_architecture, make_config, recognise
from kmaskrcnn.weights.convert import load_arrays

SIZE, PROPOSALS = (72, 90), 60


def detectron2_shapes():
    """Names and shapes of `mask_rcnn_R_50_FPN`, as its published `.pkl` files hold them."""
    shapes = {}

    def conv(name, out, given, kernel, norm=True):
        shapes[f"{name}.weight"] = (out, given, kernel, kernel)
        parts = ("weight", "bias", "running_mean", "running_var") if norm else ()
        shapes.update({f"{name}.norm.{part}": (out,) for part in parts})
        if not norm:
            shapes[f"{name}.bias"] = (out,)

    trunk = "backbone.bottom_up"
    conv(f"{trunk}.stem.conv1", 64, 3, 7)
    given = 64
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3)):
        width = 16 * 2**stage
        for block in range(blocks):
            name = f"{trunk}.res{stage}.{block}"
            if block == 0:
                conv(f"{name}.shortcut", 4 * width, given, 1)
            conv(f"{name}.conv1", width, given, 1)
            conv(f"{name}.conv2", width, width, 3)
            conv(f"{name}.conv3", 4 * width, width, 1)
            given = 4 * width
        conv(f"backbone.fpn_lateral{stage}", 256, given, 1, norm=False)
        conv(f"backbone.fpn_output{stage}", 256, 256, 3, norm=False)
    head = "proposal_generator.rpn_head"
    conv(f"{head}.conv", 256, 256, 3, norm=False)
    conv(f"{head}.objectness_logits", 3, 256, 1, norm=False)
    conv(f"{head}.anchor_deltas", 12, 256, 1, norm=False)
    for name, out, given in (
        ("box_head.fc1", 1024, 256 * 49),
        ("box_head.fc2", 1024, 1024),
        ("box_predictor.cls_score", 81, 1024),
        ("box_predictor.bbox_pred", 320, 1024),
    ):
        shapes |= {f"roi_heads.{name}.weight": (out, given), f"roi_heads.{name}.bias": (out,)}
    for i in range(4):
        conv(f"roi_heads.mask_head.mask_fcn{i + 1}", 256, 256, 3, norm=False)
    shapes["roi_heads.mask_head.deconv.weight"] = (256, 256, 2, 2)
    shapes["roi_heads.mask_head.deconv.bias"] = (256,)
    conv("roi_heads.mask_head.predictor", 80, 256, 1, norm=False)
    return shapes


@pytest.fixture(scope="module")
def state():
    # The picture is not divided by its spread: the stem's share of it. The rest keeps boxes near their
    # anchors and scores apart.
    scales = {
        "backbone.bottom_up.stem.conv1.weight": 1 / 60,
        **{f"backbone.fpn_output{level}.weight": 0.05 for level in (2, 3, 4, 5)},
        "proposal_generator.rpn_head.anchor_deltas.weight": 0.1,
        "roi_heads.box_predictor.bbox_pred.weight": 0.3,
        "roi_heads.box_predictor.cls_score.weight": 3.0,
    }
    made = made_state(detectron2_shapes(), 0, {f"scale/{n}": scale for n, scale in scales.items()})
    for name in made:
        if name.endswith("conv3.norm.weight"):
            made[name] *= 0.3  # made_weights knows torchvision's name of this norm alone
    return made


@pytest.fixture(scope="module")
def ours(state):
    """Our converted model, its features, proposals and detections of the picture."""
    assert recognise(state) == "mask_rcnn_R_50_FPN"
    architecture = find_architecture("mask_rcnn_R_50_FPN")
    config = make_config(
        architecture, min_size=SIZE[0], max_size=SIZE[1], rpn_post_nms_topk=PROPOSALS
    )
    model = MaskRCNN(config)
    beside = {"proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4))}
    report = load_arrays(model, {**state, **beside}, architecture.origin)
    assert not report.unused and not report.initialised
    inputs, _ = prepare(picture(), config)
    images = model.normalizer(inputs["images"], inputs["image_sizes"])
    features = model.fpn(model.backbone(images))
    logits, deltas = model.rpn_head(features)
    proposals = model.proposals(model.anchors(features), logits, deltas, inputs["image_sizes"])
    outputs = {name: np.asarray(x) for name, x in model.predict_graph(inputs).items()}
    return features, np.asarray(proposals)[0], outputs


@pytest.fixture(scope="module")
def theirs(state):
    oracle = Oracle(state, PROPOSALS)
    features = oracle.features(picture())
    proposals = oracle.proposals(features, SIZE)
    boxes, scores, labels = oracle.detect(features, proposals, SIZE)
    return features, proposals, boxes, scores, labels, oracle.masks(features, boxes[:5], labels[:5])


def picture():
    return made_picture("street", *SIZE)


def test_trunk_and_pyramid(ours, theirs):
    """Blue first, mean without spread, stride in the 1x1, epsilon 1e-5."""
    for level, expected in theirs[0].items():
        found = np.asarray(ours[0][f"P{level}"])[0].transpose(2, 0, 1)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_proposals(ours, theirs):
    """Anchors not rounded around the cells' corners; each level on its own, then the best of all."""
    assert len(theirs[1]) == PROPOSALS
    np.testing.assert_allclose(ours[1], theirs[1], atol=0.01)


def test_detections(ours, theirs):
    """Aligned RoIAlign with as many samples as cells, the background last, boxes of 80 classes."""
    _, _, boxes, scores, labels, _ = theirs
    count = int(ours[2]["num_detections"][0])
    assert 5 <= count == len(boxes) and len(set(labels)) > 1
    np.testing.assert_array_equal(ours[2]["labels"][0][:count], labels)
    np.testing.assert_allclose(ours[2]["boxes"][0][:count], boxes, atol=0.05)
    np.testing.assert_allclose(ours[2]["scores"][0][:count], scores, atol=1e-4)


def test_masks_and_their_paste(ours, theirs):
    _, _, boxes, _, _, masks = theirs
    np.testing.assert_allclose(ours[2]["masks"][0][: len(masks)], masks, atol=1e-3)
    found = Detections.from_outputs(ours[2], 0, SIZE, SIZE).full_masks()
    for one, mask, box in zip(found, masks, boxes):
        expected = paste(mask, box, SIZE)
        assert (one & expected).sum() >= 0.995 * (one | expected).sum()


def test_pictures_are_resized_by_pillow():
    rgb = made_picture("large", 97, 141)
    size = resize_shape(97, 141, 40, 60, "detectron2")
    assert size == (40, 58)
    expected = np.asarray(Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_pixels(rgb, size, "detectron2"), expected)
    assert np.abs(resize_pixels(rgb, size).astype(int) - expected).max() > 8  # it averages
