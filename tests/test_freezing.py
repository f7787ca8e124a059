"""What is loaded trains what was saved, and normalises as it did."""

import json
import zipfile

import keras
import pytest
from tiny import tiny_backbone, tiny_config, tiny_model

from kmaskrcnn.freezing import layers_by_path
from kmaskrcnn.layers.backbones import freeze_backbone
from kmaskrcnn.model import MaskRCNN


def nested_backbone():
    """A user's: a model within a model, with nameless layers in it, and one that its maker froze."""
    images = keras.Input((None, None, 3))
    x, stem = images, keras.Sequential(name="stem")
    for strides in (2, 1):
        stem.add(keras.layers.Conv2D(8, 3, strides, padding="same"))
        stem.add(keras.layers.BatchNormalization())
    stem.layers[0].trainable = False
    x = stem(images)
    features = {}
    for stage in ("C2", "C3", "C4", "C5"):
        x = features[stage] = keras.layers.Conv2D(8, 3, 2, padding="same", name=stage)(x)
    return keras.Model(images, features, name="own")


def loaded(model, path):
    model.save(path)
    return keras.saving.load_model(path)


def states(model):
    """Every layer's state and every weight's, in the order of construction."""
    layers = [layer.trainable for layer in model._flatten_layers()]
    return layers, [weight.trainable for weight in model.weights]


def freeze_pyramid(model):
    model.fpn.trainable = False


def freeze_inner_norms(model):
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def freeze_all_but_a_stage(model):
    model.backbone.trainable = False
    model.backbone.get_layer("C5").trainable = True


def freeze_all_but_a_head(model):
    model.trainable = False
    model.trainable = True
    model.box_branch.trainable = False
    model.box_branch.head.trainable = True


def freeze_second_nameless(model):
    model.backbone.get_layer("stem").layers[0].trainable = True
    model.backbone.get_layer("stem").layers[2].trainable = False


@pytest.mark.parametrize(
    "freeze", [freeze_pyramid, freeze_inner_norms, freeze_all_but_a_stage, freeze_all_but_a_head]
)
def test_layers_anywhere_stay_as_they_are(freeze, tmp_path):
    model = MaskRCNN(
        tiny_config(norm="batch_norm", fpn_norm="batch_norm"), tiny_backbone("batch_norm")
    )
    before = states(model)
    freeze(model)
    assert states(model) != before
    assert states(loaded(model, tmp_path / "model.keras")) == states(model)


@pytest.mark.parametrize("freeze", [lambda model: None, freeze_pyramid, freeze_second_nameless])
def test_a_nested_backbone_stays_as_its_maker_froze_it(freeze, tmp_path):
    model = MaskRCNN(tiny_config(with_mask=False), nested_backbone())
    freeze(model)
    frozen = [weight.trainable for weight in model.backbone.weights]
    assert frozen.count(False) > 4  # more than the moving statistics
    assert states(loaded(model, tmp_path / "model.keras")) == states(model)


def test_files_of_before_keep_their_frozen_stages(tmp_path):
    """They list the names of the layers at the top of the trunk alone, as `frozen`."""
    model = tiny_model(with_mask=False)
    freeze_backbone(model.backbone, 3)
    model.save(tmp_path / "new.keras")
    with (
        zipfile.ZipFile(tmp_path / "new.keras") as new,
        zipfile.ZipFile(tmp_path / "old.keras", "w") as old,
    ):
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":
                document = json.loads(content)
                del document["config"]["frozen_layers"]
                document["config"]["frozen"] = ["stem", "C2"]
                content = json.dumps(document)
            old.writestr(name, content)
    again = keras.saving.load_model(tmp_path / "old.keras")
    assert states(again)[1] == states(model)[1] != states(tiny_model(with_mask=False))[1]


def test_every_layer_has_one_path_and_comes_before_what_it_holds():
    model = tiny_model()
    paths = layers_by_path(model)
    assert next(iter(paths)) == "" and {id(layer) for layer in paths.values()} == {
        id(layer) for layer in model._flatten_layers()
    }
    places = {id(layer): place for place, layer in enumerate(paths.values())}
    for layer in paths.values():
        held = layer._flatten_layers(include_self=False, recursive=False)
        assert all(places[id(layer)] < places[id(part)] for part in held)
    assert paths["/tiny_backbone/C2"] is model.backbone.get_layer("C2")
