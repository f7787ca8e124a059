"""Detectron2's Mask R-CNN R50-FPN at inference once more, in NumPy: its published rules, its tensor names, NCHW.

Detectron2 is on no package index, so this stands where a recording would; it is written from the rules in its
documentation and configuration (`Base-RCNN-FPN.yaml`), and shares nothing with the package but the loops of `oracles`.
Maps are (C, H, W) of one picture.
"""

import math

import numpy as np
import oracles
from numpy.lib.stride_tricks import sliding_window_view

MEAN_BGR = np.array([103.53, 116.28, 123.675], "float32")
SIZES, RATIOS, LEVELS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (2, 3, 4, 5, 6)
CLAMP = math.log(1000 / 16)


def conv(x, weight, bias=None, stride=1):
    pad = weight.shape[-1] // 2
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    windows = sliding_window_view(x, weight.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    out = np.einsum("chwyx,fcyx->fhw", windows, weight, optimize=True)
    return out if bias is None else out + bias[:, None, None]


def relu(x):
    return np.maximum(x, 0)


class Oracle:
    """Args: state: Detectron2's names -> arrays; post_nms_topk: proposals kept."""

    def __init__(self, state, post_nms_topk):
        self.state, self.post_nms_topk = state, post_nms_topk

    def layer(self, name, x, stride=1):
        """Convolution with its bias, or with its frozen batch norm of epsilon 1e-5."""
        if f"{name}.norm.weight" not in self.state:
            return conv(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride)
        gain, shift, mean, variance = (
            self.state[f"{name}.norm.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + 1e-5)
        x = conv(x, self.state[f"{name}.weight"], None, stride)
        return x * scale[:, None, None] + (shift - mean * scale)[:, None, None]

    def dense(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def features(self, rgb):
        """Picture `(H, W, 3)` uint8 RGB -> {level: map}; OpenCV's order, no division."""
        height, width = rgb.shape[:2]
        x = rgb[..., ::-1].astype("float32") - MEAN_BGR
        x = np.pad(x, [(0, -height % 32), (0, -width % 32), (0, 0)]).transpose(2, 0, 1)
        trunk = "backbone.bottom_up"
        x = relu(self.layer(f"{trunk}.stem.conv1", x, 2))
        x = np.pad(x, [(0, 0), (1, 1), (1, 1)])
        x = sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((3, 4))
        stages = {}
        for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3)):
            for block in range(blocks):
                x = self.bottleneck(f"{trunk}.res{stage}.{block}", x, stage, block)
            stages[stage] = x
        return self.pyramid(stages)

    def bottleneck(self, name, x, stage, block):
        stride = 2 if stage > 2 and block == 0 else 1
        y = relu(self.layer(f"{name}.conv1", x, stride))  # STRIDE_IN_1X1
        y = relu(self.layer(f"{name}.conv2", y))
        y = self.layer(f"{name}.conv3", y)
        return relu(y + (self.layer(f"{name}.shortcut", x, stride) if block == 0 else x))

    def pyramid(self, stages):
        merged, out = None, {}
        for level in (5, 4, 3, 2):
            lateral = self.layer(f"backbone.fpn_lateral{level}", stages[level])
            merged = lateral if merged is None else lateral + merged.repeat(2, 1).repeat(2, 2)
            out[level] = self.layer(f"backbone.fpn_output{level}", merged)
        return out | {6: out[5][:, ::2, ::2]}

    def proposals(self, features, size):
        boxes, scores, levels = [], [], []
        for level, side in zip(LEVELS, SIZES):
            head = "proposal_generator.rpn_head"
            hidden = relu(self.layer(f"{head}.conv", features[level]))
            logits = self.layer(f"{head}.objectness_logits", hidden).transpose(1, 2, 0).reshape(-1)
            deltas = self.layer(f"{head}.anchor_deltas", hidden).transpose(1, 2, 0).reshape(-1, 4)
            best = np.argsort(-logits, kind="stable")[:1000]
            anchors = self.anchors(side, 2**level, *features[level].shape[1:])
            boxes.append(clip(decode(anchors[best], deltas[best], (1, 1, 1, 1)), size))
            scores.append(logits[best])
            levels.append(np.full(len(best), level))
        boxes, scores, levels = map(np.concatenate, (boxes, scores, levels))
        exists = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scores, levels = boxes[exists], scores[exists], levels[exists]
        kept = nms_by_group(boxes, scores, levels, 0.7)[: self.post_nms_topk]
        return boxes[kept]

    def anchors(self, side, stride, height, width):
        out = []
        for row in range(height):
            for column in range(width):
                for ratio in RATIOS:
                    w = math.sqrt(side**2 / ratio)
                    h = ratio * w
                    x, y = column * stride, row * stride  # offset 0
                    out.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        return np.array(out, "float32")

    def pool(self, features, boxes, size):
        """Aligned, sampling ratio 0: `(N, C, size, size)`."""
        pooled = []
        for box in boxes:
            area = max(box[2] - box[0], 0) * max(box[3] - box[1], 0)
            level = int(np.clip(math.floor(4 + math.log2(math.sqrt(area) / 224 + 1e-8)), 2, 5))
            feature = features[level].transpose(1, 2, 0)
            pooled.append(oracles.roi_align(feature, box, 2**level, size, sampling=0))
        return np.array(pooled, "float32").transpose(0, 3, 1, 2)

    def detect(self, features, proposals, size):
        """Boxes, scores, labels: every class above .05, suppressed at .5, the best 100."""
        x = self.pool(features, proposals, 7).reshape(len(proposals), -1)
        for name in ("fc1", "fc2"):
            x = relu(self.dense(f"roi_heads.box_head.{name}", x))
        logits = self.dense("roi_heads.box_predictor.cls_score", x)
        deltas = self.dense("roi_heads.box_predictor.bbox_pred", x).reshape(len(x), -1, 4)
        scores = np.exp(logits - logits.max(1, keepdims=True))
        scores = (scores / scores.sum(1, keepdims=True))[:, :-1]
        boxes = clip(decode(proposals[:, None], deltas, (10, 10, 5, 5)), size)
        row, label = np.nonzero(scores > 0.05)
        boxes, scores = boxes[row, label], scores[row, label]
        kept = nms_by_group(boxes, scores, label, 0.5)[:100]
        return boxes[kept], scores[kept], label[kept]

    def masks(self, features, boxes, labels):
        """Probabilities `(N, 28, 28)` of each detection's class."""
        out = []
        for x, label in zip(self.pool(features, boxes, 14), labels):
            for i in range(4):
                x = relu(self.layer(f"roi_heads.mask_head.mask_fcn{i + 1}", x))
            weight = self.state["roi_heads.mask_head.deconv.weight"]  # IOHW, stride 2
            x = np.einsum("chw,cfyx->fhywx", x, weight).reshape(weight.shape[1], 28, 28)
            x = relu(x + self.state["roi_heads.mask_head.deconv.bias"][:, None, None])
            logits = self.layer("roi_heads.mask_head.predictor", x)[label]
            out.append(1 / (1 + np.exp(-logits)))
        return np.array(out)


def decode(boxes, deltas, weights):
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    x, y = boxes[..., 0] + width / 2, boxes[..., 1] + height / 2
    dx, dy, dw, dh = np.moveaxis(deltas / np.array(weights, "float32"), -1, 0)
    x, y = x + dx * width, y + dy * height
    width, height = width * np.exp(np.minimum(dw, CLAMP)), height * np.exp(np.minimum(dh, CLAMP))
    return np.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], -1)


def clip(boxes, size):
    return np.clip(boxes, 0, [size[1], size[0], size[1], size[0]]).astype("float32")


def nms_by_group(boxes, scores, groups, threshold):
    """Indices kept, best first; boxes of different groups do not meet."""
    kept = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        kept += [members[i] for i in oracles.nms(boxes[members], scores[members], threshold)]
    return np.array(sorted(kept, key=lambda i: -scores[i]), int)


def paste(mask, box, size):
    """Sampled at pixel centres, zeros around the mask: `(H, W)` bool."""
    out = np.zeros(size, bool)
    framed = np.pad(mask, 1)
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5 - box[1]) / (box[3] - box[1]) * mask.shape[0] + 0.5
            x = (column + 0.5 - box[0]) / (box[2] - box[0]) * mask.shape[1] + 0.5
            if 0 <= y <= mask.shape[0] + 1 and 0 <= x <= mask.shape[1] + 1:
                out[row, column] = oracles.bilinear(framed[..., None], y, x)[0] >= 0.5
    return out
