"""How far a model of ours is from a recorded one of torchvision, stage by stage.

Each stage is fed what the recording has, where it has all of it, so that differences do not add up; `detections` is the
whole way from the pictures.
"""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
from made_weights import fixture_state, made_picture, sample
from pycocotools import mask as coco_mask

from kmaskrcnn.detections import Detections
from kmaskrcnn.model import MaskRCNN
from kmaskrcnn.serving.detectors import prepare
from kmaskrcnn.weights.architectures import find_architecture, make_config
from kmaskrcnn.weights.convert import load_arrays

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
DATA = ROOT.parent / "shared" / "data" / "coco_mini"
LEVELS = ("P2", "P3", "P4", "P5", "P6")


def load_fixture(name):
    return np.load(FIXTURES / f"torchvision_{name}.npz")


def build(fixture, name=None):
    """Our model with the weights that a fixture was recorded with, as a user's conversion makes it."""
    architecture = find_architecture(name or str(fixture["architecture"]))
    settings = json.loads(str(fixture["settings"]))
    sides = {"min_size": settings["min_size"][0], "max_size": settings["max_size"]}
    model = MaskRCNN(make_config(architecture, **sides))
    load_arrays(model, fixture_state(fixture), architecture.origin)
    return model


def pictures(fixture):
    """The two uint8 RGB pictures, proved to be the recorded ones; `None` where the data is absent."""
    found = []
    for name, size, digest in zip(
        fixture["picture_names"], fixture["original_sizes"], fixture["picture_sha256"]
    ):
        if "/" not in str(name):
            found.append(made_picture(str(name), *size))
        elif (DATA / str(name)).is_file():
            found.append(cv2.imread(str(DATA / str(name)))[..., ::-1].copy())
        else:
            return None
        if hashlib.sha256(found[-1].tobytes()).hexdigest() != str(digest):
            raise ValueError(f"{name}: not the picture that was recorded")
    return found


def batch(fixture, config):
    """The pictures in one batch, as torchvision puts them there, by our own preparation."""
    prepared = [prepare(picture, config)[0] for picture in pictures(fixture)]
    height, width = np.max([one["images"].shape[1:3] for one in prepared], axis=0)
    images = np.zeros((len(prepared), height, width, 3), "float32")
    for image, one in zip(images, prepared):
        rows, columns = one["images"].shape[1:3]
        image[:rows, :columns] = one["images"][0]
    return {"images": images, "image_sizes": np.concatenate([o["image_sizes"] for o in prepared])}


def differences(model, fixture):
    """`{stage: number}`: relative to the stage's greatest value for maps, else in the unit named."""
    inputs = batch(fixture, model.config)
    images = model.normalizer(inputs["images"], inputs["image_sizes"])
    stages = model.backbone(images)
    features = model.fpn(stages)
    found = {"input": relative(fixture, "input", nchw(images))}
    for name, value in {**stages, **features}.items():
        found[name] = relative(fixture, name, nchw(value))
    anchors, (logits, deltas) = model.anchors(features), model.rpn_head(features)
    joined = np.concatenate([np.asarray(anchors[level]) for level in LEVELS])
    found["anchors"] = relative(fixture, "anchors", np.stack([joined, joined]))
    for level in LEVELS:
        batch_size, height, width, _ = features[level].shape
        for name, values in (("rpn_logits", logits), ("rpn_deltas", deltas)):
            on_map = np.reshape(values[level], (batch_size, height, width, -1))
            found[f"{name}_{level}"] = relative(fixture, f"{name}_{level}", nchw(on_map))
    proposals = np.asarray(model.proposals(anchors, logits, deltas, inputs["image_sizes"]))
    found["proposals (px)"] = max(map(farthest, proposals, all_of(fixture, "proposals/{}")))
    found.update(box_head_differences(model, fixture, features))
    if model.config.with_mask and "mask_logits/sample" in fixture:
        found.update(mask_head_differences(model, fixture, features))
    if model.config.with_keypoints:
        found.update(keypoint_head_differences(model, fixture, features))
    outputs = model.predict_graph(inputs)
    return found | detection_differences(model, fixture, outputs)


def box_head_differences(model, fixture, features):
    """The second stage on the recorded proposals."""
    rows = fixture["class_logits"].shape[1]
    proposals = np.stack([boxes[:rows] for boxes in all_of(fixture, "proposals/{}")])
    regions = model.box_branch.align(features, proposals)
    logits, deltas = model.box_branch.head(regions)
    count = len(proposals)
    regions = np.asarray(regions).reshape(count, rows, *regions.shape[1:]).transpose(0, 1, 4, 2, 3)
    expected_logits = np.roll(fixture["class_logits"], -1, -1).reshape(count * rows, -1)
    expected_deltas = fixture["box_deltas"].reshape(count * rows, -1, 4)[:, 1:]
    return {
        "box_regions": relative(fixture, "box_regions", regions),
        "class_logits": against(np.asarray(logits), expected_logits),
        "box_deltas": against(np.asarray(deltas), expected_deltas),
    }


