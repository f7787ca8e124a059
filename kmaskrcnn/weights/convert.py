"""Others' tensors into a model of ours: renamed, turned, re-ordered, checked, and only then copied.

names      `backbone.body.layer1.0.conv1.weight` -> `C2_block1_conv1/kernel`, see `tables.py`
layout     kernels OIHW -> HWIO, dense `(out, in)` -> `(in, out)`, and a dense layer behind a map reads it
           row by row, column by column, where PyTorch reads channel by channel
classes    the background goes last, and its boxes and masks go
pictures   a first convolution that takes blue first is turned round; it fits any number of channels
norms      a bias before a batch norm becomes part of its mean
"""

import dataclasses
import re

import numpy as np

from kmaskrcnn.weights.tables import PARTS

# Paths of what belongs to the classes that a model was trained on.
CLASS_LAYERS = re.compile(
    r"box_head(_stage\d+)?/(class_logits|box_deltas)/|(mask_head(/dense)?|keypoint_head)/logits/|point_head/"
)
# What Keras puts behind names that it gives itself.
NUMBERED = re.compile(r"(?<=/variable)_\d+$|(?<=^layer_normalization)_\d+(?=/|$)")
LOAD = ("all", "trunk", "backbone")


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What of a file came into a model.

    Args:
        loaded: paths of the model's weights that were filled.
        initialised: paths that keep their initial values, each with the reason.
        unused: names of the file that have no place in the model.
    """

    loaded: tuple
    initialised: dict
    unused: tuple

    def __str__(self):
        lines = [f"{len(self.loaded)} of {len(self.loaded) + len(self.initialised)} weights loaded"]
        for reason in dict.fromkeys(self.initialised.values()):
            paths = [path for path, why in self.initialised.items() if why == reason]
            lines.append(f"left as initialised, {reason}: {_shorten(paths)}")
        if self.unused:
            lines.append(f"not used of the file: {_shorten(self.unused)}")
        return "; ".join(lines)


def translate(arrays, origin):
    """Gives others' tensors the names and layout that they have here.

    Args:
        arrays: name -> array, as `read_weights` gives them.
        origin: an `Origin` of `tables.py`.

    Returns:
        `({path: array}, [names that no row fits])`. The dense layer behind pooled maps still has its
        rows in the file's order, see `fit_to_variables`.
    """
    translated, unused = {}, []
    for name, array in arrays.items():
        renamed = name
        for expression, replacement in origin.renames:
            renamed = re.sub(expression, replacement, renamed)
        if any(re.fullmatch(expression, renamed) for expression in origin.ignored):
            continue
        path = our_path(renamed, origin.table)
        if path is None:
            unused.append(name)
        else:
            translated[path] = _turned(array) if origin.layout == "torch" else array
    if origin.affine_norms:
        _complete_norms(translated)
    if origin.rewrite:
        origin.rewrite(translated)
    if origin.background_first:
        _move_background(translated)
    return translated, unused


def our_path(name, table):
    """The path here of a tensor's name there, such as `stem/norm/gamma`; `None` if no row fits.

    Example:
        >>> our_path("layer1.0.conv1.weight", TORCHVISION_TRUNK)
        'C2_block1_conv1/kernel'
    """
    layer, _, part = name.rpartition(".")
    for theirs, ours in table:
        found = re.fullmatch(theirs, layer)
        if found and part in PARTS:
            groups = iter(found.groups())
            path = re.sub(r"\{\+(\d)\}", lambda plus: str(int(next(groups)) + int(plus[1])), ours)
            part = PARTS[part][path.endswith("/norm")]
            return part and f"{path}/{part}"
    return None


def num_classes_of(translated):
    """K, read off the class scores of translated weights; `None` where there are none."""
    bias = translated.get("box_head/class_logits/bias")
    return None if bias is None else len(bias) - 1


def load_arrays(model, arrays, origin=None, load="all"):
    """Fills a built model with others' weights, in place.

    Args:
        model: a `MaskRCNN`.
        arrays: name -> array, as `read_weights` gives them.
        origin: whose names they have, an `Origin`; `None` for the paths of a model of ours.
        load: `"all"`, `"trunk"` (all but the layers that know the classes) or `"backbone"`. With
            `"all"` the layers of another number of classes are left as they are.

    Returns:
        `LoadReport`.

    Raises:
        ValueError: naming every weight that is missing or of another shape; the model is unchanged.
    """
    if load not in LOAD:
        raise ValueError(f"load: got {load!r}, accepted are {', '.join(map(repr, LOAD))}")
    translated, unused = translate(arrays, origin) if origin else (dict(arrays), [])
    variables = named_weights(model)
    backbone = named_weights(model.backbone)
    if model.stage5 is not None:
        backbone |= named_weights(model.stage5)
    initialised = {}
    for path in variables:
        if load == "backbone" and path not in backbone:
            initialised[path] = "load='backbone'"
        elif load == "trunk" and CLASS_LAYERS.match(path):
            initialised[path] = "load='trunk'"
    if load == "all" and num_classes_of(translated) != model.config.num_classes:
        reason = f"the file has {num_classes_of(translated)} classes"
        initialised.update({p: reason for p in variables if CLASS_LAYERS.match(p)})
    wanted = {path: v for path, v in variables.items() if path not in initialised}
    pool_size = model.config.box_pool_size
    unused += _fill(wanted, translated, origin, pool_size, known=variables)
    return LoadReport(tuple(wanted), initialised, tuple(unused))


def load_backbone_arrays(backbone, arrays, origin, stage5=None):
    """Fills a built ResNet trunk with others' ImageNet weights, in place.

    Args:
        backbone: a `keras.Model` of `build_backbone`.
        arrays: name -> array, as `read_weights` gives them.
        origin: whose names they have, an `Origin`.
        stage5: the last stage, where it stands apart, see `build_stage5`.

    Returns:
        `LoadReport`.

    Raises:
        ValueError: naming every weight that is missing or of another shape; the trunk is unchanged.
    """
    translated, unused = translate(arrays, origin)
    wanted = named_weights(backbone) | (named_weights(stage5) if stage5 else {})
    unused += _fill(wanted, translated, origin, None, known=wanted)
    return LoadReport(tuple(wanted), {}, tuple(unused))


def named_weights(layer):
    """The weights of a model by path, without the states of random generators; paths as of `steady_name`."""
    return {steady_name(w.path): w for w in layer.weights if "seed_generator" not in w.path}


def steady_name(path):
    """A layer's name or a weight's path without the numbers that Keras gives to nameless ones.

    They differ from model to model: ConvNeXt's `s_layer_scale/variable_7`, its `layer_normalization_2/gamma`.
    """
    return NUMBERED.sub("", path)


# ---------------------------------------------------------------------------------------------------------------------
# How tensors lie


def _turned(array):
    """A kernel in Keras's layout: OIHW (a transposed convolution's IOHW) or `(out, in)` turned."""
    axes = {4: (2, 3, 1, 0), 2: (1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes else array


def _move_background(translated):
    """Class 0 was the background: its score goes last, its boxes and mask go."""
    for path, array in translated.items():
        if path.startswith("box_head/class_logits/"):
            translated[path] = np.roll(array, -1, axis=-1)
        elif path.startswith("box_head/box_deltas/"):
            translated[path] = array[..., 4:]
        elif path.startswith("mask_head/logits/"):
            translated[path] = array[..., 1:]


def _complete_norms(translated):
    """A norm of scale and shift alone has mean 0, and variance 1 once epsilon is added."""
    for path in [path for path in translated if path.endswith("/gamma")]:
        norm = path.removesuffix("gamma")
        if f"{norm}moving_mean" not in translated:
            translated[f"{norm}moving_mean"] = np.zeros_like(translated[path])
            translated[f"{norm}moving_variance"] = np.full_like(translated[path], 1 - 1e-5)


def behind_map(kernel, pool_size):
    """The kernel of a dense layer behind a pooled map: rows from (C, P, P) order to (P, P, C)."""
    rows, units = kernel.shape
    kernel = kernel.reshape(rows // pool_size**2, pool_size, pool_size, units)
    return kernel.transpose(1, 2, 0, 3).reshape(rows, units)


def for_channels(kernel, channels):
    """Fits a first convolution of RGB pictures `(k, k, 3, F)` to another number of channels.

    - 3: as it is.
    - fewer: each channel gets an equal share of the sum, so that a grey picture, copied into each of
      them, gives what it gave as RGB.
    - more: red, green and blue as they are, each further channel (depth, infrared) their mean, the
      usual start for what is not known.
    """
    given = kernel.shape[2]
    if channels == given:
        return kernel
    if channels < given:
        return np.repeat(kernel.sum(2, keepdims=True) / channels, channels, axis=2)
    extra = np.repeat(kernel.mean(2, keepdims=True), channels - given, axis=2)
    return np.concatenate([kernel, extra], axis=2)


# ---------------------------------------------------------------------------------------------------------------------
# Into the model


def _fill(wanted, translated, origin, pool_size, known):
    """Copies what is wanted, once all of it fits; returns the paths that the model does not know."""
    fitted = fit_to_variables(wanted, translated, origin, pool_size)
    faults = [f"{path} is missing" for path in wanted if path not in fitted]
    faults += [
        f"{path} has shape {fitted[path].shape}, the model {tuple(wanted[path].shape)}"
        for path in wanted
        if path in fitted and fitted[path].shape != tuple(wanted[path].shape)
    ]
    if faults:
        name = origin.name if origin else "own"
        raise ValueError(f"the {name} weights do not fit the model: {_shorten(faults, 5)}")
    for path, variable in wanted.items():
        variable.assign(fitted[path])
    folded = {path for path in translated if _norm_of(path) in known}
    return [path for path in translated if path not in known and path not in folded]


def fit_to_variables(wanted, translated, origin, pool_size):
    """What depends on the model that receives the weights: biases before norms, maps, channels."""
    fitted = dict(translated)
    for path, array in translated.items():
        if path not in wanted and _norm_of(path) in wanted:
            # norm(x + bias) with mean m is norm(x) with mean m - bias
            fitted[_norm_of(path)] = fitted[_norm_of(path)] - array
    if origin is None:
        return fitted
    dense = "box_head/dense1/kernel"
    if dense in wanted and dense in fitted and origin.layout == "torch":
        fitted[dense] = behind_map(fitted[dense], pool_size)
    if "stem/kernel" in fitted and "stem/kernel" in wanted:
        stem = fitted["stem/kernel"]
        stem = stem[:, :, ::-1] if origin.bgr else stem
        fitted["stem/kernel"] = for_channels(stem, wanted["stem/kernel"].shape[2])
    return fitted


def _norm_of(path):
    """The mean of the norm behind a convolution whose bias `path` is."""
    return f"{path.removesuffix('bias')}norm/moving_mean" if path.endswith("/bias") else ""


def _shorten(names, most=8):
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
