"""The dataset's tensors against oracles that transform the full-size picture and masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow as tf
from coco_files import sound_document, write_files
from pycocotools import mask as coco_mask

from kmaskrcnn.data.batching import plan_batches
from kmaskrcnn.data.loading import BatchLoader
from kmaskrcnn.data.pipeline import make_dataset
from kmaskrcnn.data.records import CocoDataset, DatasetError, ImageRecord, load_coco
from kmaskrcnn.geometry.resizing import resize_shape
from kmaskrcnn.geometry.segmentations import rasterise_in_box, to_rle

COCO_MINI = Path(__file__).parents[3] / "shared" / "data" / "coco_mini"
SMALL = {"min_size": 100, "max_size": 160}


@pytest.fixture
def records(tmp_path):
    return load_coco(*write_files(tmp_path, sound_document()))


@pytest.fixture(scope="module")
def coco_mini():
    if not COCO_MINI.is_dir():
        pytest.skip("needs ../shared/data/coco_mini")
    return load_coco(COCO_MINI / "annotations/instances_train2017.json", COCO_MINI / "train2017")


def batches_of(dataset):
    return [tf.nest.map_structure(lambda tensor: tensor.numpy(), batch) for batch in dataset]


def ids_of(dataset):
    return [targets["image_ids"].tolist() for _, targets in batches_of(dataset)]


def made_up_records(shapes):
    """Records without files, for what does not look at pixels."""
    images = tuple(ImageRecord(i, f"{i}.png", h, w) for i, (h, w) in enumerate(shapes))
    return CocoDataset(images, ("thing",), (1,))


def test_the_contract_of_tensors(records):
    dataset = make_dataset(records, batch_size=3, **SMALL)
    inputs, targets = dataset.element_spec
    shapes = {
        name: (spec.shape.as_list(), spec.dtype) for name, spec in {**inputs, **targets}.items()
    }
    assert set(inputs) == {"images", "image_sizes"} and shapes == {
        "images": ([None, None, None, 3], tf.uint8),
        "image_sizes": ([None, 2], tf.int32),
        "boxes": ([None, None, 4], tf.float32),
        "labels": ([None, None], tf.int32),
        "is_crowd": ([None, None], tf.bool),
        "masks": ([None, None, 112, 112], tf.uint8),
        "image_ids": ([None], tf.int64),
        "original_sizes": ([None, 2], tf.int32),
    }
    ((inputs, targets),) = batches_of(dataset)
    # 40x40 -> 100x100, 60x80 -> 100x133, 90x50 -> 160x89 (the long side stops it)
    assert targets["image_ids"].tolist() == [7, 501, 12]
    assert inputs["image_sizes"].tolist() == [[100, 100], [100, 133], [160, 89]]
    assert targets["original_sizes"].tolist() == [[40, 40], [60, 80], [90, 50]]
    assert inputs["images"].shape == (3, 192, 192, 3)
    assert targets["labels"].tolist() == [[-1, -1], [1, 2], [0, 2]]
    assert targets["is_crowd"].tolist() == [[False, False], [False, True], [False, False]]
    # a third axis of scale: 160 / 90 down and 89 / 50 across
    expected = np.array([10.5 * 1.78, 20.25 * 16 / 9, 30.5 * 1.78, 60.25 * 16 / 9])
    np.testing.assert_allclose(targets["boxes"][2, 0], expected, rtol=1e-6)
    assert not targets["boxes"][0].any() and not targets["masks"][0].any()
    assert set(np.unique(targets["masks"])) == {0, 1}


def resize_by_loops(picture, height, width):
    """Bilinear with half-pixel centres, the border repeated."""
    result = np.zeros((height, width, 3))
    for i in range(height):
        for j in range(width):
            y = np.clip((i + 0.5) * picture.shape[0] / height - 0.5, 0, picture.shape[0] - 1)
            x = np.clip((j + 0.5) * picture.shape[1] / width - 0.5, 0, picture.shape[1] - 1)
            top, left = int(y), int(x)
            bottom = min(top + 1, picture.shape[0] - 1)
            right = min(left + 1, picture.shape[1] - 1)
            upper = picture[top, left] * (1 - x + left) + picture[top, right] * (x - left)
            lower = picture[bottom, left] * (1 - x + left) + picture[bottom, right] * (x - left)
            result[i, j] = upper * (1 - y + top) + lower * (y - top)
    return result


def test_pixels_are_resized_and_padded_at_bottom_and_right(records):
    for inputs, targets in batches_of(make_dataset(records, batch_size=1, **SMALL)):
        (record,) = [r for r in records.images if r.image_id == targets["image_ids"][0]]
        picture = cv2.imread(record.path)[..., ::-1].astype(float)
        height, width = inputs["image_sizes"][0]
        expected = resize_by_loops(picture, height, width)
        found = inputs["images"][0, :height, :width].astype(float)
        assert np.abs(found - expected).max() <= 1  # OpenCV works with 11 bits of fraction
        assert not inputs["images"][0, height:].any() and not inputs["images"][0, :, width:].any()
        assert all(side % 64 == 0 for side in inputs["images"].shape[1:3])


def mirrored(document):
    """The same dataset seen in a mirror, masks mirrored at full size."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for entry in document["annotations"]:
        height, width = sizes[entry["image_id"]]
        x, y, box_width, box_height = entry["bbox"]
        entry["bbox"] = [width - x - box_width, y, box_width, box_height]
        if isinstance(entry["segmentation"], list):
            for polygon in entry["segmentation"]:
                polygon[::2] = [width - value for value in polygon[::2]]
        else:
            mask = coco_mask.decode(to_rle(entry["segmentation"], height, width))
            rle = coco_mask.encode(np.asfortranarray(mask[:, ::-1]))
            entry["segmentation"] = {**rle, "counts": rle["counts"].decode()}
    return document


