"""Detectron2's Mask R-CNNs at inference once more, in NumPy: its published rules, its tensor names, NCHW.

Detectron2 is on no package index, so this stands where a recording would; it is written from the rules in its
documentation and configurations (`Base-RCNN-FPN.yaml`, `-C4`, `-DilatedC5`), and shares nothing with the package but
the loops of `oracles`.
Maps are (C, H, W) of one picture.
"""

import math

import numpy as np
import oracles
from numpy.lib.stride_tricks import sliding_window_view

MEAN_BGR = np.array([103.53, 116.28, 123.675], "float32")
SIZES, RATIOS, LEVELS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (2, 3, 4, 5, 6)
CLAMP = math.log(1000 / 16)


def conv(x, weight, bias=None, stride=1, dilation=1):
    """`(C, H, W)` with OIHW; a kernel of fewer input channels than there are has groups."""
    size, groups = weight.shape[-1], len(x) // weight.shape[1]
    pad, reach = size // 2 * dilation, (size - 1) * dilation + 1
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad)])
    windows = sliding_window_view(x, (reach, reach), axis=(1, 2))
    windows = windows[:, ::stride, ::stride, ::dilation, ::dilation]
    out = np.concatenate(
        [
            np.einsum("chwyx,fcyx->fhw", channels, kernels, optimize=True)
            for channels, kernels in zip(np.split(windows, groups), np.split(weight, groups))
        ]
    )
    return out if bias is None else out + bias[:, None, None]


def relu(x):
    return np.maximum(x, 0)


