"""Mask R-CNN as a Keras model: two graphs over the same layers, one to learn and one to predict.

    images -> normalizer -> backbone -> C2..C5 -> FPN -> P2..P6 -> RPN -> proposals     (or one level, without FPN)
    learning:    proposals + ground truth -> sampled RoIs -> box, mask and keypoint branch -> losses
    predicting:  proposals -> box branch -> detections -> mask and keypoint branch -> their masks and keypoints

B images, G ground-truth objects, A anchors, R regions drawn, K classes, D detections, M mask size, P keypoints. What
happens to a region is told in `branches/`.
"""

import contextlib
import logging

import keras
from keras import ops

from kmaskrcnn import components
from kmaskrcnn.backends import count_replicas, uses_tensorflow
from kmaskrcnn.branches.box import BoxBranch
from kmaskrcnn.branches.cascade import CascadeBoxBranch
from kmaskrcnn.branches.keypoint import KeypointBranch
from kmaskrcnn.branches.mask import MaskBranch
from kmaskrcnn.branches.point_rend import PointRendBranch
from kmaskrcnn.config import MaskRCNNConfig, from_dict, to_dict
from kmaskrcnn.freezing import freeze_as_saved, frozen_layers
from kmaskrcnn.layers.regions import PackRegions, UnpackRegions
from kmaskrcnn.objective import loss_names, loss_values
from kmaskrcnn.weights.presets import OpenedPreset, save_preset