def test_a_flip_equals_the_mirrored_dataset(tmp_path):
    for name in ("plain", "mirror"):
        (tmp_path / name).mkdir()
    document = sound_document()
    document["images"][1]["file_name"] = "tall.png"  # a mirrored JPEG is not the mirrored pixels
    plain_paths = write_files(tmp_path / "plain", document)
    mirror_paths = write_files(tmp_path / "mirror", mirrored(document))
    for folder in (plain_paths[1], mirror_paths[1]):
        cv2.imwrite(str(folder / "tall.png"), cv2.imread(str(folder / "tall.jpg")))
    for path in mirror_paths[1].iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path))[:, ::-1])
    plain, mirror = load_coco(*plain_paths), load_coco(*mirror_paths)
    flipped = batches_of(make_dataset(plain, batch_size=3, flip=1.0, **SMALL))[0]
    expected = batches_of(make_dataset(mirror, batch_size=3, flip=0.0, **SMALL))[0]
    for name in ("images", "image_sizes"):
        np.testing.assert_array_equal(flipped[0][name], expected[0][name])
    for name in ("labels", "is_crowd", "image_ids"):
        np.testing.assert_array_equal(flipped[1][name], expected[1][name])
    np.testing.assert_allclose(flipped[1]["boxes"], expected[1]["boxes"], atol=1e-4)
    # pycocotools rounds points that fall on a half to one side: the outline's cells may differ
    assert (flipped[1]["masks"] != expected[1]["masks"]).mean() < 0.002
    unflipped = batches_of(make_dataset(plain, batch_size=3, flip=0.0, **SMALL))[0]
    assert (unflipped[1]["masks"] != expected[1]["masks"]).mean() > 0.02, "the test can fail"