class Oracle:
    """A model of the zoo.

    Args:
        state: Detectron2's names -> arrays.
        post_nms_topk: proposals kept.
        kind: `"fpn"`, `"c4"` (res5 on regions) or `"dc5"` (res5 dilated).
        stride_in_1x1, std_bgr: of the trunk.
    """

    def __init__(self, state, post_nms_topk, kind="fpn", stride_in_1x1=True, std_bgr=1.0):
        self.state, self.post_nms_topk, self.kind = state, post_nms_topk, kind
        self.stride_in_1x1, self.std_bgr = stride_in_1x1, np.asarray(std_bgr, "float32")

    def layer(self, name, x, stride=1, dilation=1):
        """Convolution with its bias, or with its frozen batch norm of epsilon 1e-5."""
        weight = self.state[f"{name}.weight"]
        if f"{name}.norm.weight" not in self.state:
            return conv(x, weight, self.state[f"{name}.bias"], stride, dilation)
        gain, shift, mean, variance = (
            self.state[f"{name}.norm.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + 1e-5)
        x = conv(x, weight, None, stride, dilation)
        return x * scale[:, None, None] + (shift - mean * scale)[:, None, None]

    def dense(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def features(self, rgb):
        """Picture `(H, W, 3)` uint8 RGB -> {level: map}; OpenCV's order; only a pyramid pads to 32."""
        height, width = rgb.shape[:2]
        x = (rgb[..., ::-1].astype("float32") - MEAN_BGR) / self.std_bgr
        if self.kind == "fpn":
            x = np.pad(x, [(0, -height % 32), (0, -width % 32), (0, 0)])
        trunk = "backbone.bottom_up" if self.kind == "fpn" else "backbone"
        x = relu(self.layer(f"{trunk}.stem.conv1", x.transpose(2, 0, 1), 2))
        x = np.pad(x, [(0, 0), (1, 1), (1, 1)])
        x = sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((3, 4))
        stages = {}
        for stage in (2, 3, 4) if self.kind == "c4" else (2, 3, 4, 5):
            dilation = 2 if (self.kind, stage) == ("dc5", 5) else 1
            x = stages[stage] = self.stage(f"{trunk}.res{stage}", x, stage, dilation)
        return self.pyramid(stages) if self.kind == "fpn" else {4: x}

    def stage(self, name, x, stage, dilation=1):
        block = 0
        while f"{name}.{block}.conv1.weight" in self.state:
            stride = 2 if stage > 2 and block == 0 and dilation == 1 else 1
            x = self.bottleneck(f"{name}.{block}", x, stride, dilation)
            block += 1
        return x

    def bottleneck(self, name, x, stride, dilation):
        first, second = (stride, 1) if self.stride_in_1x1 else (1, stride)
        y = relu(self.layer(f"{name}.conv1", x, first))
        y = relu(self.layer(f"{name}.conv2", y, second, dilation))
        y = self.layer(f"{name}.conv3", y)
        has_shortcut = f"{name}.shortcut.weight" in self.state
        return relu(y + (self.layer(f"{name}.shortcut", x, stride) if has_shortcut else x))

    def pyramid(self, stages):
        merged, out = None, {}
        for level in (5, 4, 3, 2):
            lateral = self.layer(f"backbone.fpn_lateral{level}", stages[level])
            merged = lateral if merged is None else lateral + merged.repeat(2, 1).repeat(2, 2)
            out[level] = self.layer(f"backbone.fpn_output{level}", merged)
        return out | {6: out[5][:, ::2, ::2]}

    def proposals(self, features, size):
        boxes, scores, levels = [], [], []
        of_levels = {4: SIZES} if self.kind != "fpn" else {n: (s,) for n, s in zip(LEVELS, SIZES)}
        for level, sides in of_levels.items():
            head = "proposal_generator.rpn_head"
            hidden = relu(self.layer(f"{head}.conv", features[level]))
            logits = self.layer(f"{head}.objectness_logits", hidden).transpose(1, 2, 0).reshape(-1)
            deltas = self.layer(f"{head}.anchor_deltas", hidden).transpose(1, 2, 0).reshape(-1, 4)
            best = np.argsort(-logits, kind="stable")[: 1000 if self.kind == "fpn" else 6000]
            anchors = self.anchors(sides, 2**level, *features[level].shape[1:])
            boxes.append(clip(decode(anchors[best], deltas[best], (1, 1, 1, 1)), size))
            scores.append(logits[best])
            levels.append(np.full(len(best), level))
        boxes, scores, levels = map(np.concatenate, (boxes, scores, levels))
        exists = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scores, levels = boxes[exists], scores[exists], levels[exists]
        kept = nms_by_group(boxes, scores, levels, 0.7)[: self.post_nms_topk]
        return boxes[kept]

    def anchors(self, sides, stride, height, width):
        out = []
        for row, column in np.ndindex(height, width):
            for side in sides:
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
            level = level if self.kind == "fpn" else 4
            feature = features[level].transpose(1, 2, 0)
            pooled.append(oracles.roi_align(feature, box, 2**level, size, sampling=0))
        return np.array(pooled, "float32").transpose(0, 3, 1, 2)

    def detect(self, features, proposals, size):
        """Boxes, scores, labels: every class above .05, suppressed at .5, the best 100."""
        if self.kind == "c4":
            x = self.res5(self.pool(features, proposals, 14)).mean((2, 3))
        else:
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

    def res5(self, pooled):
        """The fifth stage on each region: `(N, 2048, P / 2, P / 2)`."""
        return np.array([self.stage("roi_heads.res5", x, 5) for x in pooled])

    def masks(self, features, boxes, labels):
        """Probabilities `(N, M, M)` of each detection's class; M is 28, with res5 14."""
        out, pooled = [], self.pool(features, boxes, 14)
        convs = 0 if self.kind == "c4" else 4
        for x, label in zip(self.res5(pooled) if self.kind == "c4" else pooled, labels):
            for i in range(convs):
                x = relu(self.layer(f"roi_heads.mask_head.mask_fcn{i + 1}", x))
            weight = self.state["roi_heads.mask_head.deconv.weight"]  # IOHW, stride 2
            size = 2 * x.shape[1]
            x = np.einsum("chw,cfyx->fhywx", x, weight).reshape(weight.shape[1], size, size)
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
