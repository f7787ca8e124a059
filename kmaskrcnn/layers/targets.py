"""What the network should have said: targets for the RPN, for the regions and for their masks.

boxes      (B, G, 4)  ground truth, xyxy pixels, zeros pad
labels     (B, G)     0 ... K-1, -1 pads
is_crowd   (B, G)     crowds are never matched, and boxes within them never count as background
rois       (B, R, 4)  sampled regions
"""

import keras
from keras import ops

from kmaskrcnn.geometry.boxes import encode_deltas, pairwise_coverage, pairwise_iou, shorten
from kmaskrcnn.geometry.matching import match_boxes, sample_balanced

# A box of which this share lies in a crowd is neither object nor background (Detectron's bound).
CROWD_COVERAGE = 0.7


def ious_with_objects(candidates, boxes, labels, is_crowd):
    """IoU of candidate boxes with what they may be matched to.

    Args:
        candidates: `(N, 4)` or `(B, N, 4)`.
        boxes, labels, is_crowd: ground truth, `(B, G, 4)`, `(B, G)`, `(B, G)`.

    Returns:
        `ious (B, N, G)`, -1 in the columns of crowds and padding, and `in_crowd (B, N)` bool.
    """
    is_object = (labels >= 0) & ~is_crowd
    ious = ops.where(is_object[:, None, :], pairwise_iou(candidates, boxes), -1.0)
    covered = pairwise_coverage(candidates, boxes) >= CROWD_COVERAGE
    return ious, ops.any(covered & (is_crowd & (labels >= 0))[:, None, :], axis=2)


def match_regions(candidates, boxes, labels, is_crowd, positive_threshold):
    """What each candidate region is to its picture: `matches (B, N)` int32 into G, the object that it overlaps most,
    and `roles (B, N)` int32: 1 object, 0 background, -1 neither: padding, or part of a crowd.

    Args:
        candidates: `(B, N, 4)`.
        boxes, labels, is_crowd: ground truth, `(B, G, 4)`, `(B, G)`, `(B, G)`.
        positive_threshold: IoU from which a region is an object, and under which background.
    """
    ious, in_crowd = ious_with_objects(candidates, boxes, labels, is_crowd)
    matches, roles = match_boxes(ious, positive_threshold, positive_threshold)
    is_empty = ops.any(candidates[..., 2:] <= candidates[..., :2], axis=-1)
    return matches, ops.where(is_empty | ((roles == 0) & in_crowd), -1, roles)


def answers_of_regions(
    rois, roles, matches, boxes, labels, num_classes, box_variance, box_rule="edges"
):
    """What a box head should say of regions: see `DetectionTargetLayer`.

    Args:
        rois: `(B, R, 4)`.
        roles, matches: `(B, R)`, as `match_regions` gives them.
        boxes, labels: ground truth, `(B, G, 4)`, `(B, G)`.
        num_classes: K.
        box_variance: what the deltas are divided by.
        box_rule: by which the deltas move boxes, see `geometry/boxes.py`.

    Returns:
        Dict of `labels (B, R)`, `deltas (B, R, 4)` and `matches (B, R)`.
    """
    is_object = roles == 1
    objects = ops.take_along_axis(boxes, matches[..., None], axis=1)
    deltas = encode_deltas(shorten(rois, box_rule), shorten(objects, box_rule), box_variance)
    classes = ops.take_along_axis(ops.cast(labels, "int32"), matches, axis=1)
    return {
        "labels": ops.where(is_object, classes, ops.where(roles == 0, num_classes, -1)),
        "deltas": ops.where(is_object[..., None], deltas, 0.0),
        "matches": matches,
    }


