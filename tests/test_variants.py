"""Each variant of the paper, from its YAML: it builds, learns, saves and loads; and what sets it apart shows."""

import dataclasses
from pathlib import Path

import keras
import numpy as np
import pytest
from tiny import TINY, batch, tiny_backbone, tiny_config

from kmaskrcnn.components import make_roi_layer
from kmaskrcnn.config import MaskRCNNConfig, load_yaml
from kmaskrcnn.layers.roi_align import RoIAlign
from kmaskrcnn.layers.roi_pool import RoIPool, RoIWarp
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.objective import loss_names

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
# One of each kind; the others differ from these by a word, and run with `make test-slow`.
QUICK = (
    "finetune_heads",
    "persons_masks_keypoints",
    "shapes_roi_pool",
    "shapes_mask_softmax",
    "shapes_mask_mlp",
    "shapes_box_ciou",
    "shapes_soft_nms_gaussian",
)
POINTS = {"keypoint_names": ("a", "b", "c"), "keypoint_flip_pairs": ((0, 1),)}


def shrunk(config):
    """The same variant of the model, small."""
    small = {name: value for name, value in TINY.items() if not name.startswith("mask_pool")}
    grouped = "group_norm" in (config.norm, config.fpn_norm)
    small |= {
        "max_detections": 3,
        "mask_head_units": 16,
        **(POINTS if config.with_keypoints else {}),
        **({"fpn_channels": 32, "mask_head_channels": 32} if grouped else {}),
        "backbone": config.backbone,
    }
    return dataclasses.replace(config, **small)


def small_backbone(config):
    """The variant's own where its trunk is what sets it apart."""
    own = config.backbone.startswith("resnext") or config.pyramid != "fpn"
    return None if own else tiny_backbone(config.norm)


def make_batch(config, seed=0):
    keypoints = config.num_keypoints if config.with_keypoints else 0
    return batch(np.random.default_rng(seed), masks=config.with_mask, keypoints=keypoints)


def with_its_speed(path):
    return pytest.param(path, marks=[] if path.stem in QUICK else pytest.mark.slow, id=path.stem)


@pytest.mark.parametrize("path", map(with_its_speed, CONFIGS))
def test_every_variant_learns_saves_and_loads(path, tmp_path):
    config = shrunk(load_yaml(path).model)
    model = MaskRCNN(config, backbone=small_backbone(config))
    inputs, targets = make_batch(config)
    # Eager: a step costs less than the trace of one.
    model.compile(optimizer=keras.optimizers.SGD(1e-3), run_eagerly=True)
    losses = model.train_on_batch(inputs, targets, return_dict=True)
    assert set(losses) == {"loss", *loss_names(config)}
    assert all(np.isfinite(value) and value > 0 for value in losses.values()), losses
    before = model(inputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    assert loaded.config == config
    after = loaded(inputs)
    assert ("masks" in after, "keypoints" in after) == (config.with_mask, config.with_keypoints)
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name])


@pytest.mark.parametrize(
    "change, weights",
    [
        ({"roi_pooling": "warp"}, ()),
        ({"class_agnostic_boxes": True}, ("box_head/box_deltas",)),
        ({"class_agnostic_masks": True}, ("mask_head/logits",)),
        ({"mask_activation": "softmax"}, ("mask_head/logits",)),
    ],
)
def test_a_variant_differs_where_it_says(change, weights):
    """Only the layers named have weights of another shape."""
    plain, other = (MaskRCNN(tiny_config(**c), backbone=tiny_backbone()) for c in ({}, change))
    shapes = [{w.path: tuple(w.shape) for w in model.weights} for model in (plain, other)]
    differing = {path for path in shapes[0] if shapes[0][path] != shapes[1][path]}
    assert set(shapes[0]) == set(shapes[1])
    assert {path.rpartition("/")[0] for path in differing} == set(weights)
    kinds = {"align": RoIAlign, "warp": RoIWarp, "pool": RoIPool}
    assert type(other.box_branch.align) is kinds[other.config.roi_pooling]


