"""Mask R-CNN as a Keras model: two graphs over the same layers, one to learn and one to predict.

    images -> normalizer -> backbone -> C2..C5 -> FPN -> P2..P6 -> RPN -> proposals
    learning:    proposals + ground truth -> sampled RoIs -> box head, mask head, keypoint head -> losses
    predicting:  proposals -> box head -> detections -> mask head, keypoint head -> their masks and keypoints

B images, G ground-truth objects, A anchors, S anchors drawn, R regions drawn, N positive regions of the whole batch, K
classes, D detections, M mask size, P keypoints, m heatmap size.
"""

import contextlib
import logging

import keras
from keras import ops

from kmaskrcnn import components
from kmaskrcnn.config import MaskRCNNConfig, from_dict, to_dict
from kmaskrcnn.layers.heads import SelectClass
from kmaskrcnn.layers.keypoint_head import KeypointDecoder, KeypointTargetLayer
from kmaskrcnn.layers.regions import PackRegions, UnpackRegions
from kmaskrcnn.objective import loss_names, loss_values
from kmaskrcnn.weights.presets import OpenedPreset, save_preset

logger = logging.getLogger(__name__)


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class MaskRCNN(keras.Model):
    """Mask R-CNN with a feature pyramid; `with_mask=False` in its config makes it Faster R-CNN.

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
        self.loss_parts = [keras.metrics.Mean(name=name) for name in loss_names(config)]
        self.built = True

    # -- the layers ---------------------------------------------------------------------------------------------------

    def _make_layers(self, c, backbone):
        self.normalizer = components.make_normalizer(c)
        self.backbone = backbone or components.make_backbone(c)
        self.fpn = components.make_pyramid(c)
        self.anchors = components.make_anchors(c)
        self.rpn_head = components.make_rpn_head(c)
        self.proposals = components.make_proposals(c)
        self.box_align = components.make_roi_layer(c, c.box_pool_size, "box_align")
        self.box_head = components.make_box_head(c)
        self.detection = components.make_detection(c)
        self.rpn_targets = components.make_rpn_targets(c)
        self.detection_targets = components.make_detection_targets(c)
        if c.with_mask or c.with_keypoints:
            self.pack_positives = PackRegions(portable=c.portable, name="pack_positives")
            self.pack_detections = PackRegions(portable=c.portable, name="pack_detections")
        if c.with_mask:
            self.mask_align = components.make_roi_layer(c, c.mask_pool_size, "mask_align")
            self.mask_head = components.make_mask_head(c)
            self.select_class = SelectClass(name="select_class")
            self.unpack_masks = UnpackRegions(name="unpack_masks")
            self.mask_targets = components.make_mask_targets(c)
        if c.with_keypoints:
            self.keypoint_align = components.make_roi_layer(
                c, c.keypoint_pool_size, "keypoint_align"
            )
            self.keypoint_head = components.make_keypoint_head(c)
            self.decode_keypoints = KeypointDecoder(name="decode_keypoints")
            self.unpack_keypoints = UnpackRegions(name="unpack_keypoints")
            self.keypoint_targets = KeypointTargetLayer(c.heatmap_size, name="keypoint_targets")

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
        class_logits, box_deltas = self.box_head(self.box_align(features, proposals))
        detections = self.detection(proposals, class_logits, box_deltas, inputs["image_sizes"])
        return self._graph(inputs, {**detections, **self._detail(features, detections)})

    def _detail(self, features, detections):
        """Masks and keypoints of the detections; places without one cost nothing."""
        c, detail = self.config, {}
        if not (c.with_mask or c.with_keypoints):
            return detail
        valid = detections["labels"] >= 0
        found = self.pack_detections(
            {"rois": detections["boxes"], "labels": detections["labels"]}, valid
        )
        if c.with_mask:
            masks = self._mask_probabilities(features, found)
            detail["masks"] = self.unpack_masks(masks, found["places"], valid)
        if c.with_keypoints:
            logits = self._keypoint_logits(features, found)
            points = self.decode_keypoints(logits, found["rois"])
            detail["keypoints"] = self.unpack_keypoints(points, found["places"], valid)
        return detail

    def _make_train_graph(self):
        inputs = {**self._image_inputs(), **self._truth_inputs()}
        sizes = inputs["image_sizes"]
        truth = {name: inputs[name] for name in ("boxes", "labels", "is_crowd")}
        features, anchors, rpn_logits, rpn_deltas, proposals = self._propose(
            inputs["images"], sizes
        )
        drawn_anchors = self.rpn_targets(_join_levels(anchors, axis=0), image_sizes=sizes, **truth)
        regions = self.detection_targets(proposals, **truth)
        class_logits, box_deltas = self.box_head(self.box_align(features, regions["rois"]))
        outputs = {
            "rpn_logits": _join_levels(rpn_logits, axis=1),  # (B, A)
            "rpn_deltas": _join_levels(rpn_deltas, axis=1),  # (B, A, 4)
            "rpn_targets": drawn_anchors,
            "class_logits": class_logits,  # (B * R, K + 1)
            "box_deltas": box_deltas,  # (B * R, K, 4), or (B * R, 1, 4) for all classes
            "region_rois": ops.reshape(regions["rois"], (-1, 4)),  # (B * R, 4)
            "region_labels": ops.reshape(regions["labels"], (-1,)),  # (B * R,)
            "region_deltas": ops.reshape(regions["deltas"], (-1, 4)),  # (B * R, 4)
        }
        return self._graph(inputs, {**outputs, **self._detail_targets(features, regions, inputs)})

    def _detail_targets(self, features, regions, truth):
        """What mask and keypoint head say of the positive regions, and what they should have said."""
        c, detail = self.config, {}
        if not (c.with_mask or c.with_keypoints):
            return detail
        positive = self._positive(regions)
        places = [positive[name] for name in ("rois", "image_indices", "matches")]
        if c.with_mask:
            detail["mask_labels"] = positive["labels"]  # (N,)
            detail["mask_logits"] = self._mask_logits(features, positive)  # (N, M, M)
            detail["mask_targets"] = self.mask_targets(*places, truth["boxes"], truth["masks"])
        if c.with_keypoints:
            detail["keypoint_labels"] = positive["labels"]  # (N,)
            detail["keypoint_logits"] = self._keypoint_logits(features, positive)  # (N, m, m, P)
            detail["keypoint_cells"] = self.keypoint_targets(*places, truth["keypoints"])  # (N, P)
        return detail

    def _positive(self, regions):
        """Pack the positive regions of all images; they come first in their lists."""
        most = int(self.config.rois_per_image * self.config.roi_positive_fraction)
        first = {name: regions[name][:, :most] for name in ("rois", "labels", "matches")}
        is_object = ops.logical_and(first["labels"] >= 0, first["labels"] < self.config.num_classes)
        return self.pack_positives(first, is_object)

    def _mask_logits(self, features, regions):
        """Each packed region's mask for its own class, `(N, M, M)`; with a softmax of all, `(N, M, M, K + 1)`."""
        pooled = self.mask_align(features, regions["rois"], regions["image_indices"])
        logits = self.mask_head(pooled)
        if self.config.mask_activation == "softmax":
            return logits
        return self.select_class(logits, regions["labels"])

    def _mask_probabilities(self, features, regions):
        """Each packed region's mask, `(N, M, M)`."""
        logits = self._mask_logits(features, regions)
        if self.config.mask_activation == "softmax":
            return self.select_class(ops.softmax(logits), regions["labels"])
        return ops.sigmoid(logits)

    def _keypoint_logits(self, features, regions):
        """Each packed region's heatmaps, `(N, m, m, P)`."""
        pooled = self.keypoint_align(features, regions["rois"], regions["image_indices"])
        return self.keypoint_head(pooled)

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
        if self.config.with_mask:
            inputs["masks"] = keras.Input((None, None, None), name="masks", dtype="uint8")
        if self.config.with_keypoints:
            shape = (None, self.config.num_keypoints, 3)
            inputs["keypoints"] = keras.Input(shape, name="keypoints", dtype="float32")
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

    def train_step(self, *args):
        return super().train_step(*args[:-1], _with_truth(args[-1]))

    def test_step(self, *args):
        return super().test_step(*args[:-1], _with_truth(args[-1]))

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
        return (sum(parts.values()) + sum(self.losses)) / _replicas()

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
            "frozen": [layer.name for layer in self.backbone.layers if not layer.trainable],
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(config["backbone"], custom_objects)
        dtype = keras.saving.deserialize_keras_object(config["dtype"])
        settings = from_dict(MaskRCNNConfig, config["config"])
        model = cls(settings, backbone=backbone, dtype=dtype, name=config["name"])
        for layer in model.backbone.layers:
            layer.trainable = layer.name not in config.get("frozen", ())
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


def _with_truth(data):
    """Move the targets among the inputs, where the train graph takes them."""
    inputs, targets, _ = keras.utils.unpack_x_y_sample_weight(data)
    if targets is None:
        raise ValueError(
            "a dataset to learn from yields (inputs, targets), this one yields inputs alone"
        )
    inputs = inputs if isinstance(inputs, dict) else {"images": inputs}
    return {**inputs, **targets}, targets


def _replicas():
    """Over how many devices TensorFlow shares this batch; Keras adds their losses up."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync
