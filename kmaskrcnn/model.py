"""Mask R-CNN as a Keras model: two graphs over the same layers, one to learn and one to predict.

    images -> normalizer -> backbone -> C2..C5 -> FPN -> P2..P6 -> RPN -> proposals
    learning:    proposals + ground truth -> sampled RoIs -> box head, mask head -> losses
    predicting:  proposals -> box head -> detections -> mask head -> masks of the detections

B images, G ground-truth objects, A anchors, S anchors drawn, R regions drawn, N positive regions of the whole batch, K
classes, D detections, M mask size.
"""

import contextlib

import keras
from keras import ops

from kmaskrcnn import losses
from kmaskrcnn.config import MaskRCNNConfig, from_dict, to_dict
from kmaskrcnn.layers.backbones import backbone_normalisation, build_backbone
from kmaskrcnn.layers.detection import DetectionLayer
from kmaskrcnn.layers.fpn import FeaturePyramid
from kmaskrcnn.layers.heads import BoxHead, MaskHead, SelectClass
from kmaskrcnn.layers.mask_targets import MaskTargetLayer
from kmaskrcnn.layers.normalizer import ImageNormalizer
from kmaskrcnn.layers.regions import PackRegions, UnpackRegions
from kmaskrcnn.layers.roi_align import RoIAlign
from kmaskrcnn.layers.rpn import AnchorGenerator, ProposalLayer, RPNHead
from kmaskrcnn.layers.targets import DetectionTargetLayer, RPNTargetLayer

LOSSES = ("rpn_class_loss", "rpn_box_loss", "box_class_loss", "box_loss", "mask_loss")


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
            `images`, and optionally `image_sizes (B, 2)` int32, height and width of each picture where images are padded
            at their bottom and right, and with ground truth also
            `boxes (B, G, 4)` float32 xyxy pixels, `labels (B, G)` int32 (-1 pads), `is_crowd (B, G)` bool and
            `masks (B, G, H', W')` uint8 in the boxes' frames.

    Returns:
        Without ground truth, detections: `boxes (B, D, 4)`, `labels (B, D)` int32 (-1 pads), `scores (B, D)`,
        `num_detections (B,)` int32, and `masks (B, D, M, M)` probabilities in the boxes' frames.
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
            self._make_trunk(config, backbone)
            self._make_heads(config)
            self._make_targets(config)
        self.predict_graph = self._make_predict_graph()
        self.train_graph = self._make_train_graph()
        self.loss_parts = [
            keras.metrics.Mean(name=name)
            for name in LOSSES
            if config.with_mask or name != "mask_loss"
        ]
        self.built = True

    # -- the layers ---------------------------------------------------------------------------------------------------

    def _make_trunk(self, c, backbone):
        norm = {"norm": c.norm, "norm_epsilon": c.norm_epsilon}
        mean, std = backbone_normalisation(c.backbone)
        self.normalizer = ImageNormalizer(
            c.pixel_mean or mean, c.pixel_std or std, name="normalizer"
        )
        self.backbone = backbone or build_backbone(
            c.backbone, stride_in_1x1=c.stride_in_1x1, in_channels=c.in_channels, **norm
        )
        self.fpn = FeaturePyramid(
            c.fpn_channels, norm=c.fpn_norm, norm_epsilon=c.norm_epsilon, name="fpn"
        )
        self.anchors = AnchorGenerator(c.anchor_scales, c.anchor_aspect_ratios, name="anchors")
        self.rpn_head = RPNHead(
            len(c.anchor_aspect_ratios), c.fpn_channels, c.rpn_convs, name="rpn_head"
        )
        self.proposals = ProposalLayer(
            pre_nms_topk=c.rpn_pre_nms_topk,
            post_nms_topk=c.rpn_post_nms_topk,
            pre_nms_topk_train=c.rpn_pre_nms_topk_train,
            post_nms_topk_train=c.rpn_post_nms_topk_train,
            nms_threshold=c.rpn_nms_threshold,
            min_box_size=c.rpn_min_box_size,
            box_variance=c.rpn_box_variance,
            portable=c.portable,
            name="proposals",
        )

    def _make_heads(self, c):
        align = {
            "sampling_ratio": c.roi_sampling_ratio,
            "aligned": c.roi_aligned,
            "implementation": "gather" if c.portable else c.roi_align,
        }
        norm = {"norm": c.head_norm, "norm_epsilon": c.norm_epsilon}
        self.box_align = RoIAlign(c.box_pool_size, name="box_align", **align)
        self.box_head = BoxHead(
            c.num_classes,
            units=c.box_head_units,
            num_dense=c.box_head_dense,
            num_convs=c.box_head_convs,
            channels=c.fpn_channels,
            name="box_head",
            **norm,
        )
        self.detection = DetectionLayer(
            score_threshold=c.score_threshold,
            nms_threshold=c.nms_threshold,
            max_detections=c.max_detections,
            box_variance=c.box_variance,
            portable=c.portable,
            name="detection",
        )
        if c.with_mask:
            self.pack_positives = PackRegions(portable=c.portable, name="pack_positives")
            self.pack_detections = PackRegions(portable=c.portable, name="pack_detections")
            self.unpack_masks = UnpackRegions(name="unpack_masks")
            self.mask_align = RoIAlign(c.mask_pool_size, name="mask_align", **align)
            self.mask_head = MaskHead(
                c.num_classes, c.mask_head_convs, c.mask_head_channels, name="mask_head", **norm
            )
            self.select_class = SelectClass(name="select_class")

    def _make_targets(self, c):
        self.rpn_targets = RPNTargetLayer(
            anchors_per_image=c.rpn_anchors_per_image,
            positive_fraction=c.rpn_positive_fraction,
            positive_threshold=c.rpn_positive_threshold,
            negative_threshold=c.rpn_negative_threshold,
            box_variance=c.rpn_box_variance,
            name="rpn_targets",
        )
        self.detection_targets = DetectionTargetLayer(
            c.num_classes,
            rois_per_image=c.rois_per_image,
            positive_fraction=c.roi_positive_fraction,
            positive_threshold=c.roi_positive_threshold,
            box_variance=c.box_variance,
            name="detection_targets",
        )
        if c.with_mask:
            self.mask_targets = MaskTargetLayer(
                c.mask_size, implementation="gather" if c.portable else "auto", name="mask_targets"
            )

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
        if self.config.with_mask:
            valid = detections["labels"] >= 0
            found = self.pack_detections(
                {"rois": detections["boxes"], "labels": detections["labels"]}, valid
            )
            masks = ops.sigmoid(self._mask_logits(features, found))
            detections["masks"] = self.unpack_masks(masks, found["places"], valid)
        return self._graph(inputs, detections)

    def _make_train_graph(self):
        inputs = {**self._image_inputs(), **self._truth_inputs()}
        sizes, masks = inputs["image_sizes"], inputs.get("masks")
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
            "box_deltas": box_deltas,  # (B * R, K, 4)
            "region_labels": ops.reshape(regions["labels"], (-1,)),  # (B * R,)
            "region_deltas": ops.reshape(regions["deltas"], (-1, 4)),  # (B * R, 4)
        }
        if self.config.with_mask:
            positive = self._positive(regions)
            outputs["mask_logits"] = self._mask_logits(features, positive)  # (N, M, M)
            outputs["mask_labels"] = positive["labels"]  # (N,)
            outputs["mask_targets"] = self.mask_targets(
                positive["rois"],
                positive["image_indices"],
                positive["matches"],
                truth["boxes"],
                masks,
            )  # (N, M, M)
        return self._graph(inputs, outputs)

    def _positive(self, regions):
        """Pack the positive regions of all images; they come first in their lists."""
        most = int(self.config.rois_per_image * self.config.roi_positive_fraction)
        first = {name: regions[name][:, :most] for name in ("rois", "labels", "matches")}
        is_object = ops.logical_and(first["labels"] >= 0, first["labels"] < self.config.num_classes)
        return self.pack_positives(first, is_object)

    def _mask_logits(self, features, regions):
        """Each packed region's mask for its own class, `(N, M, M)`."""
        pooled = self.mask_align(features, regions["rois"], regions["image_indices"])
        return self.select_class(self.mask_head(pooled), regions["labels"])

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
        # Weighted by the images as Keras weights the loss. Without a weight from the data, the step in which a dataset of
        # unknown length runs out would count too: its graph fails, but first adds 1 to the metric's count.
        images = ops.shape(y_pred["rpn_logits"])[0]
        for metric in self.loss_parts:
            metric.update_state(parts[metric.name], sample_weight=images)
        return (sum(parts.values()) + sum(self.losses)) / _replicas()

    def loss_values(self, outputs):
        """The losses by name, from what the model returns for inputs with ground truth."""
        beta, drawn = self.config.smooth_l1_beta, outputs["rpn_targets"]
        labels = outputs["region_labels"]
        parts = {
            "rpn_class_loss": losses.rpn_class_loss(
                outputs["rpn_logits"], drawn["indices"], drawn["labels"]
            ),
            "rpn_box_loss": losses.rpn_box_loss(outputs["rpn_deltas"], **drawn, beta=beta),
            "box_class_loss": losses.box_class_loss(outputs["class_logits"], labels),
            "box_loss": losses.box_loss(
                outputs["box_deltas"], labels, outputs["region_deltas"], beta
            ),
        }
        if self.config.with_mask:
            parts["mask_loss"] = losses.mask_loss(
                outputs["mask_logits"],
                outputs["mask_labels"],
                outputs["mask_targets"],
                self.config.num_classes,
            )
        return parts

    def get_config(self):
        backbone = self._given_backbone
        return {
            "config": to_dict(self.config),
            "backbone": backbone and keras.saving.serialize_keras_object(backbone),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(config.pop("backbone"), custom_objects)
        dtype = keras.saving.deserialize_keras_object(config.pop("dtype"))
        return cls(
            from_dict(MaskRCNNConfig, config.pop("config")),
            backbone=backbone,
            dtype=dtype,
            **config,
        )


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
