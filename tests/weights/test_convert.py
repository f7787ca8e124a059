"""Names, layouts and orders of others' weights, on models small enough to build in a second."""

import keras
import numpy as np
import pytest
from made_weights import made_state
from tiny import tiny_config

from kmaskrcnn.layers.backbones import build_backbone
from kmaskrcnn.layers.resnet import resnet
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.weights import tables
from kmaskrcnn.weights.architectures import recognise
from kmaskrcnn.weights.backbones import load_backbone_weights
from kmaskrcnn.weights.convert import (
    behind_map,
    for_channels,
    load_arrays,
    load_backbone_arrays,
    named_weights,
    our_path,
    translate,
)


@pytest.mark.parametrize(
    "origin, name, path",
    [
        (tables.TORCHVISION, "backbone.body.conv1.weight", "stem/kernel"),
        (
            tables.TORCHVISION,
            "backbone.body.layer3.22.bn2.running_var",
            "C4_block23_conv2/norm/moving_variance",
        ),
        (
            tables.TORCHVISION,
            "backbone.body.layer1.0.downsample.1.weight",
            "C2_block1_shortcut/norm/gamma",
        ),
        (tables.TORCHVISION, "backbone.fpn.inner_blocks.0.0.bias", "fpn/lateral_C2/bias"),
        (tables.TORCHVISION, "backbone.fpn.layer_blocks.3.weight", "fpn/output_P5/kernel"),
        (tables.TORCHVISION, "backbone.fpn.layer_blocks.3.1.bias", "fpn/output_P5/norm/beta"),
        (tables.TORCHVISION, "rpn.head.conv.1.0.weight", "rpn_head/conv2/kernel"),
        (tables.TORCHVISION, "roi_heads.box_head.3.1.weight", "box_head/conv4/norm/gamma"),
        (tables.TORCHVISION, "roi_heads.mask_head.mask_fcn1.weight", "mask_head/conv1/kernel"),
        (
            tables.DETECTRON2,
            "backbone.bottom_up.res4.5.conv3.norm.running_mean",
            "C4_block6_conv3/norm/moving_mean",
        ),
        (tables.DETECTRON2, "backbone.res4.0.shortcut.weight", "C4_block1_shortcut/kernel"),
        (
            tables.DETECTRON2,
            "roi_heads.res5.2.conv1.norm.bias",
            "C5_block3_conv1/norm/beta",
        ),
        (tables.DETECTRON2, "backbone.fpn_output3.bias", "fpn/output_P3/bias"),
        (tables.DETECTRON2, "roi_heads.box_head.fc2.weight", "box_head/dense2/kernel"),
        (tables.DETECTRON2, "roi_heads.mask_head.deconv.weight", "mask_head/upsample/kernel"),
        (tables.TORCHVISION, "roi_heads.something_else.weight", None),
    ],
)
def test_names(origin, name, path):
    assert our_path(name, origin.table) == path


def test_the_names_of_the_first_published_files_are_known_too():
    import json

    from parity_stages import load_fixture

    old = json.loads(str(load_fixture("maskrcnn_resnet50_fpn")["old_names"]))
    for new, published in old.items():
        table = tables.TORCHVISION.table
        assert our_path(published, table) == our_path(new, table) is not None


def test_caffe2_names_become_a_trunk():
    arrays = {
        "conv1_w": np.zeros((64, 3, 7, 7)),
        "res_conv1_bn_s": np.ones(64),
        "res_conv1_bn_b": np.zeros(64),
        "res2_0_branch1_w": np.zeros((256, 64, 1, 1)),
        "res2_0_branch2a_bn_running_mean": np.zeros(64),
        "fc1000_w": np.zeros((1000, 2048)),
    }
    translated, unused = translate(arrays, tables.CAFFE2_TRUNK)
    assert not unused
    assert set(translated) == {
        "stem/kernel",
        *(f"stem/norm/{part}" for part in ("gamma", "beta", "moving_mean", "moving_variance")),
        "C2_block1_shortcut/kernel",
        "C2_block1_conv1/norm/moving_mean",
    }
    # a scale alone stays the scale once the norm adds its epsilon
    np.testing.assert_allclose(translated["stem/norm/moving_variance"] + 1e-5, 1)


def test_a_dense_layer_behind_a_map_gives_what_it_gave_channels_first():
    rng = np.random.default_rng(0)
    pooled, weight = rng.normal(size=(2, 3, 3, 5)), rng.normal(size=(4, 5 * 3 * 3))
    theirs = pooled.transpose(0, 3, 1, 2).reshape(2, -1) @ weight.T
    ours = pooled.reshape(2, -1) @ behind_map(weight.T, 3)
    np.testing.assert_allclose(ours, theirs)


def test_the_background_goes_last_and_loses_boxes_and_mask():
    rows = np.arange(4.0)
    arrays = {
        "roi_heads.box_predictor.cls_score.bias": rows,
        "roi_heads.box_predictor.bbox_pred.bias": np.repeat(rows, 4),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": rows[:, None, None, None],
    }
    first, _ = translate(arrays, tables.TORCHVISION)
    assert first["box_head/class_logits/bias"].tolist() == [1, 2, 3, 0]
    assert first["box_head/box_deltas/bias"].tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert first["mask_head/logits/kernel"].shape == (1, 1, 1, 3)
    assert first["mask_head/logits/kernel"].ravel().tolist() == [1, 2, 3]


