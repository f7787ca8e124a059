"""What a configuration's values are held against: types, ranges, names; errors name the key and what is accepted."""

import difflib
import math
import types
import typing

CHOICES = {
    "convolution": ("auto", "direct"),
    "pyramid": ("fpn", "c4", "dc5"),
    "roi_align": ("auto", "kernel", "crop_and_resize", "gather"),
    "roi_pooling": ("align", "warp", "pool", "crop"),
    "roi_reduce": ("average", "max"),
    "resize_rule": ("opencv", "torchvision", "detectron2"),
    "anchor_rule": ("exact", "torchvision"),
    "padding": ("mean", "black"),
    "stem_pool": ("symmetric", "same"),
    "box_rule": ("edges", "pixels"),
    "box_loss": ("smooth_l1", "l1", "giou", "diou", "ciou"),
    "mask_head": ("fcn", "mlp", "point_rend"),
    "mask_activation": ("sigmoid", "softmax"),
    "paste_rule": ("half_pixel", "torchvision", "matterport"),
    "keypoint_rule": ("window", "torchvision"),
    "suppression": ("hard", "soft_linear", "soft_gaussian"),
}


# Zero would divide by nothing, or learn nothing; of all other numbers only negative ones make no sense.
POSITIVE = (
    "anchor_aspect_ratios",
    "anchor_scales",
    "box_variance",
    "cascade_box_variances",
    "gradient_clip_norm",
    "keypoint_sigmas",
    "learning_rate",
    "pixel_std",
    "rpn_box_variance",
    "soft_nms_sigma",
)
ANY_SIGN = ("pixel_mean",)


class ConfigError(ValueError):
    """A configuration names an unknown key or holds a value of the wrong type or range."""


def nearest(key: str, known) -> str:
    """The end of an error message: the valid key that looks most like `key`."""
    by_name = {name.rpartition(".")[2]: name for name in known}
    close = difflib.get_close_matches(key.rpartition(".")[2], by_name, n=1, cutoff=0.0)
    return f"; did you mean {by_name[close[0]]!r}?" if close else ""


def require(holds: bool, key: str, value, accepted: str) -> None:
    """Raise a `ConfigError` that names the key, the value and what is accepted, unless `holds`."""
    if not holds:
        raise ConfigError(f"{key}: got {value!r}, accepted is {accepted}")


def require_one_of(key: str, value, accepted: tuple) -> None:
    """Raise a `ConfigError` unless `value` is among `accepted`."""
    require(value in accepted, key, value, "one of " + ", ".join(str(name) for name in accepted))


