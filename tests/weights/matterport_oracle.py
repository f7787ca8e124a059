"""matterport's Mask R-CNN R50-FPN at inference once more, in NumPy: its rules, its layer names, normalised yxyx boxes.

Written from what its code does; it shares nothing with the package but the loops of `oracles`. Maps are (C, H, W) of
one picture that fills its square; kernels are OIHW, as PyTorch's, until `write_h5` turns them to Keras's layout.
"""

import math

import h5py
import numpy as np
import oracles
from detectron2_oracle import conv, relu
from numpy.lib.stride_tricks import sliding_window_view

MEAN_RGB = np.array([123.7, 116.8, 103.9], "float32")
STD_DEV = np.array([0.1, 0.1, 0.2, 0.2], "float32")
SIZES, WIDTH_BY_HEIGHT, LEVELS = (32, 64, 128, 256, 512), (0.5, 1.0, 2.0), (2, 3, 4, 5, 6)
EPSILON = 1e-3


def shapes(blocks_of_c4=6):
    """Names and shapes of all weights; 6 blocks for ResNet-50, 23 for ResNet-101."""
    found = {}

    def conv_of(name, out, given, kernel, norm=None):
        found[f"{name}.weight"] = (out, given, kernel, kernel)
        found[f"{name}.bias"] = (out,)
        parts = ("weight", "bias", "running_mean", "running_var") if norm else ()
        found.update({f"{norm}.{part}": (out,) for part in parts})

    conv_of("conv1", 64, 3, 7, "bn_conv1")
    given = 64
    for stage, blocks in zip((2, 3, 4, 5), (3, 4, blocks_of_c4, 3)):
        width = 16 * 2**stage
        for block in range(blocks):
            end = f"{stage}{chr(97 + block)}_branch"
            if block == 0:
                conv_of(f"res{end}1", 4 * width, given, 1, f"bn{end}1")
            conv_of(f"res{end}2a", width, given, 1, f"bn{end}2a")
            conv_of(f"res{end}2b", width, width, 3, f"bn{end}2b")
            conv_of(f"res{end}2c", 4 * width, width, 1, f"bn{end}2c")
            given = 4 * width
        conv_of(f"fpn_c{stage}p{stage}", 256, given, 1)
        conv_of(f"fpn_p{stage}", 256, 256, 3)
    conv_of("rpn_conv_shared", 512, 256, 3)
    conv_of("rpn_class_raw", 6, 512, 1)
    conv_of("rpn_bbox_pred", 12, 512, 1)
    conv_of("mrcnn_class_conv1", 1024, 256, 7, "mrcnn_class_bn1")
    conv_of("mrcnn_class_conv2", 1024, 1024, 1, "mrcnn_class_bn2")
    for name, out in (("mrcnn_class_logits", 81), ("mrcnn_bbox_fc", 324)):
        found |= {f"{name}.weight": (out, 1024), f"{name}.bias": (out,)}
    for i in range(1, 5):
        conv_of(f"mrcnn_mask_conv{i}", 256, 256, 3, f"mrcnn_mask_bn{i}")
    found |= {"mrcnn_mask_deconv.weight": (256, 256, 2, 2), "mrcnn_mask_deconv.bias": (256,)}
    conv_of("mrcnn_mask", 81, 256, 1)
    return found


def write_h5(path, state):
    """The file that Keras 2's `save_weights` wrote: a group a layer, those of the RPN in its own model's group."""
    layers = {}
    for name, array in state.items():
        layer, part = name.rsplit(".", 1)
        layers.setdefault(layer, {})[keras_part(layer, part)] = keras_layout(layer, array)
    with h5py.File(path, "w") as file:
        groups = {"input_image": [], "rpn_model": [], "ROI": []}
        for layer, parts in layers.items():
            group = "rpn_model" if layer.startswith("rpn_") else layer
            groups.setdefault(group, []).extend(f"{layer}/{part}:0" for part in parts)
            for part, array in parts.items():
                file.create_dataset(f"{group}/{layer}/{part}:0", data=array)
        for group, names in groups.items():
            file.require_group(group).attrs["weight_names"] = [name.encode() for name in names]
        file.attrs["layer_names"] = [name.encode() for name in groups]
        file.attrs["backend"], file.attrs["keras_version"] = b"tensorflow", b"2.1.3"


