import keras
import numpy as np
import pytest

from kmaskrcnn.layers.backbones import (
    APPLICATIONS,
    RESNETS,
    application_backbone,
    backbone_normalisation,
    backbone_stages,
    build_backbone,
    build_stage5,
    freeze_backbone,
)
from kmaskrcnn.layers.norms import FrozenBatchNormalization

STRIDES = {"C2": 4, "C3": 8, "C4": 16, "C5": 32}
CHANNELS = {
    "resnet18": (64, 128, 256, 512),
    "resnet34": (64, 128, 256, 512),
    "resnet50": (256, 512, 1024, 2048),
    "resnet101": (256, 512, 1024, 2048),
    "resnext50_32x4d": (256, 512, 1024, 2048),
    "resnext101_32x8d": (256, 512, 1024, 2048),
    "resnext101_64x4d": (256, 512, 1024, 2048),
    "mobilenet_v2": (144, 192, 576, 1280),
    "efficientnetv2_b0": (32, 48, 112, 1280),
    "efficientnetv2_s": (48, 64, 160, 1280),
    "convnext_tiny": (96, 192, 384, 768),
}
ROUNDED_DOWN = ("mobilenet_v2", "convnext_tiny")
# test_resnet.py looks at every depth; here one stands for all.
SLOW = (
    "resnet34",
    "resnet50",
    "resnet101",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "efficientnetv2_s",
)
NAMES = [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CHANNELS]


@pytest.fixture(scope="module")
def mobilenet():
    return build_backbone("mobilenet_v2")


def norms(model):
    return [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]


def test_the_table_is_tested():
    assert set(CHANNELS) == {*RESNETS, *APPLICATIONS}