logger = logging.getLogger(__name__)


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class MaskRCNN(keras.Model):
    """Mask R-CNN with a feature pyramid or on one level; `with_mask=False` in its config makes it Faster R-CNN.

    It compiles, fits, evaluates, predicts, saves and loads as any Keras model. Datasets yield `(inputs, targets)`; the
    losses are computed by the model, so `compile` takes an optimizer and no loss.

    Args:
        config: a `MaskRCNNConfig`.
        backbone: a Keras model from `(B, H, W, C)` to a dict of C2 ... C5 instead of the one that the config names.

    Call arguments:
        inputs: the images alone, `(B, H, W, C)` uint8 or float, RGB 0-255; or a dict of
            `images`, and optionally `image_sizes (B, 2)` int32, height and width of each picture where images are
            padded at their bottom and right, and with ground truth also
            `boxes (B, G, 4)` float32 xyxy pixels, `labels (B, G)` int32 (-1 pads), `is_crowd (B, G)` bool and
            `masks (B, G, H', W')` uint8 in the boxes' frames, and `keypoints (B, G, P, 3)` float32 x, y, visibility, as
            far as the configuration has them.

    Returns:
        Without ground truth, detections: `boxes (B, D, 4)`, `labels (B, D)` int32 (-1 pads), `scores (B, D)`,
        `num_detections (B,)` int32, `masks (B, D, M, M)` probabilities in the boxes' frames, and
        `keypoints (B, D, P, 3)` x, y, score.
        With ground truth, the predictions and their targets that `compute_loss` takes.

    Example:
        ```python
        model = MaskRCNN(MaskRCNNConfig(class_names=("nucleus",), backbone="resnet18"))
        model.compile(optimizer=keras.optimizers.SGD(0.005, momentum=0.9))
        model.fit(dataset, epochs=12)
        detections = model.predict(images)
        ```

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870)
    """

    def __init__(self, config: MaskRCNNConfig, backbone: keras.Model | None = None, **kwargs):
        super().__init__(**{"autocast": False, **kwargs})  # boxes must never become bfloat16
        self.config = config
        self._given_backbone = backbone
        with _policy(self.dtype_policy):
            self._make_layers(config, backbone)
        self.predict_graph = self._make_predict_graph()
        self.train_graph = self._make_train_graph()
        components.choose_convolutions(config, self._flatten_layers())  # all of them are built
        self.loss_parts = [keras.metrics.Mean(name=name) for name in loss_names(config)]
        self.built = True

    # -- the layers ---------------------------------------------------------------------------------------------------

    def _make_layers(self, c, backbone):
        self.normalizer = components.make_normalizer(c)
        self.backbone = backbone or components.make_backbone(c)
        self.stage5 = components.make_stage5(c)
        self.fpn = components.make_pyramid(c)
        self.anchors = components.make_anchors(c)
        self.rpn_head = components.make_rpn_head(c)
        self.proposals = components.make_proposals(c)
        self.rpn_targets = components.make_rpn_targets(c)
        if c.cascade_thresholds:
            self.box_branch = CascadeBoxBranch(c, name="box_branch")
        else:
            self.box_branch = BoxBranch(c, self.stage5, name="box_branch")
        self.detail_branches = []
        if c.with_mask:
            if c.mask_head == "point_rend":
                self.mask_branch = PointRendBranch(c, name="mask_branch")
            else:
                self.mask_branch = MaskBranch(c, self.stage5, name="mask_branch")
            self.detail_branches.append(self.mask_branch)
        if c.with_keypoints:
            self.keypoint_branch = KeypointBranch(c, name="keypoint_branch")
            self.detail_branches.append(self.keypoint_branch)
        self.pack_positives = PackRegions(portable=c.portable, name="pack_positives")
        self.pack_detections = PackRegions(portable=c.portable, name="pack_detections")
        self.unpack_details = UnpackRegions(name="unpack_details")

    # -- from published weights and back ------------------------------------------------------------------------------

    @classmethod
    def from_preset(
        cls,
        preset,
        num_classes=None,
        load="all",
        *,
        class_names=None,
        architecture=None,
        **changes,
    ):
        """A model with the weights that others published, or that lie at a path.

        What was and what was not loaded goes to the log.

        Args:
            preset: a name of `weights.presets.PRESETS`, which is downloaded once, or a path: a file of torchvision,
                Detectron2 or Keras, a folder of `save_preset`, or a `.keras` file.
            num_classes: K; another one than that of the weights keeps the trunk and initialises the class layers.
            load: `"all"`, `"trunk"` (all but the class layers) or `"backbone"`.
            class_names: the K names, by default those of the weights.
            architecture: a name of `weights.architectures.ARCHITECTURES`; by default the file tells.
            **changes: fields of the configuration, such as `score_threshold=0.5` or `in_channels=1`.

        Raises:
            FileNotFoundError: where there is neither such a preset nor such a path.
            OSError: when a download fails; it says where to put the file instead.
            ValueError: if the file is damaged, or its weights do not fit; each one is named.

        Example:
            ```python
            model = MaskRCNN.from_preset("maskrcnn_resnet50_fpn_v2_coco", class_names=("nucleus",))
            ```
        """
        opened = OpenedPreset(preset, architecture)
        model = cls(opened.config(num_classes, class_names, **changes))
        logger.info("%s: %s", preset, opened.load_into(model, load))
        return model

    def save_preset(self, folder):
        """Write `config.yaml` and `model.weights.h5`, from which `from_preset(folder)` makes this model again."""
        if self._given_backbone is not None:
            raise ValueError("a backbone of one's own is not in the configuration: use `save`")
        save_preset(self, folder)

    def export(self, filepath, format="saved_model", **options):
        """Write the model for a server or a device: see `export.exporter.export_model`."""
        from kmaskrcnn.export.exporter import export_model  # it needs TensorFlow, a model does not

        return export_model(self, filepath, format, **options)

    # -- the two graphs -----------------------------------------------------------------------------------------------

    def _propose(self, images, image_sizes):
        """What both graphs begin with: features, anchors, the RPN's answers and its proposals."""
        features = self.fpn(self.backbone(self.normalizer(images, image_sizes)))
        anchors = self.anchors(features)
        rpn_logits, rpn_deltas = self.rpn_head(features)
        proposals = self.proposals(anchors, rpn_logits, rpn_deltas, image_sizes)
        return features, anchors, rpn_logits, rpn_deltas, proposals

    def _make_predict_graph(self):
        inputs = self._image_inputs()
        features, *_, proposals = self._propose(**inputs)
        detections = self.box_branch.predict(features, proposals, inputs["image_sizes"])
        return self._graph(inputs, {**detections, **self._details(features, detections)})

    def make_detail_graph(self):
        """A graph with `boxes (B, D, 4)` and `labels (B, D)`, -1 pads, as inputs: the branches' `maps` of these."""
        inputs, truth = self._image_inputs(), self._truth_inputs()
        of_boxes = {name: truth[name] for name in ("boxes", "labels")}
        features, *_ = self._propose(**inputs)
        maps = self._details(features, of_boxes, as_maps=True)
        return self._graph({**inputs, **of_boxes}, maps)

    def _details(self, features, detections, as_maps=False):
        """Masks and keypoints of the detections; places without one cost nothing."""
        if not self.detail_branches:
            return {}
        valid = detections["labels"] >= 0
        padded = {"rois": detections["boxes"], "labels": detections["labels"]}
        found = self.pack_detections(padded, valid)
        return {
            branch.output_name: self.unpack_details(
                (branch.maps if as_maps else branch.predict)(features, found),
                found["places"],
                valid,
            )
            for branch in self.detail_branches
        }

    def _make_train_graph(self):
        inputs = {**self._image_inputs(), **self._truth_inputs()}
        sizes = inputs["image_sizes"]
        truth = {name: inputs[name] for name in ("boxes", "labels", "is_crowd")}
        features, anchors, rpn_logits, rpn_deltas, proposals = self._propose(
            inputs["images"], sizes
        )
        outputs = {
            "rpn_logits": _join_levels(rpn_logits, axis=1),  # (B, A)
            "rpn_deltas": _join_levels(rpn_deltas, axis=1),  # (B, A, 4)
            "rpn_targets": self.rpn_targets(
                _join_levels(anchors, axis=0), image_sizes=sizes, **truth
            ),
        }
        regions, of_boxes = self.box_branch.learn(features, proposals, inputs)
        outputs.update(of_boxes)
        if self.detail_branches:
            positive = self._positive(regions)
        for branch in self.detail_branches:
            outputs.update(branch.learn(features, positive, inputs))
        return self._graph(inputs, outputs)

    def _positive(self, regions):
        """Pack the positive regions of all images; they come first in their lists."""
        most = int(self.config.rois_per_image * self.config.roi_positive_fraction)
        first = {name: regions[name][:, :most] for name in ("rois", "labels", "matches")}
        is_object = ops.logical_and(first["labels"] >= 0, first["labels"] < self.config.num_classes)
        return self.pack_positives(first, is_object)

    def _image_inputs(self):
        shape = (None, None, self.config.in_channels)
        return {
            "images": keras.Input(shape, name="images", dtype="float32"),
            "image_sizes": keras.Input((2,), name="image_sizes", dtype="int32"),
        }

    def _truth_inputs(self):
        inputs = {
            "boxes": keras.Input((None, 4), name="boxes", dtype="float32"),
            "labels": keras.Input((None,), name="labels", dtype="int32"),
            "is_crowd": keras.Input((None,), name="is_crowd", dtype="bool"),
        }
        for branch in self.detail_branches:
            inputs.update(branch.truth_inputs())
        return inputs

    def _graph(self, inputs, outputs):
        graph = keras.Model(inputs, outputs)
        graph.autocast = False  # as in __init__
        return graph

    # -- what Keras calls ---------------------------------------------------------------------------------------------

    def call(self, inputs, training=False):
        inputs = dict(inputs) if isinstance(inputs, dict) else {"images": inputs}
        if "image_sizes" not in inputs:
            batch, *size = ops.shape(inputs["images"])[:3]
            inputs["image_sizes"] = ops.broadcast_to(ops.cast(ops.stack(size), "int32"), (batch, 2))
        graph = self.train_graph if "boxes" in inputs else self.predict_graph
        missing = [name for name in graph.input if name not in inputs]
        if missing:
            raise ValueError(f"inputs: {missing} missing; got {sorted(inputs)}")
        return graph({name: inputs[name] for name in graph.input}, training=training)

    def make_train_function(self, force=False):
        # Variables that an optimizer makes in the first step would have TensorFlow trace that step twice.
        if self.optimizer is not None and not self.optimizer.built:
            self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def train_step(self, *args):
        return super().train_step(*args[:-1], self._with_truth(args[-1]))

    def test_step(self, *args):
        return super().test_step(*args[:-1], self._with_truth(args[-1]))

    def _with_truth(self, data):
        """Move the targets among the inputs, where the train graph takes them."""
        inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
        if targets is None:
            raise ValueError(
                "a dataset to learn from yields (inputs, targets), this one yields inputs alone"
            )
        inputs = inputs if isinstance(inputs, dict) else {"images": inputs}
        _check_labels(targets["labels"], self.config.num_classes)
        is_crowd = ops.cast(targets["is_crowd"], "bool")  # numbers serve as well
        return {**inputs, **targets, "is_crowd": is_crowd}, targets

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The sum of the losses of Mask R-CNN, section 3; each is a metric of its own name.

        Args:
            x, y, sample_weight: not used, `y_pred` holds the targets.
            y_pred: what the model returns for inputs with ground truth.

        Returns:
            A scalar; under a distribution strategy each replica's share of it.
        """
        parts = self.loss_values(y_pred)
        # Weighted by the images as Keras weights the loss. Without a weight from the data, the step in which a
        # dataset of unknown length runs out would count too: its graph fails, but first adds 1 to the count.
        images = ops.shape(y_pred["rpn_logits"])[0]
        for metric in self.loss_parts:
            metric.update_state(parts[metric.name], sample_weight=images)
        return (sum(parts.values()) + sum(self.losses)) / count_replicas()

    def loss_values(self, outputs):
        """The losses by name, from what the model returns for inputs with ground truth."""
        return loss_values(outputs, self.config)

    def get_config(self):
        backbone = self._given_backbone
        return {
            "config": to_dict(self.config),
            "backbone": backbone and keras.saving.serialize_keras_object(backbone),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "frozen_layers": frozen_layers(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects)
        dtype = keras.saving.deserialize_keras_object(config["dtype"])
        settings = from_dict(MaskRCNNConfig, config["config"])
        model = cls(settings, backbone=backbone, dtype=dtype, name=config["name"])
        freeze_as_saved(model, config)
        return model


@contextlib.contextmanager
def _policy(policy):
    """Make the layers within with this dtype policy, whatever the global one is when a model is loaded."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _join_levels(levels, axis):
    """One tensor of all pyramid levels, finest first."""
    return ops.concatenate([levels[level] for level in sorted(levels)], axis=axis)


def _check_labels(labels, num_classes):
    """Refuse classes that the model does not have; they would be learnt as background."""
    if uses_tensorflow():
        import tensorflow as tf

        message = f"labels: accepted are 0 ... {num_classes - 1}, and -1 pads"
        tf.debugging.assert_less(tf.cast(labels, "int32"), num_classes, message)
