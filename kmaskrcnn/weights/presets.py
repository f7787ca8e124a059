"""Published weights by name, or whatever lies at a path: found, checked, and ready to load.

A preset is one of

- a name of `PRESETS`: downloaded once, its hash checked, and kept;
- a file of others' weights, which `read_weights` reads;
- a folder that `save_preset` wrote, or a `.keras` file that `model.save` wrote.
"""

import dataclasses
import functools
import hashlib
import logging
import os
from pathlib import Path

import keras

from kmaskrcnn.config import MaskRCNNConfig, load_yaml, save_yaml
from kmaskrcnn.weights.architectures import find_architecture, make_config, recognise
from kmaskrcnn.weights.convert import (
    LoadReport,
    load_arrays,
    named_weights,
    num_classes_of,
    translate,
)
from kmaskrcnn.weights.readers import read_weights

logger = logging.getLogger(__name__)

CONFIG_FILE, WEIGHTS_FILE = "config.yaml", "model.weights.h5"

TORCHVISION_URL = "https://download.pytorch.org/models/"
DETECTRON2_URL = "https://dl.fbaipublicfiles.com/detectron2/"


@dataclasses.dataclass(frozen=True)
class Preset:
    """Published weights.

    Args:
        architecture: a name of `ARCHITECTURES`.
        url: where the file is.
        sha256, md5: how its hash begins, which is a part of its published name.
        license: of the weights.
        box_ap, mask_ap, keypoint_ap: on COCO val2017, as published.
    """

    architecture: str
    url: str
    sha256: str = ""
    md5: str = ""
    license: str = ""
    box_ap: float | None = None
    mask_ap: float | None = None
    keypoint_ap: float | None = None


def _torchvision(architecture, file, *ap):
    """torchvision's files are called after the first eight digits of their SHA-256."""
    sha256 = file.removesuffix(".pth").rpartition("-")[2]
    return Preset(architecture, TORCHVISION_URL + file, sha256, "", "BSD-3-Clause", *ap)


def _detectron2(architecture, path, *ap):
    """Detectron2's files are called after the first six digits of their MD5."""
    md5 = path.removesuffix(".pkl").rpartition("model_final_")[2] if "model_final" in path else ""
    return Preset(architecture, DETECTRON2_URL + path, "", md5, "CC-BY-SA-3.0", *ap)