def keras_part(layer, part):
    if "bn" not in layer:
        return {"weight": "kernel", "bias": "bias"}[part]
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    return dict(zip(("weight", "bias", "running_mean", "running_var"), names))[part]


def keras_layout(layer, array):
    """OIHW -> HWIO, a transposed convolution's IOHW -> HWOI, (out, in) -> (in, out): the same axes."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


class Oracle:
    """Args: state: names -> arrays; pre_topk, post_topk: anchors before and proposals after suppression."""

    def __init__(self, state, pre_topk, post_topk):
        self.state, self.pre_topk, self.post_topk = state, pre_topk, post_topk

    def layer(self, name, x, stride=1, norm=None):
        x = conv(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride)
        return self.norm(norm, x) if norm else x

    def norm(self, name, x):
        gain, shift, mean, variance = (
            self.state[f"{name}.{part}"].reshape(-1, *[1] * (x.ndim - 1))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(variance + EPSILON) * gain + shift

    def features(self, square):
        """Picture `(S, S, 3)` RGB -> {level: map}."""
        x = (square.astype("float32") - MEAN_RGB).transpose(2, 0, 1)
        x = relu(self.layer("conv1", x, 2, "bn_conv1"))
        x = np.pad(x, [(0, 0), (0, 1), (0, 1)])  # "same" of an even side
        x = sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max((3, 4))
        merged, stages, out = None, {}, {}
        for stage, blocks in zip((2, 3, 4, 5), (3, 4, 6, 3)):
            for block in range(blocks):
                x = self.block(f"{stage}{chr(97 + block)}_branch", x, stage, block)
            stages[stage] = x
        for level in (5, 4, 3, 2):
            lateral = self.layer(f"fpn_c{level}p{level}", stages[level])
            merged = lateral if merged is None else lateral + merged.repeat(2, 1).repeat(2, 2)
            out[level] = self.layer(f"fpn_p{level}", merged)
        return out | {6: out[5][:, ::2, ::2]}

    def block(self, end, x, stage, block):
        stride = 2 if stage > 2 and block == 0 else 1
        y = relu(self.layer(f"res{end}2a", x, stride, f"bn{end}2a"))
        y = relu(self.layer(f"res{end}2b", y, 1, f"bn{end}2b"))
        y = self.layer(f"res{end}2c", y, 1, f"bn{end}2c")
        return relu(y + (self.layer(f"res{end}1", x, stride, f"bn{end}1") if block == 0 else x))

    def proposals(self, features, side):
        """Normalised yxyx boxes: the best of all levels, suppressed together."""
        boxes, scores = [], []
        for level, size in zip(LEVELS, SIZES):
            hidden = relu(self.layer("rpn_conv_shared", features[level]))
            raw = self.layer("rpn_class_raw", hidden).transpose(1, 2, 0).reshape(-1, 2)
            deltas = self.layer("rpn_bbox_pred", hidden).transpose(1, 2, 0).reshape(-1, 4)
            anchors = normalise(self.anchors(size, 2**level, *features[level].shape[1:]), side)
            boxes.append(move(anchors, deltas * STD_DEV))
            scores.append(softmax(raw)[:, 1])
        boxes, scores = np.concatenate(boxes).clip(0, 1), np.concatenate(scores)
        best = np.argsort(-scores, kind="stable")[: self.pre_topk]
        kept = oracles.nms(boxes[best], scores[best], 0.7)[: self.post_topk]
        return boxes[best][kept]

    def anchors(self, size, stride, height, width):
        out = []
        for row in range(height):
            for column in range(width):
                for ratio in WIDTH_BY_HEIGHT:
                    h, w = size / math.sqrt(ratio), size * math.sqrt(ratio)
                    y, x = row * stride, column * stride
                    out.append([y - h / 2, x - w / 2, y + h / 2, x + w / 2])
        return np.array(out)

    def pool(self, features, boxes, side, size):
        """`crop_and_resize` by itself, one sample a bin: `(N, C, size, size)`."""
        pooled = []
        for y1, x1, y2, x2 in boxes:
            level = 4 + round(math.log2(math.sqrt((y2 - y1) * (x2 - x1)) * side / 224 + 1e-12))
            feature = features[min(max(level, 2), 5)].transpose(1, 2, 0)
            ys = np.linspace(y1, y2, size) * (feature.shape[0] - 1)
            xs = np.linspace(x1, x2, size) * (feature.shape[1] - 1)
            pooled.append([[oracles.bilinear(feature, y, x) for x in xs] for y in ys])
        return np.array(pooled, "float32").transpose(0, 3, 1, 2)

    def detect(self, features, proposals, side):
        """Normalised boxes, scores and labels (0 is the first object's class) of regions surer than .7."""
        x = self.pool(features, proposals, side, 7)
        weight = self.state["mrcnn_class_conv1.weight"]
        x = np.einsum("ncyx,fcyx->nf", x, weight, optimize=True).T
        x = relu(self.norm("mrcnn_class_bn1", x + self.state["mrcnn_class_conv1.bias"][:, None]))
        x = self.state["mrcnn_class_conv2.weight"][:, :, 0, 0] @ x
        x = relu(self.norm("mrcnn_class_bn2", x + self.state["mrcnn_class_conv2.bias"][:, None])).T
        scores = softmax(self.dense("mrcnn_class_logits", x))
        deltas = self.dense("mrcnn_bbox_fc", x).reshape(len(x), 81, 4) * STD_DEV
        best = scores.argmax(1)
        rows = np.arange(len(best))
        boxes = move(proposals, deltas[rows, best]).clip(0, 1)
        scores = scores[rows, best]
        sure = np.flatnonzero((best > 0) & (scores >= 0.7))
        kept = []
        for label in np.unique(best[sure]):
            here = sure[best[sure] == label]
            kept += [here[i] for i in oracles.nms(boxes[here], scores[here], 0.3)]
        kept = np.array(sorted(kept, key=lambda i: -scores[i]), int)[:100]
        return boxes[kept], scores[kept], best[kept] - 1

    def dense(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def masks(self, features, boxes, labels, side):
        """Probabilities `(N, 28, 28)` of each detection's class."""
        out = []
        for x, label in zip(self.pool(features, boxes, side, 14), labels):
            for i in range(1, 5):
                x = relu(self.layer(f"mrcnn_mask_conv{i}", x, 1, f"mrcnn_mask_bn{i}"))
            weight = self.state["mrcnn_mask_deconv.weight"]  # IOHW, stride 2
            x = np.einsum("chw,cfyx->fhywx", x, weight).reshape(weight.shape[1], 28, 28)
            x = relu(x + self.state["mrcnn_mask_deconv.bias"][:, None, None])
            out.append(1 / (1 + np.exp(-self.layer("mrcnn_mask", x)[label + 1])))
        return np.array(out)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def normalise(boxes, side):
    """yxyx pixels, the last not included -> shares of the last pixel's number."""
    return (boxes - [0, 0, 1, 1]) / (side - 1)


def in_pixels(boxes, side):
    """The way back, to xyxy; not rounded."""
    return (boxes * (side - 1) + [0, 0, 1, 1])[:, [1, 0, 3, 2]]


def move(boxes, deltas):
    """yxyx boxes by dy, dx, log dh, log dw."""
    sides, middle = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    middle, sides = middle + deltas[:, :2] * sides, sides * np.exp(deltas[:, 2:])
    return np.concatenate([middle - sides / 2, middle + sides / 2], 1)


def paste(mask, box, size):
    """Into the xyxy box rounded to whole pixels; zeros around the mask: `(H, W)` bool."""
    left, top, right, bottom = np.round(box).astype(int)
    framed, out = np.pad(mask, 1)[..., None], np.zeros(size, bool)
    for row in range(max(top, 0), min(bottom, size[0])):
        for column in range(max(left, 0), min(right, size[1])):
            y = (row - top + 0.5) / (bottom - top) * mask.shape[0] + 0.5
            x = (column - left + 0.5) / (right - left) * mask.shape[1] + 0.5
            out[row, column] = oracles.bilinear(framed, y, x)[0] >= 0.5
    return out
