import pathlib
import urllib.error

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

from kmaskrcnn.layers.backbones import backbone_normalisation, build_backbone, build_stage5
from kmaskrcnn.weights.backbones import load_backbone_weights
from kmaskrcnn.weights.mobilenet import load_folded_mobilenet_v2

FOLDER = pathlib.Path(__file__).parents[3] / "shared" / "data" / "weights_mobilenet_v2"
WEIGHTS = FOLDER / "mobilenet_v2_1.0_224_notop_folded.npz"
HEAD = FOLDER / "imagenet1001_head_dequantised.npz"


def random_weights(model, seed=0):
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        weight.assign(generator.uniform(0.05, 0.15, weight.shape))


@pytest.fixture(scope="module")
def small():
    return build_backbone("mobilenet_v2", alpha=0.35)


@pytest.fixture
def folded(small):
    """A made-up file of the format for the small network."""
    generator = np.random.default_rng(0)
    values = {}
    for layer in small.layers:
        if hasattr(layer, "kernel"):
            values[f"{layer.name}/kernel"] = generator.normal(size=layer.kernel.shape)
            values[f"{layer.name}/bias"] = generator.normal(size=layer.output.shape[-1])
    return {name: value.astype("float32") for name, value in values.items()}


@pytest.mark.skipif(not WEIGHTS.is_file(), reason="the MobileNetV2 weights are not at hand")
@pytest.mark.parametrize("last_stage", ["C5", "C4"])
@pytest.mark.parametrize(
    "picture, wanted, score", [("parrot.jpg", "macaw", 0.94), ("cat.bmp", "cat", 0.74)]
)
def test_published_weights_classify_pictures(picture, wanted, score, last_stage):
    backbone = build_backbone("mobilenet_v2", last_stage=last_stage)
    stage5 = build_stage5("mobilenet_v2") if last_stage == "C4" else None
    load_backbone_weights(backbone, WEIGHTS, stage5)
    mean, std = backbone_normalisation("mobilenet_v2")
    image = keras.utils.load_img(FOLDER / picture, target_size=(224, 224), interpolation="bilinear")
    features = backbone((np.asarray(image, "float32")[None] - mean) / std)
    features = stage5(features["C4"]) if stage5 else features["C5"]
    head = np.load(HEAD)
    logits = np.mean(features, axis=(0, 1, 2)) @ head["kernel"].astype("float32") + head["bias"]
    scores = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    names = (FOLDER / "imagenet_labels.txt").read_text().splitlines()
    best = int(scores.argmax())
    assert wanted in names[best]
    assert abs(scores[best] - score) < 0.05, (names[best], scores[best])


def test_each_convolution_gets_its_kernel_and_bias(small, folded, tmp_path):
    np.savez(tmp_path / "folded.npz", **folded)
    load_backbone_weights(small, str(tmp_path / "folded.npz"))
    images = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype("float32")
    for convolution, norm in [
        ("Conv1", "bn_Conv1"),
        ("expanded_conv_depthwise", "expanded_conv_depthwise_BN"),
        ("block_7_project", "block_7_project_BN"),
        ("Conv_1", "Conv_1_bn"),
    ]:
        layers = [small.get_layer(convolution), small.get_layer(norm)]
        before, after = keras.Model(small.inputs[0], [layer.output for layer in layers])(images)
        bias = folded[f"{convolution}/bias"]
        np.testing.assert_array_equal(layers[0].kernel, folded[f"{convolution}/kernel"])
        scale = np.abs(after).max()
        np.testing.assert_allclose(after, before + bias, rtol=1e-5, atol=1e-6 * scale)


