"""How well anchors meet the objects of a dataset, and which anchors would meet them better.

    records -> boxes as the network sees them -> each one's IoU with the best of all anchors -> recall
            -> other anchors, whose mean IoU is the highest -> lines for a recipe

N objects, crowds left out; lengths are pixels of the network image.
"""

import dataclasses

import numpy as np

from kmaskrcnn.config import MaskRCNNConfig
from kmaskrcnn.geometry.anchors import base_anchors
from kmaskrcnn.geometry.resizing import padded_length, resize_shape

PERCENTILES = (1, 10, 50, 90, 99)
THRESHOLDS = (0.5, 0.7)
SEARCHED = 5000  # objects are enough to choose by; the recall is that of all
FINEST = 4.0 * 2 ** (np.arange(17) / 4)  # scales of P2 that are tried: 4 ... 64
LEAST_GAIN = 0.01  # of the mean IoU: for less, anchors stay as they are


@dataclasses.dataclass(frozen=True)
class NetworkBoxes:
    """Objects as the network sees them.

    Args:
        boxes: `(N, 4)` float64 xyxy.
        canvases: `(N, 2)` int, height and width of each one's padded picture.
        image_ids: `(N,)` int64.
    """

    boxes: np.ndarray
    canvases: np.ndarray
    image_ids: np.ndarray

    @property
    def lengths(self):
        """`(N, 2)`, width and height."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def sides(self):
        """`(N,)`, square roots of the areas."""
        return np.sqrt(self.lengths.prod(axis=1))

    @property
    def aspect_ratios(self):
        """`(N,)`, height / width."""
        return self.lengths[:, 1] / self.lengths[:, 0]

    def sample(self, count):
        """At most `count` of them, always the same ones."""
        if len(self.boxes) <= count:
            return self
        kept = np.random.default_rng(0).choice(len(self.boxes), count, replace=False)
        return NetworkBoxes(self.boxes[kept], self.canvases[kept], self.image_ids[kept])


def network_boxes(records, config: MaskRCNNConfig) -> NetworkBoxes:
    """The boxes of a dataset's objects after the pictures are resized.

    Args:
        records: `CocoDataset`.
        config: its `min_size`, `max_size`, `resize_rule` and `size_divisor` count.
    """
    boxes, canvases, image_ids = [], [], []
    for record in records.images:
        old = record.height, record.width
        new = resize_shape(*old, config.min_size, config.max_size, config.resize_rule)
        scale_y, scale_x = new[0] / old[0], new[1] / old[1]
        canvas = [padded_length(side, config.size_divisor) for side in new]
        for instance in record.instances:
            if not instance.is_crowd:
                boxes.append(np.multiply(instance.box, (scale_x, scale_y, scale_x, scale_y)))
                canvases.append(canvas)
                image_ids.append(record.image_id)
    return NetworkBoxes(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(canvases, np.int64).reshape(-1, 2),
        np.array(image_ids, np.int64),
    )


def best_ious(found: NetworkBoxes, config: MaskRCNNConfig):
    """Each object's IoU with the anchor that meets it best: `(N,)` float64.

    Of one shape of anchor, that is the one in the nearest cell: the overlap falls with the distance along either axis.

    Args:
        found: the objects.
        config: its anchors and its pyramid count.
    """
    best = np.zeros(len(found.boxes))
    if config.pyramid == "fpn":
        levels = [(4 * 2**level, (scale,)) for level, scale in enumerate(config.anchor_scales)]
    else:
        levels = [(16, config.anchor_scales)]
    for stride, scales in levels:
        for scale in scales:
            base = base_anchors(scale, config.anchor_aspect_ratios).astype(np.float64)
            base = base.round() if config.anchor_rule == "torchvision" else base
            for anchor in base:
                best = np.maximum(best, _ious_with_nearest(found, stride, anchor))
    return best


def _ious_with_nearest(found, stride, anchor):
    last = -(-found.canvases[:, ::-1] // stride) - 1  # the last cell's number, x and y
    middles = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    nearest = np.round(middles / stride).clip(0, last) * stride
    upper = np.minimum(found.boxes[:, 2:], nearest + anchor[2:])
    lower = np.maximum(found.boxes[:, :2], nearest + anchor[:2])
    shared = (upper - lower).clip(0).prod(axis=1)
    area = (anchor[2:] - anchor[:2]).prod()
    return shared / (found.lengths.prod(axis=1) + area - shared)


def propose_anchors(found: NetworkBoxes, config: MaskRCNNConfig) -> MaskRCNNConfig:
    """The configuration with the anchors of the highest mean IoU, among those that meet no fewer objects at IoU 0.5.

    On a pyramid every scale is twice the one before, as every stride is: levels keep their share of sizes, and only
    the finest one is searched. On one level the scales, and everywhere the aspect ratios, are the middles of clusters
    (k-means of their logarithms). Where that gains next to nothing, the anchors stay as they are.

    Args:
        found: one object or more.
        config: the anchors to start from; as many ratios are proposed.

    Reference:
        [YOLO9000](https://arxiv.org/abs/1612.08242), section 2, dimension clusters
    """
    found = found.sample(SEARCHED)
    ratios = sorted(set(cluster(found.aspect_ratios, len(config.anchor_aspect_ratios)).round(2)))
    if config.pyramid == "fpn":
        scales = [finest * 2.0 ** np.arange(5) for finest in FINEST]
    else:
        scales = [cluster(found.sides, 5)]
    now = best_ious(found, config)
    best, highest, met = config, now.mean() + LEAST_GAIN, (now >= THRESHOLDS[0]).mean()
    for candidate in (config.anchor_scales, *scales):
        for kept in (config.anchor_aspect_ratios, ratios):
            changed = dataclasses.replace(
                config,
                anchor_scales=tuple(float(round(scale)) for scale in candidate),
                anchor_aspect_ratios=tuple(map(float, kept)),
            )
            ious = best_ious(found, changed)
            if ious.mean() > highest and (ious >= THRESHOLDS[0]).mean() >= met:
                best, highest = changed, ious.mean()
    return best


def cluster(values, count):
    """The middles of `count` clusters of positive numbers: k-means of their logarithms, begun at quantiles; sorted."""
    logs = np.sort(np.log(values))
    middles = np.quantile(logs, (np.arange(count) + 0.5) / count)
    for _ in range(100):
        nearest = np.abs(logs[:, None] - middles).argmin(axis=1)
        members = [logs[nearest == number] for number in range(count)]
        moved = np.array([m.mean() if m.size else old for m, old in zip(members, middles)])
        if np.allclose(moved, middles):
            break
        middles = moved
    return np.exp(np.sort(middles))


@dataclasses.dataclass(frozen=True)
class AnchorAdvice:
    """What `advise_anchors` found.

    Args:
        num_objects: int.
        sides: dict, percentile -> square root of the area, pixels of the network image.
        aspect_ratios: dict, percentile -> height / width.
        anchors, proposed: dicts of `anchor_scales` and `anchor_aspect_ratios`.
        recalls, proposed_recalls: dicts, IoU -> share of the objects that an anchor meets that well.
    """

    num_objects: int
    sides: dict
    aspect_ratios: dict
    anchors: dict
    proposed: dict
    recalls: dict
    proposed_recalls: dict

    def to_dict(self):
        """The advice in values that json can hold."""
        return dataclasses.asdict(self)

    def to_text(self):
        """The advice as lines for a terminal; the last ones are a recipe's."""
        spreads = {"side in pixels": self.sides, "height / width": self.aspect_ratios}
        lines = [f"objects            {self.num_objects}, in the network's picture"]
        lines += [
            f"  {name:16} {', '.join(f'{value:.4g} ({p} %)' for p, value in spread.items())}"
            for name, spread in spreads.items()
        ]
        for iou, now in self.recalls.items():
            better = self.proposed_recalls[iou]
            lines.append(f"met at IoU {iou:<8}{now:.1%} now, {better:.1%} with the anchors below")
        if self.proposed == self.anchors:
            lines.append("no anchors were found that meet them better than these:")
        return "\n".join([*lines, "model:", *(f"  {k}: {v}" for k, v in self.proposed.items())])


def advise_anchors(records, config: MaskRCNNConfig) -> AnchorAdvice:
    """How well a configuration's anchors meet a dataset's objects, and which ones would meet them better.

    An object that no anchor meets at `rpn_positive_threshold` still learns from the best one, but late and badly.

    Args:
        records: `CocoDataset`.
        config: the model; its size of pictures and its anchors count.

    Raises:
        ValueError: there is no object.

    Example:
        >>> print(advise_anchors(load_coco("train.json", "images/"), MaskRCNNConfig()).to_text())
    """
    found = network_boxes(records, config)
    if not len(found.boxes):
        raise ValueError(f"records: {records.json_path or 'they'} have no object to fit anchors to")
    proposed = propose_anchors(found, config)
    return AnchorAdvice(
        len(found.boxes),
        _percentiles(found.sides),
        _percentiles(found.aspect_ratios),
        _anchors(config),
        _anchors(proposed),
        _recalls(found, config),
        _recalls(found, proposed),
    )


def _percentiles(values):
    return {p: float(value) for p, value in zip(PERCENTILES, np.percentile(values, PERCENTILES))}


def _anchors(config):
    names = "anchor_scales", "anchor_aspect_ratios"
    return {name: [float(value) for value in getattr(config, name)] for name in names}


def _recalls(found, config):
    ious = best_ious(found, config)
    return {threshold: float((ious >= threshold).mean()) for threshold in THRESHOLDS}