def spec_of_regions(batch, count):
    """The shapes of `count` regions a picture with what a box head should say of them."""
    return {
        "rois": keras.KerasTensor((batch, count, 4), "float32"),
        "labels": keras.KerasTensor((batch, count), "int32"),
        "deltas": keras.KerasTensor((batch, count, 4), "float32"),
        "matches": keras.KerasTensor((batch, count), "int32"),
    }


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class RPNTargetLayer(keras.layers.Layer):
    """Draws the anchors that the RPN learns from in one step, and says what it should answer.

    Anchors centred in the padding of a picture are ignored: none is background there, and none is an object's best.

    Args:
        anchors_per_image: S.
        positive_fraction: at most this share of them is positive.
        positive_threshold, negative_threshold: IoU from which an anchor is an object, and under which background.
        box_variance: what the deltas are divided by.
        seed: of the draw; `None` takes one from `keras.utils.set_random_seed`'s stream, as Keras's layers do.

    Call arguments:
        anchors: `(A, 4)`, all levels.
        boxes, labels, is_crowd: ground truth, `(B, G, 4)`, `(B, G)`, `(B, G)`.
        image_sizes: `(B, 2)` height and width.

    Returns:
        Dict: `indices (B, S)` int32 into the anchors; `labels (B, S)` int32, 1 object, 0 background, -1 no anchor;
        `deltas (B, S, 4)` float32, 0 where not positive.

    Reference:
        [Faster R-CNN](https://arxiv.org/abs/1506.01497), sections 3.1.2 and 3.1.3
    """

    def __init__(
        self,
        anchors_per_image=256,
        positive_fraction=0.5,
        positive_threshold=0.7,
        negative_threshold=0.3,
        box_variance=(1.0, 1.0, 1.0, 1.0),
        seed=None,
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.anchors_per_image = anchors_per_image
        self.positive_fraction = positive_fraction
        self.positive_threshold = positive_threshold
        self.negative_threshold = negative_threshold
        self.box_variance = tuple(box_variance)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, anchors, boxes, labels, is_crowd, image_sizes):
        ious, in_crowd = ious_with_objects(anchors, boxes, labels, is_crowd)
        in_picture = self._in_picture(anchors, image_sizes)
        matches, found = match_boxes(
            ops.where(in_picture[..., None], ious, -1.0),
            self.positive_threshold,
            self.negative_threshold,
            match_best=True,
        )
        found = ops.where((found == 0) & (in_crowd | ~in_picture), -1, found)
        noise = keras.random.uniform(ops.shape(found), seed=self.seed_generator)
        indices, drawn = sample_balanced(
            found, self.anchors_per_image, self.positive_fraction, noise
        )
        matched = ops.take_along_axis(matches, indices, axis=1)
        deltas = encode_deltas(
            ops.take(anchors, indices, axis=0),
            ops.take_along_axis(boxes, matched[..., None], axis=1),
            self.box_variance,
        )
        return {
            "indices": indices,
            "labels": drawn,
            "deltas": ops.where((drawn == 1)[..., None], deltas, 0.0),
        }

    def compute_output_spec(self, anchors, boxes, *_, **__):
        drawn = (boxes.shape[0], self.anchors_per_image)
        return {
            "indices": keras.KerasTensor(drawn, "int32"),
            "labels": keras.KerasTensor(drawn, "int32"),
            "deltas": keras.KerasTensor((*drawn, 4), "float32"),
        }

    def _in_picture(self, anchors, image_sizes):
        centres = (anchors[None, :, :2] + anchors[None, :, 2:]) / 2  # x, y
        sizes = ops.cast(ops.flip(image_sizes, axis=-1), "float32")[:, None, :]
        return ops.all(centres < sizes, axis=-1)

    def get_config(self):
        names = (
            "anchors_per_image",
            "positive_fraction",
            "positive_threshold",
            "negative_threshold",
            "box_variance",
            "seed",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="kmaskrcnn")
class DetectionTargetLayer(keras.layers.Layer):
    """Draws the regions that the heads learn from in one step, and says what the box head should answer.

    The ground-truth boxes join the proposals, so that there are positives from the first step on.

    Args:
        num_classes: K; label K stands for the background.
        rois_per_image: R.
        positive_fraction: at most this share of them is positive.
        positive_threshold: IoU from which a region is an object, and under which background.
        box_variance: what the deltas are divided by.
        seed: of the draw; `None` takes one from `keras.utils.set_random_seed`'s stream, as Keras's layers do.
        box_rule: that of the `DetectionLayer` which reads the answers.

    Call arguments:
        proposals: `(B, N, 4)`, zeros pad.
        boxes, labels, is_crowd: ground truth, `(B, G, 4)`, `(B, G)`, `(B, G)`.

    Returns:
        Dict: `rois (B, R, 4)`, positives first; `labels (B, R)` int32, 0 ... K-1 objects, K background, -1 no region;
        `deltas (B, R, 4)`, 0 where not positive; `matches (B, R)` int32 into G.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 3.1
    """

    def __init__(
        self,
        num_classes,
        rois_per_image=512,
        positive_fraction=0.25,
        positive_threshold=0.5,
        box_variance=(0.1, 0.1, 0.2, 0.2),
        seed=None,
        box_rule="edges",
        **kwargs,
    ):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.num_classes = num_classes
        self.rois_per_image = rois_per_image
        self.positive_fraction = positive_fraction
        self.positive_threshold = positive_threshold
        self.box_variance = tuple(box_variance)
        self.seed, self.box_rule = seed, box_rule
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, proposals, boxes, labels, is_crowd):
        candidates = ops.concatenate([proposals, boxes], axis=1)
        matches, found = match_regions(candidates, boxes, labels, is_crowd, self.positive_threshold)
        # Drawn with the candidates first, so that more padding behind them changes no number before it.
        noise = keras.random.uniform(
            (ops.shape(found)[1], ops.shape(found)[0]), seed=self.seed_generator
        )
        indices, drawn = sample_balanced(
            found, self.rois_per_image, self.positive_fraction, ops.transpose(noise)
        )
        rois = ops.take_along_axis(candidates, indices[..., None], axis=1)
        rois = ops.where((drawn >= 0)[..., None], rois, 0.0)
        matches = ops.take_along_axis(matches, indices, axis=1)
        of_head = self.num_classes, self.box_variance, self.box_rule
        return {
            "rois": rois,
            **answers_of_regions(rois, drawn, matches, boxes, labels, *of_head),
        }

    def compute_output_spec(self, proposals, *_, **__):
        return spec_of_regions(proposals.shape[0], self.rois_per_image)

    def get_config(self):
        names = (
            "num_classes",
            "rois_per_image",
            "positive_fraction",
            "positive_threshold",
            "box_variance",
            "seed",
            "box_rule",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