def test_masks_equal_the_full_size_mask_of_the_network_picture(coco_mini):
    """Polygons are scaled to the network's picture, rasterised there at full size by pycocotools,
    and read at the cells' centres: no box frame is involved before the end."""
    overlaps = []
    images = tuple(r for r in coco_mini.images if len(r.instances) > 2)[:8]
    dataset = make_dataset(CocoDataset(images, (), ()), batch_size=4, min_size=800, flip=1.0)
    record_of = {record.image_id: record for record in images}
    for inputs, targets in batches_of(dataset):
        for b, image_id in enumerate(targets["image_ids"]):
            record, (height, width) = record_of[image_id], inputs["image_sizes"][b]
            scale = np.array([width / record.width, height / record.height])
            for g, instance in enumerate(record.instances):
                box = targets["boxes"][b, g].astype(float)
                if instance.is_crowd or (box[2:] - box[:2]).min() < 60:
                    continue
                polygons = [np.reshape(p, (-1, 2)) * scale for p in instance.segmentation]
                polygons = [(np.abs([[width, 0]] - p)).ravel() for p in polygons]
                full = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
                expected = rasterise_in_box({**full, "size": [height, width]}, box)
                found = targets["masks"][b, g]
                overlaps.append((expected & found).sum() / (expected | found).sum())
    assert len(overlaps) > 20 and np.mean(overlaps) > 0.975 and np.min(overlaps) > 0.9


def test_every_picture_comes_once_and_the_last_batch_is_kept(coco_mini):
    dataset = make_dataset(coco_mini, batch_size=6, min_size=64, max_size=128)
    batches = batches_of(dataset)
    assert dataset.cardinality() == len(batches) == 27 and len(batches[-1][1]["image_ids"]) == 4
    found = np.concatenate([targets["image_ids"] for _, targets in batches])
    assert sorted(found) == sorted(record.image_id for record in coco_mini.images)
    objects = sum((targets["labels"] >= 0).sum() for _, targets in batches)
    crowds = sum(targets["is_crowd"].sum() for _, targets in batches)
    assert (objects, crowds) == (1444, 14)
    for inputs, targets in batches:
        real = targets["labels"] >= 0
        assert (targets["masks"].any(axis=(2, 3)) == real).all()
        edges = np.tile(inputs["image_sizes"][:, None, ::-1], 2)
        assert (targets["boxes"] >= 0).all() and (targets["boxes"] <= edges + 1e-3).all()