@pytest.mark.parametrize("pooling", ["align", "warp", "pool", "crop"])
@pytest.mark.parametrize("levels, expected", [(("P4",), 4), (("P3", "P4"), 3)])
def test_regions_are_pooled_from_the_levels_named(pooling, levels, expected):
    """Each map holds its level's number, and a region of 20 pixels belongs to the finest there is."""
    layer = make_roi_layer(tiny_config(roi_pooling=pooling, roi_levels=levels), 7, "align")
    maps = {f"P{n}": np.full((1, 256 >> n, 256 >> n, 1), n, "float32") for n in (2, 3, 4, 5)}
    pooled = np.array(layer(maps, np.array([[[40.0, 40.0, 60.0, 60.0]]], "float32")))
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


@pytest.fixture(scope="module")
def pose_model():
    """Boxes, masks and keypoints in one."""
    return MaskRCNN(tiny_config(with_keypoints=True, **POINTS), backbone=tiny_backbone())


def test_keypoints_of_detections_keep_the_contract(pose_model):
    inputs, _ = make_batch(pose_model.config)
    out = {name: np.array(values) for name, values in pose_model(inputs).items()}
    assert out["keypoints"].shape == (2, 10, 3, 3) and out["keypoints"].dtype == "float32"
    for i, count in enumerate(out["num_detections"]):
        points, boxes = out["keypoints"][i], out["boxes"][i]
        assert count > 0 and not points[count:].any()
        for point, box in zip(points[:count], boxes[:count]):
            assert (point[:, :2] >= box[:2]).all() and (point[:, :2] <= box[2:] + 1).all()
        assert ((points[:count, :, 2] > 0) & (points[:count, :, 2] <= 1)).all()


def test_nothing_visible_costs_nothing_and_teaches_nothing(pose_model):
    inputs, targets = make_batch(pose_model.config)
    shown = pose_model.loss_values(pose_model({**inputs, **targets}, training=True))
    # As many cells as the softmax has to choose from: at the start none is preferred.
    assert float(shown["keypoint_loss"]) == pytest.approx(np.log(56 * 56), rel=0.01)
    targets["keypoints"][..., 2] = 0
    hidden = pose_model.loss_values(pose_model({**inputs, **targets}, training=True))
    assert float(hidden["keypoint_loss"]) == 0
    assert all(np.isfinite(float(value)) for value in hidden.values())


def test_pictures_without_objects_have_no_keypoint_loss(pose_model):
    inputs, targets = batch(np.random.default_rng(0), (0, 0), keypoints=3)
    losses = pose_model.loss_values(pose_model({**inputs, **targets}, training=True))
    assert float(losses["keypoint_loss"]) == 0 and float(losses["mask_loss"]) == 0


def test_keypoints_without_names_are_refused():
    with pytest.raises(ValueError, match="keypoint_names: got none"):
        MaskRCNN(tiny_config(with_keypoints=True), backbone=tiny_backbone())


@pytest.mark.parametrize(
    "values, message",
    [
        ({"keypoint_flip_pairs": ((0, 3),)}, "keypoint_flip_pairs: got .* among the 3"),
        ({"keypoint_skeleton": ((0, 1, 2),)}, "keypoint_skeleton: got"),
        ({"keypoint_sigmas": (0.1,)}, "keypoint_sigmas: got .* each of the 3"),
        ({"class_agnostic_masks": True, "mask_activation": "softmax"}, "mask_activation: got"),
        ({"box_loss": "iou"}, "box_loss: got 'iou'"),
        ({"suppression": "soft"}, "suppression: got 'soft'"),
        ({"roi_pooling": "cut"}, "roi_pooling: got 'cut'"),
        ({"roi_levels": ("P2", "P4")}, "roi_levels: got .* in a row"),
        ({"roi_levels": ("P6",)}, "roi_levels: got"),
        ({"roi_levels": ()}, "roi_levels: got"),
    ],
)
def test_variants_that_do_not_exist_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        MaskRCNNConfig(**{"keypoint_names": ("a", "b", "c"), **values})


def test_softmax_masks_are_shares_of_one():
    """Of all classes' masks and the background's, so an own-class mask with even logits is 1 / (K + 1)."""
    config = tiny_config(mask_activation="softmax")
    model = MaskRCNN(config, backbone=tiny_backbone())
    model.mask_branch.head.logits.kernel.assign(0 * model.mask_branch.head.logits.kernel)
    inputs, _ = make_batch(config)
    out = model(inputs)
    masks = np.array(out["masks"])[np.array(out["labels"]) >= 0]
    np.testing.assert_allclose(masks, 0.25, atol=1e-6)
