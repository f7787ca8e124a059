"""A ground truth and results, read and checked before any AP is reckoned."""

import json
import logging
import math
import numbers
from collections import defaultdict
from dataclasses import dataclass

from kmaskrcnn.geometry.segmentations import to_rles

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationCase:
    """What an evaluation compares.

    Args:
        images: `{image id: entry}` of the ground truth's json.
        categories: `{category id: entry}`, one at least.
        truth: `{category id: annotations}`, of pictures that are in `images`.
        found: `{category id: results}`.
        results: all that was found, in the given order.
    """

    images: dict
    categories: dict
    truth: dict
    found: dict
    results: list

    @property
    def names(self):
        """`{category id: name}`."""
        return {number: category["name"] for number, category in self.categories.items()}


def read_case(ground_truth, results, field):
    """Reads a COCO json and results, and checks them.

    Args:
        ground_truth: path of a COCO json, or its content.
        results: path of a COCO results json, or its content.
        field: str, what every result must have beside ids and score, such as `"bbox"`.

    Returns:
        `EvaluationCase`.

    Raises:
        ValueError: a file is not the json wanted, or a result lacks a field or names a picture that
            the ground truth does not have.
    """
    ground_truth = _read(ground_truth, "ground_truth", dict)
    results = _read(results, "results", list)
    images = {image["id"]: image for image in read_field(ground_truth, "images", "ground_truth")}
    annotations = read_field(ground_truth, "annotations", "ground_truth")
    categories = read_field(ground_truth, "categories", "ground_truth")
    categories = {category["id"]: category for category in categories}
    _check_results(results, images, categories, field)
    if not categories:
        raise ValueError("ground_truth: there are no categories to evaluate.")
    where = "an annotation of the ground truth"
    truth = _by_category(a for a in annotations if read_field(a, "image_id", where) in images)
    return EvaluationCase(images, categories, truth, _by_category(results), results)


def _read(source, name, kind):
    """The content of a json file, or the content itself."""
    if not isinstance(source, kind):
        try:
            with open(source, encoding="utf-8") as file:
                source, name = json.load(file), f"{name}: {source}"
        except (TypeError, OSError, ValueError) as error:
            raise ValueError(f"{name}: cannot read {source!r} as json: {error}") from error
    if not isinstance(source, kind):
        raise ValueError(f"{name}: a json {kind.__name__} wanted, got {type(source).__name__}.")
    return source


def read_field(entry, name, where):
    """`entry[name]`; the error says where it is missing."""
    try:
        return entry[name]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{where}: no field {name!r} in {str(entry)[:200]}") from error


def _check_results(results, images, names, field):
    """Every result is complete and of a known picture; unknown categories are only warned of."""
    unknown = set()
    for index, result in enumerate(results):
        where = f"results[{index}]"
        image_id = read_field(result, "image_id", where)
        if image_id not in images:
            raise ValueError(
                f"{where}: image_id {image_id!r} is not among the {len(images)} pictures of the "
                "ground truth."
            )
        score = read_field(result, "score", where)
        if not (isinstance(score, numbers.Real) and math.isfinite(score)):
            raise ValueError(f"{where}: score {score!r} is not a finite number.")
        read_field(result, field, where)
        if read_field(result, "category_id", where) not in names:
            unknown.add(result["category_id"])
    if unknown:
        logger.warning("category ids without a place in the ground truth: %s", sorted(unknown))


def _by_category(entries):
    groups = defaultdict(list)
    for entry in entries:
        groups[read_field(entry, "category_id", f"an entry of image {entry['image_id']}")].append(
            entry
        )
    return groups


def name_annotation(annotation):
    """What an error calls it."""
    return f"annotation {annotation.get('id')} of image {annotation['image_id']}"


def name_result(result):
    """What an error calls it."""
    return f"a result of image {result['image_id']}"


def read_rles(entries, images, where):
    """The compressed RLEs of annotations' or results' segmentations.

    Args:
        entries: annotations or results.
        images: `{image id: entry}`.
        where: function of an entry to the words that name it in an error.

    Raises:
        ValueError: a segmentation is malformed or missing.
    """
    sizes = [_image_size(images[entry["image_id"]]) for entry in entries]
    segmentations = [read_field(entry, "segmentation", where(entry)) for entry in entries]
    try:
        return to_rles(segmentations, sizes)
    except (KeyError, TypeError, ValueError):
        for entry, segmentation, size in zip(entries, segmentations, sizes):
            _name_fault(segmentation, size, where(entry))
        raise


def _image_size(image):
    return tuple(read_field(image, side, "ground_truth images") for side in ("height", "width"))


def _name_fault(segmentation, size, where):
    try:
        to_rles([segmentation], [size])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
