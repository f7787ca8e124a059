"""Parts of a COCO json for training and validation, each with its share of every class."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from kmaskrcnn.data.faults import DatasetError, Fault
from kmaskrcnn.data.json_files import read_coco_json, refuse_overwriting

PARTS = ("train", "validation")


def split_dataset(json_path, output, validation=0.2, seed=0):
    """Writes `train.json` and `validation.json`, which share no picture.

    Pictures are dealt out from the rarest class on, each to the part that lacks most of the class's
    pictures, so that both parts have their share of every class; pictures without objects are a
    class of their own. Annotations go with their pictures; all other content stays in both.

    Args:
        json_path: path of the COCO json.
        output: path of the folder to write to, made if need be.
        validation: float between 0 and 1, the share of the pictures.
        seed: int; the same seed gives the same parts.

    Returns:
        `{"train": path, "validation": path}`.

    Raises:
        DatasetError: if the json cannot be read, or its entries lack their ids.
        ValueError: if a part would be empty, or take the place of `json_path`.

    Reference:
        Sechidis et al., "On the Stratification of Multi-label Data" (2011).
    """
    paths = {part: Path(output) / f"{part}.json" for part in PARTS}
    for path in paths.values():
        refuse_overwriting(json_path, path)
    document = read_coco_json(json_path)
    try:
        classes = _classes_of_pictures(document)
    except (KeyError, TypeError) as error:
        message = f"an entry lacks {error}; `kmaskrcnn inspect` names all that is wrong"
        raise DatasetError([Fault("malformed entry", message, str(json_path))]) from error
    chosen = choose_pictures(classes, validation, seed)
    Path(output).mkdir(parents=True, exist_ok=True)
    for path, wanted in zip(paths.values(), (set(classes) - chosen, chosen)):
        path.write_text(json.dumps(_select(document, wanted)))
    return paths


def choose_pictures(classes, share, seed=0):
    """Which pictures make up a share of a dataset, with about that share of every class.

    Args:
        classes: `{image id: set of classes}`.
        share: float between 0 and 1.
        seed: int.

    Returns:
        set of image ids, `round(share * N)` of them.

    Raises:
        ValueError: if that is none or all.
    """
    size = round(share * len(classes))
    if not 0 < size < len(classes):
        raise ValueError(
            f"validation: a share of {share} of {len(classes)} pictures leaves a part empty"
        )
    generator = np.random.default_rng(seed)
    order = [sorted(classes)[place] for place in generator.permutation(len(classes))]
    members = defaultdict(list)
    for image_id in order:
        for name in classes[image_id] or {None}:  # None: the pictures without objects
            members[name].append(image_id)
    wanted = {name: share * len(ids) for name, ids in members.items()}
    return _deal(order, members, wanted, classes, size)


def _deal(order, members, wanted, classes, size):
    """Takes pictures while a class wants more of them, the rarest class first."""
    chosen, left_out, have = set(), set(), Counter()
    places = {image_id: place for place, image_id in enumerate(order)}
    for name in sorted(members, key=lambda name: (len(members[name]), str(name))):
        for image_id in members[name]:
            if image_id in chosen or image_id in left_out:
                continue
            # Half a picture is rounded: a class of one with a share of 0.2 stays in training.
            lacks = wanted[name] - have[name] >= 0.5
            (chosen if lacks and len(chosen) < size else left_out).add(image_id)
            if image_id in chosen:
                have.update(classes[image_id] or {None})
    excess = 0.5
    while len(chosen) < size:  # those first that bring no class much above its share
        for image_id in sorted(left_out - chosen, key=places.get):
            names = classes[image_id] or {None}
            if len(chosen) < size and all(have[n] + 1 - wanted[n] <= excess for n in names):
                chosen.add(image_id)
                have.update(names)
        excess *= 2
    return chosen


def _classes_of_pictures(document):
    classes = {image["id"]: set() for image in document["images"]}
    for annotation in document["annotations"]:
        if annotation["image_id"] in classes:
            classes[annotation["image_id"]].add(annotation["category_id"])
    return classes


def _select(document, image_ids):
    return {
        **document,
        "images": [image for image in document["images"] if image["id"] in image_ids],
        "annotations": [a for a in document["annotations"] if a["image_id"] in image_ids],
    }