PRESETS = {
    "maskrcnn_resnet50_fpn_coco": _torchvision(
        "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", 37.9, 34.6
    ),
    "maskrcnn_resnet50_fpn_v2_coco": _torchvision(
        "maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth", 47.4, 41.8
    ),
    "fasterrcnn_resnet50_fpn_coco": _torchvision(
        "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", 37.0
    ),
    "fasterrcnn_resnet50_fpn_v2_coco": _torchvision(
        "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_resnet50_fpn_v2_coco-dd69338a.pth", 46.7
    ),
    "keypointrcnn_resnet50_fpn_coco": _torchvision(
        "keypointrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn_coco-fc266e95.pth", 54.6, None, 65.0
    ),
    "resnet18_imagenet": _torchvision("resnet18", "resnet18-f37072fd.pth"),
    "resnet34_imagenet": _torchvision("resnet34", "resnet34-b627a593.pth"),
    "resnet50_imagenet": _torchvision("resnet50", "resnet50-0676ba61.pth"),
    "resnet101_imagenet": _torchvision("resnet101", "resnet101-63fe2227.pth"),
    "resnext50_32x4d_imagenet": _torchvision("resnext50_32x4d", "resnext50_32x4d-7cdf4587.pth"),
    "resnext101_32x8d_imagenet": _torchvision("resnext101_32x8d", "resnext101_32x8d-8ba56ff5.pth"),
    "resnext101_64x4d_imagenet": _torchvision("resnext101_64x4d", "resnext101_64x4d-173b62eb.pth"),
    "mask_rcnn_R_50_FPN_1x": _detectron2(
        "mask_rcnn_R_50_FPN",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x/137260431/model_final_a54504.pkl",
        38.6,
        35.2,
    ),
    "mask_rcnn_R_50_FPN_3x": _detectron2(
        "mask_rcnn_R_50_FPN",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x/137849600/model_final_f10217.pkl",
        41.0,
        37.2,
    ),
    "mask_rcnn_R_101_FPN_3x": _detectron2(
        "mask_rcnn_R_101_FPN",
        "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x/138205316/model_final_a3ec72.pkl",
        42.9,
        38.6,
    ),
    "mask_rcnn_R_50_C4_1x": _detectron2(
        "mask_rcnn_R_50_C4",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x/137259246/model_final_9243eb.pkl",
        36.8,
        32.2,
    ),
    "mask_rcnn_R_50_C4_3x": _detectron2(
        "mask_rcnn_R_50_C4",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_3x/137849525/model_final_4ce675.pkl",
        39.8,
        34.4,
    ),
    "mask_rcnn_R_101_C4_3x": _detectron2(
        "mask_rcnn_R_101_C4",
        "COCO-InstanceSegmentation/mask_rcnn_R_101_C4_3x/138363239/model_final_a2914c.pkl",
        42.6,
        36.7,
    ),
    "mask_rcnn_R_50_DC5_1x": _detectron2(
        "mask_rcnn_R_50_DC5",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_1x/137260150/model_final_4f86c3.pkl",
        38.3,
        34.2,
    ),
    "mask_rcnn_R_50_DC5_3x": _detectron2(
        "mask_rcnn_R_50_DC5",
        "COCO-InstanceSegmentation/mask_rcnn_R_50_DC5_3x/137849551/model_final_84107b.pkl",
        40.0,
        35.9,
    ),
    "mask_rcnn_R_101_DC5_3x": _detectron2(
        "mask_rcnn_R_101_DC5",
        "COCO-InstanceSegmentation/mask_rcnn_R_101_DC5_3x/138363294/model_final_0464b7.pkl",
        41.9,
        37.3,
    ),
    "mask_rcnn_X_101_32x8d_FPN_3x": _detectron2(
        "mask_rcnn_X_101_32x8d_FPN",
        "COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x/139653917/model_final_2d9806.pkl",
        44.3,
        39.5,
    ),
    "faster_rcnn_X_101_32x8d_FPN_3x": _detectron2(
        "faster_rcnn_X_101_32x8d_FPN",
        "COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x/139173657/model_final_68b088.pkl",
        43.0,
    ),
    "faster_rcnn_R_50_FPN_3x": _detectron2(
        "faster_rcnn_R_50_FPN",
        "COCO-Detection/faster_rcnn_R_50_FPN_3x/137849458/model_final_280758.pkl",
        40.2,
    ),
    "faster_rcnn_R_101_FPN_3x": _detectron2(
        "faster_rcnn_R_101_FPN",
        "COCO-Detection/faster_rcnn_R_101_FPN_3x/137851257/model_final_f6e8b1.pkl",
        42.0,
    ),
    "keypoint_rcnn_R_50_FPN_3x": _detectron2(
        "keypoint_rcnn_R_50_FPN",
        "COCO-Keypoints/keypoint_rcnn_R_50_FPN_3x/137849621/model_final_a6e10b.pkl",
        55.4,
        None,
        65.5,
    ),
    "keypoint_rcnn_R_101_FPN_3x": _detectron2(
        "keypoint_rcnn_R_101_FPN",
        "COCO-Keypoints/keypoint_rcnn_R_101_FPN_3x/138363331/model_final_997cc7.pkl",
        56.4,
        None,
        66.1,
    ),
    "R-50": _detectron2("R-50", "ImageNetPretrained/MSRA/R-50.pkl"),
    "R-101": _detectron2("R-101", "ImageNetPretrained/MSRA/R-101.pkl"),
    "X-101-32x8d": _detectron2("X-101-32x8d", "ImageNetPretrained/FAIR/X-101-32x8d.pkl"),
}