def mask_head_differences(model, fixture, features):
    """The mask branch on the recorded detections."""
    boxes = all_of(fixture, "detections/{}/network_boxes")
    indices = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]).astype("int32")
    regions = model.mask_branch.align(features, np.concatenate(boxes), indices)
    logits = nchw(model.mask_branch.head(regions))
    nothing = np.full_like(logits[:, :1], np.nan)  # the background's mask, which we do not have
    return {
        "mask_regions": relative(fixture, "mask_regions", nchw(regions)),
        "mask_logits": relative(fixture, "mask_logits", np.concatenate([nothing, logits], 1)),
    }


def keypoint_head_differences(model, fixture, features):
    """The keypoint branch on the recorded detections."""
    boxes = all_of(fixture, "detections/{}/network_boxes")
    indices = np.repeat(np.arange(len(boxes)), [len(b) for b in boxes]).astype("int32")
    regions = model.keypoint_branch.align(features, np.concatenate(boxes), indices)
    return {
        "keypoint_logits": relative(
            fixture, "keypoint_logits", nchw(model.keypoint_branch.head(regions))
        )
    }


def detection_differences(model, fixture, outputs):
    """What a user gets: in the original pictures, same labels in the same order, masks pasted."""
    outputs = {name: np.asarray(values) for name, values in outputs.items()}
    found = {"labels (wrong)": 0, "boxes (px)": 0.0, "scores": 0.0}
    for i, (size, original) in enumerate(zip(fixture["image_sizes"], fixture["original_sizes"])):
        recorded = {key: fixture[f"detections/{i}/{key}"] for key in ("boxes", "labels", "scores")}
        one = Detections.from_outputs(
            outputs, i, size, original, paste_rule=model.config.paste_rule
        )
        if not np.array_equal(one.labels, recorded["labels"] - 1):
            found["labels (wrong)"] += 1
            continue
        for key, unit in (("boxes", "boxes (px)"), ("scores", "scores")):
            found[unit] = max(found[unit], float(np.abs(getattr(one, key) - recorded[key]).max()))
        if one.keypoints is not None:
            for name, error in keypoint_differences(one.keypoints, fixture, i).items():
                found[name] = max(found.get(name, 0.0), error)
        if one.masks is not None:
            masks = fixture[f"detections/{i}/masks"] / 65535
            worst = float(np.abs(one.masks - masks).max())
            found["masks (probability)"] = max(found.get("masks (probability)", 0.0), worst)
            ious = pasted_ious(one, fixture, i)
            found["pasted masks (1 - IoU)"] = max(
                found.get("pasted masks (1 - IoU)", 0.0), 1 - float(ious.min())
            )
    return found


def keypoint_differences(keypoints, fixture, i):
    """Of all keypoints of a picture's detections: in its pixels, and in logits of up to 11."""
    points = fixture[f"detections/{i}/keypoints"][..., :2]
    scores = fixture[f"detections/{i}/keypoint_scores"]
    return {
        "keypoints (px)": float(np.abs(keypoints[..., :2] - points).max()),
        "keypoint scores (logits)": float(np.abs(keypoints[..., 2] - scores).max()),
    }


def pasted_ious(detections, fixture, i):
    """IoU of each pasted mask with the recorded one, `(N,)`.

    torchvision cuts boxes to whole pixels: where a side lies so near to one that float32 decides, a row
    of pixels comes or goes. There the recording itself is no better than float32, and is left out.
    """
    height, width = (int(side) for side in fixture["original_sizes"][i])
    counts = fixture[f"detections/{i}/mask_rle"]
    recorded = [{"size": [height, width], "counts": bytes(one)} for one in counts]
    ious = np.diag(coco_mask.iou(detections.rles(), recorded, [0] * len(recorded)))
    decided = fixture[f"detections/{i}/paste_gap"] > 0.01
    empty = fixture[f"detections/{i}/mask_areas"] == 0
    return ious[decided & ~empty]


def relative(fixture, name, values):
    """Greatest difference of an NCHW tensor to a recorded one's sample; NaN does not count."""
    if tuple(fixture[f"{name}/shape"]) != np.shape(values):
        raise ValueError(f"{name}: {np.shape(values)}, recorded {fixture[f'{name}/shape']}")
    return against(sample(np.asarray(values)), fixture[f"{name}/sample"])


def against(values, expected):
    return float(np.nanmax(np.abs(values - expected)) / np.abs(expected).max())


def farthest(proposals, recorded):
    """The greatest distance, in pixels, of a recorded proposal to the nearest of ours."""
    if np.any(proposals, axis=1).sum() != len(recorded):
        raise ValueError(f"{np.any(proposals, axis=1).sum()} proposals, {len(recorded)} recorded")
    return float(np.abs(recorded[:, None] - proposals[None]).max(2).min(1).max())


def all_of(fixture, key):
    return [fixture[key.format(i)] for i in range(len(fixture["picture_names"]))]


def nchw(values):
    return np.asarray(values).transpose(0, 3, 1, 2)
