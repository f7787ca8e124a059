"""Records as the content of a COCO json."""

import numpy as np

FEDERATION = {  # LVIS's fields of an image, and the records' names for them
    "neg_category_ids": "negative_labels",
    "not_exhaustive_category_ids": "not_exhaustive_labels",
}


def to_coco(dataset, category_ids=None, file_name=None, with_keypoints=True):
    """The content of a COCO json made from records.

    Args:
        dataset: `CocoDataset`.
        category_ids: sequence of int by label; by default the labels themselves.
        file_name: function of an `ImageRecord` to the name that the json gives its file, or `None`
            to leave it out.
        with_keypoints: whether keypoints, if the records name any, are written.

    Returns:
        dict of `images`, `annotations` and `categories`, ready for json. With LVIS's records it has
        LVIS's fields; with those of Cityscapes, the images' `void`.
    """
    ids = range(len(dataset.class_names)) if category_ids is None else category_ids
    names = dataset.keypoints if with_keypoints else None
    return {
        "images": [_image(record, dataset, ids, file_name) for record in dataset.images],
        "annotations": [
            _annotation(instance, record.image_id, ids, names)
            for record in dataset.images
            for instance in record.instances
        ],
        "categories": [
            _category(label, number, dataset, names)
            for label, number in zip(range(len(dataset.class_names)), ids)
        ],
    }


def _image(record, dataset, ids, file_name):
    entry = {"id": record.image_id, "height": record.height, "width": record.width}
    if file_name is not None:
        entry["file_name"] = file_name(record)
    if getattr(record, "void", None):
        entry["void"] = record.void
    if _rules(dataset) == "lvis":
        entry |= {key: [ids[n] for n in getattr(record, ours)] for key, ours in FEDERATION.items()}
    return entry


def _annotation(instance, image_id, ids, names):
    x1, y1, x2, y2 = map(float, instance.box)
    entry = {
        "id": instance.annotation_id,
        "image_id": image_id,
        "category_id": ids[instance.label],
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": instance.area,
        "iscrowd": int(instance.is_crowd),
    }
    if instance.segmentation is not None:
        entry["segmentation"] = instance.segmentation
    if names is not None:
        # An object without any has as many that are not labelled: it does not count.
        points = np.ravel(instance.keypoints or ((0, 0, 0),) * len(names.names))
        entry |= {"keypoints": points.tolist(), "num_keypoints": int((points[2::3] > 0).sum())}
    return entry


def _category(label, number, dataset, names):
    entry = {"id": number, "name": dataset.class_names[label]}
    if names is not None:
        entry["keypoints"] = list(names.names)
        entry["skeleton"] = [[start + 1, end + 1] for start, end in names.skeleton]
    if _rules(dataset) == "lvis":
        entry["frequency"] = dataset.frequencies[label]
    return entry


def _rules(dataset):
    return getattr(dataset, "rules", "coco")