def check_types(config) -> None:
    """Compare every value with its annotation; whole numbers are welcome where a float is asked for."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        # A tuple's own name leaves out of what it is.
        accepted = str(hint) if typing.get_args(hint) else hint.__name__
        require(is_a(value, hint), name, value, accepted)


def is_a(value, hint) -> bool:
    """Whether `value` fits the type annotation `hint`."""
    if isinstance(hint, types.UnionType):
        return any(is_a(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(is_a(entry, item) for entry in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def holds_floats(hint) -> bool:
    """Whether the type annotation `hint` is of floats: alone, in tuples, or beside `None`."""
    return hint is float or any(map(holds_floats, typing.get_args(hint)))


def numbers_in(value):
    """A number, or those of a tuple and the tuples in it; none of `None`."""
    if isinstance(value, tuple):
        return [number for entry in value for number in numbers_in(entry)]
    return [] if value is None else [value]


def check_numbers(config, where: str = "") -> None:
    """Refuse numbers that are not finite, negative ones, and zeros where they make no sense.

    A number is judged by its field's annotation: a whole one may stand where a float is asked for.
    """
    for name, hint in typing.get_type_hints(type(config)).items():
        if not holds_floats(hint) or name in ANY_SIGN:
            continue
        value = getattr(config, name)
        for number in numbers_in(value):
            fits = number > 0 if name in POSITIVE else number >= 0
            accepted = "more than 0" if name in POSITIVE else "0 or more"
            require(fits and number < math.inf, f"{where}{name}", value, accepted)


def check_sampling(config) -> None:
    """Refuse draws from which a model cannot learn: overlapping thresholds, no room for one positive."""
    below = config.rpn_negative_threshold <= config.rpn_positive_threshold
    accepted = f"at most rpn_positive_threshold, {config.rpn_positive_threshold}"
    require(below, "rpn_negative_threshold", config.rpn_negative_threshold, accepted)
    for total, fraction in (
        ("rois_per_image", "roi_positive_fraction"),
        ("rpn_anchors_per_image", "rpn_positive_fraction"),
    ):
        room = int(getattr(config, total) * getattr(config, fraction)) >= 1
        accepted = f"a share that leaves room for one positive among {getattr(config, total)}"
        require(room, fraction, getattr(config, fraction), accepted)


def check_levels(config) -> None:
    """Refuse levels to pool from that a pyramid does not have, or that leave one out in between."""
    pyramid = ("P2", "P3", "P4", "P5")
    runs = [pyramid[i:j] for i in range(4) for j in range(i + 1, 5)]
    accepted = "one or more of P2, P3, P4, P5, in a row"
    require(config.roi_levels in runs, "roi_levels", config.roi_levels, accepted)


def check_keypoints(config) -> None:
    """Refuse pairs of keypoints that do not exist, and spreads that are not one for each."""
    count = config.num_keypoints
    for name in ("keypoint_flip_pairs", "keypoint_skeleton"):
        pairs = getattr(config, name)
        known = all(len(pair) == 2 and all(0 <= i < count for i in pair) for pair in pairs)
        require(known, name, pairs, f"pairs of places among the {count} keypoint_names")
    sigmas = config.keypoint_sigmas
    # Names may be left to the data; their number is known then.
    fits = sigmas is None or not count or len(sigmas) == count
    require(fits, "keypoint_sigmas", sigmas, f"one number for each of the {count} keypoints")


def check_mask_head(config) -> None:
    """Refuse mask heads whose parts do not go together."""
    softmax, refined = config.mask_activation == "softmax", config.mask_head == "point_rend"
    alone = not (config.class_agnostic_masks and softmax)
    require(alone, "mask_activation", "softmax", "'sigmoid' where masks are class-agnostic")
    require(not (refined and softmax), "mask_activation", "softmax", "'sigmoid' with 'point_rend'")
    even = not refined or config.mask_pool_size % 2 == 0
    require(even, "mask_pool_size", config.mask_pool_size, "an even number with 'point_rend'")


def check_cascade(config) -> None:
    """Refuse stages of a cascade without a threshold and a variance each."""
    thresholds, variances = config.cascade_thresholds, config.cascade_box_variances
    in_range = all(0 <= threshold <= 1 for threshold in thresholds)
    require(in_range, "cascade_thresholds", thresholds, "numbers from 0 to 1")
    fits = not thresholds or len(variances) == len(thresholds)
    accepted = f"four numbers for each of the {len(thresholds)} cascade_thresholds"
    fits = fits and all(len(variance) == 4 for variance in variances)
    require(fits, "cascade_box_variances", variances, accepted)
    known = not thresholds or config.box_rule == "edges"
    require(known, "box_rule", config.box_rule, "'edges' with cascade_thresholds")


def check_pyramid(config) -> None:
    """Refuse heads that need what a model on one level lacks."""
    thresholds = config.cascade_thresholds
    alone = not thresholds or config.pyramid != "c4"
    require(alone, "cascade_thresholds", thresholds, "none where the head is the fifth stage")
    even = config.pyramid != "c4" or config.mask_pool_size % 2 == 0
    require(
        even, "mask_pool_size", config.mask_pool_size, "an even number, the fifth stage halves it"
    )
    finest = config.mask_head != "point_rend" or config.pyramid == "fpn"
    require(finest, "mask_head", config.mask_head, "'fcn' or 'mlp' without a pyramid")


def check_ranges(config) -> None:
    """Refuse values with which no model can be built."""
    names = config.class_names
    require(len(names) > 0, "class_names", names, "one name or more")
    require(len(set(names)) == len(names), "class_names", names, "names that differ")
    ids, accepted = config.category_ids, f"none, or one for each of the {len(names)} class_names"
    require(len(ids) in (0, len(names)), "category_ids", ids, accepted)
    require(0 < config.min_size <= config.max_size, "min_size", config.min_size, "1 to max_size")
    require(
        len(config.anchor_scales) == 5, "anchor_scales", config.anchor_scales, "five, for P2 to P6"
    )
    for name in ("box_variance", "rpn_box_variance"):
        require(len(getattr(config, name)) == 4, name, getattr(config, name), "four numbers")
    for name, accepted in CHOICES.items():
        require_one_of(name, getattr(config, name), accepted)
    check_numbers(config)
    check_levels(config)
    check_keypoints(config)
    check_cascade(config)
    check_pyramid(config)
    check_mask_head(config)
    for name in ("pixel_mean", "pixel_std"):
        value = getattr(config, name)
        accepted = f"one number for each of the {config.in_channels} channels"
        require(value is None or len(value) == config.in_channels, name, value, accepted)
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if name.endswith(("threshold", "fraction")):
            require(0 <= value <= 1, name, value, "a number from 0 to 1")
        elif hint in (int, int | None) and value is not None:
            lowest = 0 if name.endswith(("_convs", "_dense", "sampling_ratio")) else 1
            require(value >= lowest, name, value, f"{lowest} or more")
    check_sampling(config)


def check_training(config) -> None:
    """Refuse values with which nothing can be trained."""
    check_numbers(config, "training.")
    for name in ("epochs", "evaluate_every"):
        value = getattr(config, name)
        require(value >= 1, f"training.{name}", value, "at least 1")
    for name in ("gradient_accumulation_steps", "base_batch_size"):
        value = getattr(config, name)
        require(value is None or value >= 1, f"training.{name}", value, "at least 1, or null")
    for name in ("warmup_steps", "seed"):
        require(getattr(config, name) >= 0, f"training.{name}", getattr(config, name), "0 or more")
    require(config.momentum < 1, "training.momentum", config.momentum, "less than 1")
    stages = config.trainable_stages
    require(0 <= stages <= 5, "training.trainable_stages", stages, "0 to 5")
    alone = not (config.initial_weights and config.backbone_weights)
    require(
        alone, "training.backbone_weights", config.backbone_weights, "null with initial_weights"
    )
    require_one_of("training.optimizer", config.optimizer, ("sgd", "adamw"))
    require_one_of("training.schedule", config.schedule, ("step", "cosine", "constant"))
    policies = (None, "mixed_bfloat16", "mixed_float16")
    require_one_of("training.mixed_precision", config.mixed_precision, policies)
    decay, momentum = config.layer_decay, config.ema_momentum
    holds = decay is None or (0 < decay <= 1 and config.optimizer == "adamw")
    require(holds, "training.layer_decay", decay, "null, or above 0 up to 1 with optimizer adamw")
    holds = momentum is None or 0 <= momentum < 1
    require(holds, "training.ema_momentum", momentum, "null, or 0 up to, but not, 1")


def check_augmentation(config) -> None:
    """Refuse augmentations that make no sense."""
    check_numbers(config, "augmentation.")
    sizes, jitter = config.min_sizes, config.scale_jitter
    known = all(size >= 1 for size in sizes)
    require(known, "augmentation.min_sizes", sizes, "lengths of one pixel or more")
    fits = len(jitter) == 2 and 0 < jitter[0] <= jitter[1]
    require(fits, "augmentation.scale_jitter", jitter, "a least and a greatest factor")
    most = {
        "vertical_flip": 1,
        "brightness": 1,
        "contrast": 1,
        "saturation": 1,
        "copy_paste": 1,
        "hue": 0.5,
    }
    for name, limit in most.items():
        value = getattr(config, name)
        require(value <= limit, f"augmentation.{name}", value, f"0 to {limit}")
    require(config.cutout >= 0, "augmentation.cutout", config.cutout, "0 or more")


def check_recipe(recipe) -> None:
    """Refuse parts that do not go together: a training would fail in the middle, where a size is drawn."""
    sizes, greatest = recipe.augmentation.min_sizes, recipe.model.max_size
    fits = max(sizes, default=0) <= greatest
    require(fits, "augmentation.min_sizes", sizes, f"at most model.max_size, {greatest}")
