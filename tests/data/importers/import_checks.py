"""What the importers' tests share: pictures, an independent rasteriser, and the round trip to COCO."""

import numpy as np
from matplotlib.path import Path as Outline
from PIL import Image
from pycocotools import mask as coco_mask

from kmaskrcnn.data.formats import convert_dataset, load_dataset
from kmaskrcnn.data.records import load_coco
from kmaskrcnn.geometry.segmentations import to_rle

# A square with a notch: along the pixels' edges every rasteriser must agree.
NOTCHED = [(3, 2), (15, 2), (15, 12), (9, 12), (9, 7), (3, 7)]


def write_picture(path, height=20, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(values).save(path)
    return path


def inside(points, height=20, width=30):
    """The pixels whose centres lie within a polygon."""
    centres = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).reshape(-1, 2) + 0.5
    return Outline([*points, points[0]]).contains_points(centres).reshape(height, width)


def mask_of(instance, height=20, width=30):
    return coco_mask.decode(to_rle(instance.segmentation, height, width)).astype(bool)


def all_instances(records):
    return [instance for record in records.images for instance in record.instances]


def check_round_trip(source, image_dir, folder, **options):
    """Writes the dataset as COCO json; what is read from that is what was read before."""
    records = load_dataset(source, image_dir, **options)
    output = folder / "written" / "coco.json"
    convert_dataset(source, output, image_dir, **options)
    again = load_coco(output, image_dir)
    assert again.class_names == records.class_names
    assert again.category_ids == records.category_ids
    assert len(again.images) == len(records.images) > 0
    for before, after in zip(records.images, again.images):
        assert (before.path, before.height, before.width) == (after.path, after.height, after.width)
        assert before.image_id == after.image_id
        for first, second in zip(before.instances, after.instances, strict=True):
            np.testing.assert_allclose(first.box, second.box, rtol=1e-12)
            assert (first.label, first.is_crowd, first.area) == (
                second.label,
                second.is_crowd,
                second.area,
            )
            assert first.segmentation == second.segmentation
    return records
