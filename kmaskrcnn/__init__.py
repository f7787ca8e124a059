"""Mask R-CNN for Keras 3: train, fine-tune, evaluate and serve instance segmentation.

Example:
    ```python
    import kmaskrcnn

    records = kmaskrcnn.load_coco("train.json", "images/")
    dataset = kmaskrcnn.make_dataset(records, batch_size=2, training=True)
    model = kmaskrcnn.MaskRCNN(kmaskrcnn.MaskRCNNConfig(class_names=records.class_names))
    model.compile(optimizer="sgd")
    model.fit(dataset)
    detections = kmaskrcnn.Predictor(model)("picture.jpg")
    ```
"""

from kmaskrcnn.average_precision import evaluate_results
from kmaskrcnn.cityscapes_precision import evaluate_cityscapes
from kmaskrcnn.config import ConfigError, DataConfig, MaskRCNNConfig, Recipe, TrainingConfig
from kmaskrcnn.data.check import inspect_dataset
from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import convert_dataset, load_dataset
from kmaskrcnn.data.importers.cityscapes import load_cityscapes
from kmaskrcnn.data.importers.lvis import load_lvis
from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.data.shapes import write_shapes
from kmaskrcnn.data.splitting import split_dataset
from kmaskrcnn.detections import Detections
from kmaskrcnn.evaluation import evaluate_model
from kmaskrcnn.lvis_precision import evaluate_lvis
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.serving.augmented import TestTimeAugmentation
from kmaskrcnn.serving.predictor import Predictor
from kmaskrcnn.training.callbacks import CocoEvaluation
from kmaskrcnn.training.trainer import train
from kmaskrcnn.version import __version__
from kmaskrcnn.visualize import draw_detections
from kmaskrcnn.weights.backbones import load_backbone_weights

__all__ = [
    "CocoEvaluation",
    "ConfigError",
    "DataConfig",
    "DatasetError",
    "Detections",
    "MaskRCNN",
    "MaskRCNNConfig",
    "Predictor",
    "Recipe",
    "TestTimeAugmentation",
    "TrainingConfig",
    "__version__",
    "convert_dataset",
    "draw_detections",
    "evaluate_cityscapes",
    "evaluate_lvis",
    "evaluate_model",
    "evaluate_results",
    "inspect_dataset",
    "load_backbone_weights",
    "load_cityscapes",
    "load_coco",
    "load_dataset",
    "load_lvis",
    "make_dataset",
    "split_dataset",
    "train",
    "write_shapes",
]