def test_a_stem_for_other_pictures():
    kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 4))
    grey = np.random.default_rng(1).normal(size=(7, 7))
    rgb_answer = np.einsum("yx,yxcf->f", grey, kernel)
    np.testing.assert_array_equal(for_channels(kernel, 3), kernel)
    for channels in (1, 2):  # a grey picture, copied into each channel, gives what it gave as RGB
        fitted = for_channels(kernel, channels)
        assert fitted.shape == (7, 7, channels, 4)
        np.testing.assert_allclose(np.einsum("yx,yxcf->f", grey, fitted), rgb_answer)
    depth = for_channels(kernel, 5)
    np.testing.assert_array_equal(depth[:, :, :3], kernel)
    np.testing.assert_allclose(depth[:, :, 3:], kernel.mean(2, keepdims=True).repeat(2, 2))


def torchvision_names(model):
    """A state dict for a small ResNet detector, with torchvision's names and layouts, made by NumPy."""
    shapes = {}
    for path, weight in named_weights(model).items():
        layer, _, part = path.rpartition("/")
        shape = list(weight.shape)
        # the background's mask and box
        shape[-1] += {"mask_head/logits": 1, "box_head/box_deltas": 4}.get(layer, 0)
        shape = shape[::-1] if len(shape) == 2 else shape
        shape = [shape[3], shape[2], *shape[:2]] if len(shape) == 4 else shape
        shapes[_torchvision_name(layer, part)] = shape
    return made_state(shapes)


def _torchvision_name(layer, part):
    import re

    norm = layer.endswith("/norm")
    layer = layer.removesuffix("/norm")
    names = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    part = names.get(part, part)
    found = re.fullmatch(r"C(\d)_block(\d+)_(?:conv(\d)|shortcut)", layer)
    if found:
        stage, block, number = (int(group or 0) for group in found.groups())
        name = f"bn{number}" if norm else f"conv{number}"
        name = name if number else f"downsample.{int(norm)}"
        return f"backbone.body.layer{stage - 1}.{block - 1}.{name}.{part}"
    found = re.fullmatch(r"fpn/(lateral|output)_.(\d)", layer)
    if found:
        kind = {"lateral": "inner", "output": "layer"}[found[1]]
        return f"backbone.fpn.{kind}_blocks.{int(found[2]) - 2}.0.{part}"
    others = {
        "stem": "backbone.body.bn1" if norm else "backbone.body.conv1",
        "rpn_head/conv1": "rpn.head.conv.0.0",
        "rpn_head/logits": "rpn.head.cls_logits",
        "rpn_head/deltas": "rpn.head.bbox_pred",
        "box_head/dense1": "roi_heads.box_head.fc6",
        "box_head/dense2": "roi_heads.box_head.fc7",
        "box_head/class_logits": "roi_heads.box_predictor.cls_score",
        "box_head/box_deltas": "roi_heads.box_predictor.bbox_pred",
        "mask_head/conv1": "roi_heads.mask_head.0.0",
        "mask_head/upsample": "roi_heads.mask_predictor.conv5_mask",
        "mask_head/logits": "roi_heads.mask_predictor.mask_fcn_logits",
    }
    return f"{others[layer]}.{part}"


@pytest.fixture(scope="module")
def small():
    return MaskRCNN(tiny_config())


@pytest.fixture(scope="module")
def state(small):
    return torchvision_names(small)


def test_every_weight_is_loaded_and_nothing_is_left(small, state):
    report = load_arrays(small, state, tables.TORCHVISION)
    assert set(report.loaded) == set(named_weights(small))
    assert not report.initialised and not report.unused
    kernel = small.backbone.get_layer("C3_block1_conv1").kernel.numpy()
    theirs = state["backbone.body.layer2.0.conv1.weight"]
    np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    "load, kept", [("all", 0), ("trunk", 6), ("backbone", None)], ids=lambda value: str(value)
)
def test_what_is_loaded(small, state, load, kept):
    before = {path: w.numpy() for path, w in named_weights(small).items()}
    shifted = {name: array + 1 for name, array in state.items()}
    report = load_arrays(small, shifted, tables.TORCHVISION, load)
    changed = {p for p, w in named_weights(small).items() if not np.array_equal(w, before[p])}
    assert changed == set(report.loaded)
    if kept is not None:
        assert len(report.initialised) == kept
    else:
        assert changed == set(named_weights(small.backbone))
    load_arrays(small, state, tables.TORCHVISION)


def test_another_number_of_classes_keeps_the_trunk_and_says_so(state):
    trunk = MaskRCNN(tiny_config(class_names=("a", "b")))
    report = load_arrays(trunk, state, tables.TORCHVISION)
    assert set(report.initialised) == {
        f"{layer}/{part}"
        for layer in ("box_head/class_logits", "box_head/box_deltas", "mask_head/logits")
        for part in ("kernel", "bias")
    }
    assert "left as initialised, the file has 3 classes: box_head/class_logits/kernel" in str(
        report
    )
    np.testing.assert_array_equal(trunk.rpn_head.deltas.bias, state["rpn.head.bbox_pred.bias"])