def test_real_pictures_of_like_shape_share_a_batch(coco_mini):
    """At 800 px and 2 pictures a batch 7.4 % is padding, where batches by chance have 18.8 %;
    5.6 % are the steps of 64 pixels alone."""
    sizes = np.array([resize_shape(record.height, record.width) for record in coco_mini.images])
    shapes = -(-sizes // 64) * 64
    shares = []
    for seed in range(20):
        batches = plan_batches(shapes, 2, np.random.default_rng(seed))
        padded = sum(len(batch) * shapes[batch].max(axis=0).prod() for batch in batches)
        shares.append(1 - sizes.prod(axis=1).sum() / padded)
    assert np.mean(shares) < 0.08


def test_epochs_are_shuffled_anew_and_repeat_with_the_seed(coco_mini):
    few = CocoDataset(coco_mini.images[:12], coco_mini.class_names, coco_mini.category_ids)

    def epochs(seed):
        dataset = make_dataset(few, batch_size=5, training=True, seed=seed, **SMALL)
        return [batches_of(dataset) for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    tf.nest.map_structure(np.testing.assert_array_equal, first, again)
    ids = [[t["image_ids"].tolist() for _, t in epoch] for epoch in (*first, *other)]
    assert ids[0] != ids[1] and ids[0] != ids[2]
    assert all(len(sum(epoch, [])) == 12 == len(set(sum(epoch, []))) for epoch in ids)


def test_without_shuffling_the_order_stays(records):
    dataset = make_dataset(records, batch_size=2, **SMALL)
    assert ids_of(dataset) == ids_of(dataset) == [[7, 501], [12]]


def test_repeat_goes_on_with_the_next_epoch(records):
    options = {"batch_size": 2, "training": True, "seed": 5, **SMALL}
    repeated = make_dataset(records, repeat=True, **options)
    assert repeated.cardinality() == tf.data.INFINITE_CARDINALITY
    once = make_dataset(records, **options)
    assert ids_of(repeated.take(6)) == ids_of(once) + ids_of(once) + ids_of(once)


def test_half_of_the_pictures_are_flipped(tmp_path):
    """A picture whose left half is white: where white is tells whether it was flipped."""
    white_left = np.zeros((32, 32, 3), np.uint8)
    white_left[:, :16] = 255
    cv2.imwrite(str(tmp_path / "a.png"), white_left)
    images = tuple(ImageRecord(i, str(tmp_path / "a.png"), 32, 32) for i in range(400))
    dataset = make_dataset(
        CocoDataset(images, ("x",), (1,)), batch_size=400, min_size=32, max_size=32, training=True
    )
    ((inputs, _),) = batches_of(dataset)
    flipped = inputs["images"][:, 16, 2, 0] == 0
    assert 160 < flipped.sum() < 240  # 4 standard deviations of 400 fair coins


def test_a_fixed_number_of_pictures_makes_the_batch_static(records):
    dataset = make_dataset(records, batch_size=2, drop_remainder=True, **SMALL)
    assert dataset.element_spec[0]["images"].shape.as_list() == [2, None, None, 3]
    assert dataset.cardinality() == 1 and ids_of(dataset) == [[7, 501]]


def test_boxes_alone_need_no_segmentation(tmp_path):
    document = sound_document()
    document["annotations"][2]["segmentation"] = None
    records = load_coco(*write_files(tmp_path, document))
    with pytest.raises(DatasetError, match="image id 12, annotation id 3") as caught:
        make_dataset(records, batch_size=1)
    assert len(caught.value.faults) == 1 and "with_masks=False" in str(caught.value)
    dataset = make_dataset(records, batch_size=3, with_masks=False, **SMALL)
    assert "masks" not in dataset.element_spec[1]
    assert (batches_of(dataset)[0][1]["labels"] >= 0).sum() == 4


@pytest.mark.parametrize("spoil", ["cut", "missing", "resized"])
def test_a_picture_that_breaks_in_mid_epoch_names_itself(records, spoil):
    path = Path(records.images[1].path)
    dataset = make_dataset(records, batch_size=1, **SMALL)
    assert len(batches_of(dataset)) == 3
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif spoil == "missing":
        path.unlink()
    else:
        cv2.imwrite(str(path), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{path.name}, image id 12"):
        batches_of(dataset)


@pytest.mark.parametrize(
    "options, word",
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 2.0}, "batch_size must be"),
        ({"batch_size": 2, "size_divisor": 0}, "size_divisor must be"),
        ({"batch_size": 2, "mask_size": -1}, "mask_size must be"),
        ({"batch_size": 2, "flip": 1.5}, "flip must be"),
        ({"batch_size": 2, "min_size": 9, "max_size": 8}, "max_size must be"),
        ({"batch_size": 8, "drop_remainder": True}, "an epoch must have a batch, got 3 pictures"),
    ],
)
def test_arguments_are_checked(options, word):
    with pytest.raises(ValueError, match=word):
        make_dataset(made_up_records([(9, 9)] * 3), **options)


def test_no_pictures_are_an_error():
    with pytest.raises(ValueError, match="got 0 pictures"):
        make_dataset(made_up_records([]), batch_size=1)


def test_loading_is_a_pure_function(records):
    """Threads may call it in any order: equal arguments, equal arrays, earlier ones untouched."""
    loader = BatchLoader(records.images, [(60, 80), (90, 50), (40, 40)], 16, 28)
    first = loader([0, 2], [True, False])
    kept = {name: array.copy() for name, array in first.items()}
    loader([1, 2], [True, True])
    again = loader([0, 2], [True, False])
    for name, array in kept.items():
        np.testing.assert_array_equal(first[name], array)
        np.testing.assert_array_equal(again[name], array)