def test_files_that_do_not_fit_name_every_fault(small, folded, tmp_path):
    before = [weight.numpy() for weight in small.weights]
    path = tmp_path / "folded.npz"

    def load(**changes):
        values = {k: v for k, v in {**folded, **changes}.items() if v is not None}
        np.savez(path, **values)
        load_folded_mobilenet_v2(small, path)

    with pytest.raises(ValueError, match=r"folded.npz.*Conv1/bias is missing.*extra has no place"):
        load(**{"Conv1/bias": None, "extra": np.zeros(1)})
    with pytest.raises(ValueError, match=r"Conv_1/kernel has shape \(1, 1, 2, 3\), the network"):
        load(**{"Conv_1/kernel": np.zeros((1, 1, 2, 3))})
    with pytest.raises(ValueError, match=r"block_1_expand/bias has shape \(1,\), the network \(48"):
        load(**{"block_1_expand/bias": np.zeros(1)})
    with pytest.raises(ValueError, match="allow_pickle"):
        load(**{"Conv1/bias": np.array([{}], dtype=object)})
    for weight, value in zip(small.weights, before):
        np.testing.assert_array_equal(weight, value)


def test_own_weights_file(small, tmp_path):
    random_weights(small)
    small.save_weights(tmp_path / "trunk.weights.h5")
    other = build_backbone("mobilenet_v2", alpha=0.35)
    load_backbone_weights(other, tmp_path / "trunk.weights.h5")
    for weight, expected in zip(other.weights, small.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "batch_norm"])
def test_imagenet_is_keras_own_download(norm, tmp_path, monkeypatch):
    backbone = build_backbone("mobilenet_v2", alpha=0.35, norm=norm)
    network = keras.applications.MobileNetV2(
        alpha=0.35, include_top=False, weights=None, input_shape=(None, None, 3)
    )
    random_weights(network)
    network.save(tmp_path / "published.h5")  # the old format, as Keras publishes its files

    def fetch(name, address, **kwargs):
        assert address.endswith(
            "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
        )
        return str(tmp_path / "published.h5")

    monkeypatch.setattr(file_utils, "get_file", fetch)
    load_backbone_weights(backbone, "imagenet")
    for weight, expected in zip(backbone.weights, network.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    random_weights(backbone, seed=1)
    load_backbone_weights(backbone, tmp_path / "published.h5")
    np.testing.assert_array_equal(backbone.weights[0], network.weights[0])


def test_offline_says_where_to_put_the_file(small, tmp_path, monkeypatch):
    def offline(*args):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(file_utils, "urlretrieve", offline)
    monkeypatch.setattr(file_utils.config, "keras_home", lambda: str(tmp_path))
    with pytest.raises(OSError, match="mobilenet_v2_0.35.*no_top.h5.*no route.*Put the file"):
        load_backbone_weights(small, "imagenet")


def test_sources_that_do_not_fit_are_named(small, tmp_path):
    own = keras.Model(small.inputs, small.outputs, name="own")
    with pytest.raises(ValueError, match="'own' has no weights in keras.applications"):
        load_backbone_weights(own, "imagenet")
    with pytest.raises(FileNotFoundError, match="'nowhere.h5': no such file"):
        load_backbone_weights(small, "nowhere.h5")
    (tmp_path / "x.npz").touch()
    with pytest.raises(ValueError, match="x.npz' is not for backbone 'own'"):
        load_backbone_weights(own, tmp_path / "x.npz")
    network = keras.applications.MobileNetV2(
        alpha=0.35, include_top=False, weights=None, input_shape=(None, None, 3)
    )
    network.save(tmp_path / "rgb.h5")
    gray = build_backbone("mobilenet_v2", alpha=0.35, in_channels=1)
    with pytest.raises(ValueError, match="layer 'Conv1' of backbone 'mobilenet_v2_0.35'"):
        load_backbone_weights(gray, tmp_path / "rgb.h5")
    further = keras.layers.Conv2D(8, 1)(small.output["C5"])
    longer = keras.Model(small.inputs, {**small.output, "C6": further}, name=small.name)
    with pytest.raises(ValueError, match=r"'mobilenet_v2_0.35' has 15\d layers, the source 15\d"):
        load_backbone_weights(longer, tmp_path / "rgb.h5")


def test_a_published_file_fills_a_trunk_and_its_last_stage(tmp_path):
    network = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(224, 224, 3)
    )
    random_weights(network)
    network.save(tmp_path / "published.h5")
    trunk = build_backbone("mobilenet_v2", last_stage="C4")
    stage5 = build_stage5("mobilenet_v2")
    load_backbone_weights(trunk, tmp_path / "published.h5", stage5)
    for weight, expected in zip(trunk.weights + stage5.weights, network.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