@pytest.mark.parametrize("name", NAMES)
def test_strides_and_channels(name):
    backbone = build_backbone(name)
    assert backbone.name == name
    for height, width in [(64, 96), (95, 70)]:
        outputs = backbone(np.zeros((1, height, width, 3), "float32"))
        assert list(outputs) == list(STRIDES)
        for (stage, stride), channels in zip(STRIDES.items(), CHANNELS[name]):
            sides = height, width
            if name in ROUNDED_DOWN and height % 32:
                # Halvings rounded down, but for MobileNetV2's first, which is padded as "same".
                same = name == "mobilenet_v2"
                sides = [-(-side // 2) * 2 // stride if same else side // stride for side in sides]
            else:
                sides = [-(-side // stride) for side in sides]
            assert outputs[stage].shape == (1, *sides, channels)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", pytest.param("convnext_tiny", marks=pytest.mark.slow)]
)
def test_saves_and_loads(name, tmp_path):
    backbone = build_backbone(name, in_channels=1)
    images = np.random.default_rng(0).normal(size=(1, 32, 64, 1)).astype("float32")
    backbone.save(tmp_path / "backbone.keras")
    loaded = keras.saving.load_model(tmp_path / "backbone.keras")
    for stage, expected in backbone(images).items():
        np.testing.assert_allclose(loaded(images)[stage], expected, rtol=1e-5, atol=1e-5)


def test_frozen_norms_stay_frozen(mobilenet):
    assert len(norms(mobilenet)) == 52
    assert all(isinstance(norm, FrozenBatchNormalization) for norm in norms(mobilenet))
    mobilenet.trainable = True
    assert {weight.name for weight in mobilenet.trainable_weights} == {"kernel"}
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(
        mobilenet(images, training=True)["C5"], mobilenet(images, training=False)["C5"]
    )


def test_trainable_norms_use_the_batch():
    backbone = build_backbone("mobilenet_v2", norm="batch_norm", alpha=0.35)
    assert backbone.name == "mobilenet_v2_0.35"
    assert not any(isinstance(norm, FrozenBatchNormalization) for norm in norms(backbone))
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    trained, inferred = (backbone(images, training=flag)["C2"] for flag in (True, False))
    assert np.abs(trained - inferred).max() > 0.1


def test_equals_the_application_it_is_made_of(mobilenet):
    network = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    generator = np.random.default_rng(0)
    for given, layer in zip(network.layers, mobilenet.layers):
        weights = [w + generator.uniform(0, 0.1, w.shape) for w in given.get_weights()]
        given.set_weights(weights)
        layer.set_weights(weights)
    images = generator.normal(size=(1, 64, 64, 3)).astype("float32")
    expected = network(images, training=False)
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(mobilenet(images)["C5"], expected, atol=1e-5 * scale)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_stages_are_a_partition_in_order(name):
    backbone = build_backbone(name)
    stages = backbone_stages(backbone)
    layers = [layer.name for stage in stages for layer in stage]
    assert sorted(layers) == sorted(layer.name for layer in backbone.layers)
    first, last = zip(*((stage[0].name, stage[-1].name) for stage in stages))
    if name == "resnet18":
        assert first[1:] == tuple(f"C{level}_block1_conv1" for level in (2, 3, 4, 5))
        assert last == ("stem_pool", *(f"C{level}_block2_relu" for level in (2, 3, 4, 5)))
    else:
        assert first[1:] == (
            "expanded_conv_depthwise",
            "block_3_pad",
            "block_6_pad",
            "block_13_pad",
        )
        assert last[0] == "Conv1_relu"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_freezing_takes_the_first_stages(name):
    backbone = build_backbone(name)
    stages = backbone_stages(backbone)
    counts = []
    for trainable_stages in range(6):
        freeze_backbone(backbone, trainable_stages)
        kernels = {id(weight) for weight in backbone.trainable_weights}
        expected = stages[5 - trainable_stages :]
        assert kernels == {id(w) for s in expected for x in s for w in x.trainable_weights}
        counts.append(len(kernels))
    assert counts[0] == 0 and counts == sorted(set(counts))
    if name == "resnet18":  # C5, C4, C3: 5 convolutions each; C2 has no shortcut; the stem
        assert counts == [0, 5, 10, 15, 19, 20]


def test_a_trunk_that_ends_with_c4_has_no_last_stage_to_freeze():
    backbone = build_backbone("resnet18", last_stage="C4")
    stages = backbone_stages(backbone)
    assert [len(stage) > 0 for stage in stages] == [True] * 4 + [False]
    freeze_backbone(backbone, 2)
    assert {w.path[:2] for w in backbone.trainable_weights} == {"C4"}


@pytest.mark.parametrize("name", NAMES)
def test_the_last_stage_alone(name):
    stage5 = build_stage5(name)
    channels = CHANNELS[name]
    assert stage5.compute_output_shape((3, 14, 14, channels[2])) == (3, 7, 7, channels[3])
    assert all(isinstance(norm, FrozenBatchNormalization) for norm in norms(stage5))


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", pytest.param("convnext_tiny", marks=pytest.mark.slow)]
)
def test_a_trunk_and_its_last_stage_are_the_whole(name):
    whole, stage5 = build_backbone(name), build_stage5(name)
    trunk = build_backbone(name, last_stage="C4")
    generator = np.random.default_rng(0)
    for given, layer in zip(whole.layers, trunk.layers + stage5.layers[1:], strict=True):
        # Around 0, norms around 0.5: the maps neither die nor reach ReLU6's end.
        weights = [
            generator.uniform(-0.05, 0.05, w.shape) + 0.5 * (w.ndim == 1)
            for w in given.get_weights()
        ]
        given.set_weights(weights)
        layer.set_weights(weights)
    pictures = generator.normal(size=(1, 64, 96, 3)).astype("float32")
    expected = np.array(whole(pictures)["C5"])
    assert expected.std((0, 1, 2)).mean() > 1e-3
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(stage5(trunk(pictures)["C4"]), expected, atol=atol)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_trunks_for_one_level(name):
    dilated = build_backbone(name, c5_dilation=2)
    outputs = dilated.compute_output_spec(keras.KerasTensor((1, 64, 96, 3)))
    assert outputs["C4"].shape[1:3] == outputs["C5"].shape[1:3] == (4, 6)


def test_a_frozen_stage_of_trainable_norms_stands_still():
    backbone = build_backbone("resnet18", norm="batch_norm")
    freeze_backbone(backbone, 3)
    means = {w.path: w.numpy() for w in backbone.weights if w.name == "moving_mean"}
    backbone(np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32"), training=True)
    moved = {w.path[:2] for w in backbone.weights
             if w.path in means and not np.array_equal(w, means[w.path])}  # fmt: skip
    assert moved == {"C3", "C4", "C5"}


def test_any_application_by_its_endpoints():
    backbone = application_backbone(
        keras.applications.ResNet50,
        {f"C{i}": f"conv{i}_block{n}_out" for i, n in enumerate((3, 4, 6, 3), start=2)},
        name="keras_resnet50",
    )
    outputs = backbone.compute_output_spec(keras.KerasTensor((1, 64, 96, 3)))
    assert [outputs[stage].shape for stage in STRIDES] == [
        (1, 16, 24, 256), (1, 8, 12, 512), (1, 4, 6, 1024), (1, 2, 3, 2048),
    ]  # fmt: skip


def test_normalisation_is_what_keras_itself_does():
    pixels = np.array([[[[0.0, 100.0, 255.0]]]], "float32")
    for name, preprocess in [
        ("mobilenet_v2", keras.applications.mobilenet_v2.preprocess_input),
        ("efficientnetv2_b0", first_layers("EfficientNetV2B0", "stem_conv")),
        ("convnext_tiny", first_layers("ConvNeXtTiny", "convnext_tiny_stem")),
    ]:
        mean, std = backbone_normalisation(name)
        expected = np.asarray(preprocess(pixels.copy()))
        np.testing.assert_allclose((pixels - mean) / std, expected, atol=2e-3)
    assert backbone_normalisation("resnet50")[0] == (123.675, 116.28, 103.53)


def first_layers(function, until):
    """What an application that brings its own preprocessing feeds to its first convolution."""
    network = getattr(keras.applications, function)(weights=None, include_top=False)
    return keras.Model(network.input, network.get_layer(until).input)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: build_backbone("vgg16"), "backbone 'vgg16' is not known; accepted are resnet18"),
        (lambda: backbone_normalisation("vgg16"), "backbone 'vgg16' is not known"),
        (lambda: build_backbone("resnet18", alpha=0.5), "alpha=0.5 is for mobilenet_v2"),
        (lambda: build_backbone("convnext_tiny", stride_in_1x1=True), "stride_in_1x1=True"),
        (lambda: build_backbone("mobilenet_v2", last_stage="C6"), "last_stage='C6'; accepted are"),
        (lambda: build_stage5("vgg16"), "backbone 'vgg16' is not known"),
        (lambda: build_backbone("mobilenet_v2", norm="group_norm"), "norm='group_norm'"),
        (lambda: application_backbone(None, {"C2": "a"}), r"endpoints has \['C2'\]"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("number", [-1, 6, "all"])
def test_wrong_number_of_stages_is_named(mobilenet, number):
    with pytest.raises(ValueError, match=f"trainable_stages={number!r}"):
        freeze_backbone(mobilenet, number)
