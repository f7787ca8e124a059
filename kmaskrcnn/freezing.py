"""Which layers of a model stand still, written down and set again: what is loaded trains what was saved.

A layer's path is the names of the layers that hold it and its own. Keras numbers nameless layers by how many there
were before in the process, so numbers at the end of a name are left out, and layers of one name are counted where they
are held: `/tiny_backbone/C2/norm`, `/fpn/conv_norm:2`; the model's own path is empty.
"""

import collections
import re

from kmaskrcnn.layers.norms import FrozenBatchNormalization
from kmaskrcnn.weights.convert import steady_name


def layers_by_path(model):
    """All layers of a model and the model itself: a dict of path -> layer, each before all that it holds."""
    found, seen = [], set()

    def visit(layer, path):
        seen.add(id(layer))
        counts = collections.Counter()
        for held in layer._flatten_layers(include_self=False, recursive=False):
            name = re.sub(r"_\d+$", "", held.name)
            number, counts[name] = counts[name], counts[name] + 1
            if id(held) not in seen:
                visit(held, f"{path}/{name}:{number}" if number else f"{path}/{name}")
        found.append((path, layer))

    visit(model, "")
    return dict(reversed(found))


def frozen_layers(model):
    """The paths of the layers whose `trainable` is False, sorted; not of those that never train."""
    return sorted(
        path
        for path, layer in layers_by_path(model).items()
        if not layer.trainable and not isinstance(layer, FrozenBatchNormalization)
    )


def freeze_as_saved(model, config):
    """Let all layers of a model train but those that its saved configuration names.

    Args:
        model: a `MaskRCNN` like the one that was saved; changed in place.
        config: dict with `frozen_layers`, as the function gives them. Files from before have `frozen` at most: names
            of the layers at the top of the trunk; all else is left as it is.
    """
    paths = config.get("frozen_layers")
    if paths is None:
        return _freeze_trunk(model, set(map(steady_name, config.get("frozen", ()))))
    for path, layer in layers_by_path(model).items():
        # To set a layer sets all that it holds; their own turn comes later.
        if layer.trainable == (path in paths):
            layer.trainable = path not in paths


def _freeze_trunk(model, names):
    for part in filter(None, (model.backbone, model.stage5)):
        for layer in part.layers:
            if steady_name(layer.name) in names:
                layer.trainable = False
