"""Which weights belong to the classes: those whose shape depends on their number."""

import numpy as np
import pytest
from tiny import tiny_config

from kmaskrcnn.branches.box import BoxBranch
from kmaskrcnn.branches.cascade import CascadeBoxBranch
from kmaskrcnn.branches.mask import MaskBranch
from kmaskrcnn.branches.point_rend import PointRendBranch
from kmaskrcnn.weights.convert import CLASS_LAYERS

SIZES = np.array([[64, 64]], "int32")
FEATURES = {f"P{i}": np.zeros((1, 64 >> i, 64 >> i, 16), "float32") for i in (2, 3, 4, 5)}
FOUND = {
    "rois": np.array([[0, 0, 9, 9]], "float32"),
    "labels": np.array([0], "int32"),
    "image_indices": np.array([0], "int32"),
}


@pytest.mark.parametrize(
    "kind, values",
    [
        (BoxBranch, {}),
        (CascadeBoxBranch, {"cascade_thresholds": (0.5, 0.6, 0.7)}),
        (MaskBranch, {}),
        (PointRendBranch, {"mask_head": "point_rend"}),
    ],
)
def test_weights_of_the_classes_are_known(kind, values):
    shapes = []
    for names in (("a", "b"), ("a", "b", "c")):
        branch = kind(tiny_config(class_names=names, **values), name="branch")
        is_box = kind in (BoxBranch, CascadeBoxBranch)
        branch.predict(FEATURES, *((FOUND["rois"][None], SIZES) if is_box else (FOUND,)))
        shapes.append({weight.path: tuple(weight.shape) for weight in branch.trainable_weights})
    differing = {path for path, shape in shapes[0].items() if shapes[1][path] != shape}
    assert differing and set(shapes[0]) == set(shapes[1])
    known = {path for path in shapes[0] if CLASS_LAYERS.match(path)}
    assert differing <= known
    kept = {"dense1", "dense2", "conv1", "upsample", "halve"}
    assert not {path for path in known if path.split("/")[1] in kept and "point" not in path}