def test_what_does_not_fit_is_named_and_changes_nothing(small, state):
    before = small.get_weights()
    broken = dict(state)
    del broken["rpn.head.conv.0.0.bias"]
    broken["backbone.body.conv1.weight"] = np.zeros((64, 3, 3, 3), "float32")
    with pytest.raises(ValueError, match=r"rpn_head/conv1/bias is missing, stem/kernel has shape"):
        load_arrays(small, broken, tables.TORCHVISION)
    with pytest.raises(ValueError, match="load: got 'heads'"):
        load_arrays(small, state, tables.TORCHVISION, load="heads")
    for one, other in zip(before, small.get_weights()):
        np.testing.assert_array_equal(one, other)


def test_names_without_a_place_are_reported(small, state):
    report = load_arrays(small, {**state, "ema.decay": np.zeros(1)}, tables.TORCHVISION)
    assert report.unused == ("ema.decay",) and "ema.decay" in str(report)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_a_torchvision_trunk_from_a_file(name, tmp_path):
    trunk, depth = build_backbone(name), 18 if name == "resnet18" else 50
    shapes = {}
    for path, weight in named_weights(trunk).items():
        layer, _, part = path.rpartition("/")
        shape = weight.shape if len(weight.shape) == 1 else np.take(weight.shape, [3, 2, 0, 1])
        shapes[_torchvision_name(layer, part).removeprefix("backbone.body.")] = shape
    state = made_state({**shapes, "fc.weight": (1000, 8), "bn1.num_batches_tracked": ()})
    assert recognise(state) == name
    np.savez(tmp_path / "trunk.npz", **state)
    load_backbone_weights(trunk, tmp_path / "trunk.npz")
    last = trunk.get_layer(f"C5_block{2 if depth == 18 else 3}_conv2").norm_layer.moving_variance
    name = f"layer4.{1 if depth == 18 else 2}.bn2.running_var"
    np.testing.assert_array_equal(last, state[name])


def test_a_trunk_whose_last_stage_stands_apart(tmp_path):
    """The file of a whole trunk fills both, and a C4 model counts both as its backbone."""
    whole = resnet(18)
    state = {}
    for path, weight in named_weights(whole).items():
        layer, _, part = path.rpartition("/")
        shape = weight.shape if len(weight.shape) == 1 else np.take(weight.shape, [3, 2, 0, 1])
        state[_torchvision_name(layer, part).removeprefix("backbone.body.")] = shape
    state = made_state(state)
    np.savez(tmp_path / "trunk.npz", **state)
    load_backbone_weights(whole, tmp_path / "trunk.npz")
    expected = named_weights(whole)
    c4 = {"pyramid": "c4", "box_pool_size": 14, "box_head_dense": 0, "mask_head_convs": 0}
    model = MaskRCNN(tiny_config(**c4))
    load_backbone_weights(model.backbone, tmp_path / "trunk.npz", model.stage5)
    both = named_weights(model.backbone) | named_weights(model.stage5)
    assert set(both) == set(expected)
    for path, weight in both.items():
        np.testing.assert_array_equal(weight, expected[path], path)
    theirs = {f"backbone.body.{name}": array + 1 for name, array in state.items()}
    report = load_arrays(model, theirs, tables.TORCHVISION, load="backbone")
    assert set(report.loaded) == set(expected) and not report.unused
    last = theirs["backbone.body.layer4.1.conv2.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model.stage5.get_layer("C5_block2_conv2").kernel, last)


def test_keras_own_resnet_gives_the_same_maps():
    """Biases before the norms, stride in the 1x1, epsilon 1.001e-5, blue first: all of it at once."""
    keras.utils.set_random_seed(0)
    network = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    rng = np.random.default_rng(0)
    for weight in network.weights:
        if len(weight.shape) == 1:
            low, high = (0.5, 1.5) if "variance" in weight.path else (-0.3, 0.3)
            weight.assign(rng.uniform(low, high, weight.shape))
    arrays = {weight.path: weight.numpy() for weight in network.weights}
    trunk = resnet(50, stride_in_1x1=True, norm_epsilon=1.001e-5)
    report = load_backbone_arrays(trunk, arrays, tables.KERAS_TRUNK)
    assert not report.unused
    places = {f"C{i}": f"conv{i}_block{n}_out" for i, n in enumerate((3, 4, 6, 3), start=2)}
    stages = keras.Model(
        network.inputs[0], {stage: network.get_layer(name).output for stage, name in places.items()}
    )
    images = rng.normal(size=(1, 64, 96, 3)).astype("float32")
    expected, found = stages(images[..., ::-1]), trunk(images)
    for stage in places:
        scale = np.abs(expected[stage]).max()
        np.testing.assert_allclose(found[stage] / scale, expected[stage] / scale, atol=1e-5)
