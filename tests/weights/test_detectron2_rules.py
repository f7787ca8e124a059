"""State dicts of Detectron2's names, made by NumPy: our converted models give what Detectron2's rules give."""

import dataclasses

import numpy as np
import pytest
from detectron2_names import Names
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


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of the zoo, and what of it may be smaller than published."""

    architecture: str
    names: dict = dataclasses.field(default_factory=dict)
    oracle: dict = dataclasses.field(default_factory=dict)
    changes: dict = dataclasses.field(default_factory=dict)
    stem: float = 1 / 60  # its share of a picture that is not divided by its spread


CASES = {
    "R50-FPN": Case("mask_rcnn_R_50_FPN"),
    "R50-C4": Case("mask_rcnn_R_50_C4", {"kind": "c4"}, {"kind": "c4"}),
    "R50-DC5": Case(
        "mask_rcnn_R_50_DC5",
        {"kind": "dc5", "units": 64},  # the first dense layer has 100,352 inputs
        {"kind": "dc5"},
        {"box_head_units": 64},
    ),
    "X101-FPN": Case(
        "mask_rcnn_X_101_32x8d_FPN",
        {"depth": 101, "groups": 32, "width": 8},
        {"stride_in_1x1": False, "std_bgr": (57.375, 57.12, 58.395)},
        stem=1.0,
    ),
}
SLOW = ("R50-DC5", "X101-FPN")
NAMES = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    return CASES[request.param]


@pytest.fixture(scope="module")
def state(case):
    # The picture's spread; the rest keeps boxes near their anchors and scores apart.
    trunk = "backbone.bottom_up" if case.oracle.get("kind", "fpn") == "fpn" else "backbone"
    scales = {
        f"{trunk}.stem.conv1.weight": case.stem,
        **{f"backbone.fpn_output{level}.weight": 0.05 for level in (2, 3, 4, 5)},
        "proposal_generator.rpn_head.anchor_deltas.weight": 0.1,
        "roi_heads.box_predictor.bbox_pred.weight": 0.3,
        "roi_heads.box_predictor.cls_score.weight": 3.0,
    }
    made = made_state(
        Names(**case.names).shapes, 0, {f"scale/{n}": scale for n, scale in scales.items()}
    )
    for name in made:
        if name.endswith("conv3.norm.weight"):
            made[name] *= 0.3  # made_weights knows torchvision's name of this norm alone
    return made


@pytest.fixture(scope="module")
def ours(case, state):
    """Our converted model, its features, proposals and detections of the picture."""
    assert recognise(state) == case.architecture
    architecture = find_architecture(case.architecture)
    size = {"min_size": SIZE[0], "max_size": SIZE[1], "rpn_post_nms_topk": PROPOSALS}
    config = make_config(architecture, **size, **case.changes)
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
def theirs(case, state):
    oracle = Oracle(state, PROPOSALS, **case.oracle)
    features = oracle.features(picture())
    proposals = oracle.proposals(features, SIZE)
    boxes, scores, labels = oracle.detect(features, proposals, SIZE)
    return features, proposals, boxes, scores, labels, oracle.masks(features, boxes[:5], labels[:5])


def picture():
    return made_picture("street", *SIZE)


def test_trunk_and_pyramid(ours, theirs):
    """Blue first, the statistics and the stride of the model's kind, epsilon 1e-5, groups, dilation."""
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
    np.testing.assert_allclose(ours[2]["boxes"][0][:count], boxes, atol=1e-3)
    np.testing.assert_allclose(ours[2]["scores"][0][:count], scores, atol=2e-5)


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