class OpenedPreset:
    """Weights that were found: the configuration that they assume, and the way into a model.

    Args:
        preset: a name of `PRESETS`, or a path; see the head of this file.
        architecture: a name of `ARCHITECTURES` for a file of others; by default it is recognised.

    Raises:
        FileNotFoundError: where there is neither such a preset nor such a path.
        OSError: when a download fails; it says where to put the file instead.
        ValueError: if the file is damaged, or its network is not known.
    """

    def __init__(self, preset, architecture=None):
        self.name, path = str(preset), Path(preset)
        known = PRESETS.get(self.name)
        if known is None and not path.exists():
            raise FileNotFoundError(
                f"preset: {self.name!r} is no file, and none of {', '.join(PRESETS)}"
            )
        self.own = self.architecture = self.arrays = None
        if known is None and (path.is_dir() or path.suffix == ".keras"):
            self.own = path
            return
        self.arrays = read_weights(path if known is None else fetch(self.name))
        named = architecture or (known.architecture if known else recognise(self.arrays))
        self.architecture = find_architecture(named)
        logger.info("%s: %s weights of %s", self.name, self.architecture.origin.name, named)

    def config(self, num_classes=None, class_names=None, **changes):
        """The `MaskRCNNConfig` for a model that takes these weights.

        Args:
            num_classes: K, where it shall not be that of the weights; names become `class 1` and on.
            class_names: the K names. Names other than those of a model of one's own lose its `category_ids`.
            **changes: further fields that shall differ.

        Raises:
            ValueError: `num_classes` is not the number of `class_names`.
        """
        unnamed = num_classes is not None and class_names is None
        if unnamed:
            class_names = tuple(f"class {i + 1}" for i in range(num_classes))
        if num_classes is not None and len(class_names) != num_classes:
            raise ValueError(f"num_classes: got {num_classes} for {len(class_names)} class_names")
        if self.own is not None:
            return _rename_classes(self._own_config(), class_names, changes)
        classes = num_classes_of(translate(self.arrays, self.architecture.origin)[0])
        if unnamed and num_classes == classes == len(self.architecture.class_names):
            class_names = None  # the published names
        return make_config(self.architecture, classes, class_names, **changes)

    def load_into(self, model, load="all") -> LoadReport:
        """Fills a model that was built from `config`; see `load_arrays`."""
        if self.own is not None and self.own.is_dir() and load == "all":
            if model.config == self._own_config():
                model.load_weights(self.own / WEIGHTS_FILE)
                return LoadReport(tuple(named_weights(model)), {}, ())
        if self.own is not None:
            arrays = {path: w.numpy() for path, w in named_weights(self._own_model(model)).items()}
            return load_arrays(model, arrays, None, load)
        trunk = not any(row[1].startswith("box_head") for row in self.architecture.origin.table)
        if trunk and load == "all":
            load = "backbone"
        return load_arrays(model, self.arrays, self.architecture.origin, load)

    def _own_config(self):
        if self.own.is_dir():
            return load_yaml(self.own / CONFIG_FILE, MaskRCNNConfig)
        return self._saved_model.config

    def _own_model(self, like):
        """The saved model itself; `like` is of its class, which this room does not know."""
        if self.own.is_dir():
            model = type(like)(self._own_config())
            model.load_weights(self.own / WEIGHTS_FILE)
            return model
        return self._saved_model

    @functools.cached_property
    def _saved_model(self):
        return keras.saving.load_model(self.own, compile=False)


def _rename_classes(config, class_names, changes):
    """A configuration with other fields; the ids that its old classes had in a json are not those of new ones."""
    if class_names and tuple(class_names) != config.class_names:
        changes = {"category_ids": (), **changes, "class_names": tuple(class_names)}
    return dataclasses.replace(config, **changes)


def save_preset(model, folder):
    """Writes `config.yaml` and `model.weights.h5`, which `OpenedPreset` opens.

    Args:
        model: a `MaskRCNN`.
        folder: made if need be.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_yaml(model.config, folder / CONFIG_FILE)
    model.save_weights(folder / WEIGHTS_FILE)


def fetch(name):
    """The path of a preset's file: downloaded once, then kept under `~/.keras/kmaskrcnn`.

    Args:
        name: a name of `PRESETS`.

    Raises:
        OSError: when the download fails; it says where to put the file instead.
        ValueError: if the file's hash is not the published one.
    """
    preset = PRESETS[name]
    # R-50.pkl and model_final_....pkl say little in a folder of many.
    file = f"{name}{Path(preset.url).suffix}"
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))  # Keras's own rule
    place = home / "kmaskrcnn" / file
    try:
        path = keras.utils.get_file(file, preset.url, cache_dir=home, cache_subdir="kmaskrcnn")
    except Exception as error:  # a plain Exception is what keras.utils.get_file raises
        raise OSError(
            f"The weights {name!r} could not be had: {error}. Download {preset.url} elsewhere and "
            f"put it at {place}, or give its path."
        ) from error
    check_hash(path, preset)
    return path


def check_hash(path, preset):
    """Raises `ValueError` unless a file's hash begins as published."""
    algorithm, expected = ("sha256", preset.sha256) if preset.sha256 else ("md5", preset.md5)
    digest = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(2**20), b""):
            digest.update(block)
    if not digest.hexdigest().startswith(expected):
        raise ValueError(
            f"{path}: its {algorithm} is {digest.hexdigest()}, published is {expected}...: not the "
            "published file, or damaged on its way; delete it and try again"
        )
