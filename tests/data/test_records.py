"""Sound datasets read as they are; each kind of fault is named with its ids and skipped alone."""

import json
import logging
from pathlib import Path

import pytest
from coco_files import annotation_ids, image_ids, sound_document, write_files

from kmaskrcnn.data.records import DatasetError, Fault, load_coco

COCO_MINI = Path(__file__).parents[3] / "shared" / "data" / "coco_mini"


def load_edited(folder, edit, **options):
    document = sound_document()
    edit(document)
    return load_coco(*write_files(folder, document), **options)


def test_a_sound_dataset(tmp_path):
    dataset = load_edited(tmp_path, lambda document: None)
    assert dataset.class_names == ("ant", "bee", "bear") and dataset.category_ids == (3, 7, 90)
    assert dataset.faults == () and dataset.json_path == str(tmp_path / "data.json")
    assert [record.image_id for record in dataset.images] == [501, 12, 7]
    wide, tall, empty = dataset.images
    assert (wide.height, wide.width, empty.instances) == (60, 80, ())
    assert wide.path == str(tmp_path / "images" / "wide.png")
    assert [instance.label for instance in wide.instances + tall.instances] == [1, 2, 0, 2]
    assert [instance.is_crowd for instance in wide.instances] == [False, True]
    assert wide.instances[0].box == (25, 15, 55, 45) and wide.instances[0].area == 697
    triangle, stripes = tall.instances
    assert triangle.box == (10.5, 20.25, 30.5, 60.25) and triangle.area == 800
    assert triangle.keypoints is None and not triangle.is_crowd
    assert stripes.box == (0, 80, 50, 90), "a box that reaches over the border is cut"
    assert stripes.keypoints == ((3, 85, 2), (0, 0, 0)) and len(stripes.segmentation) == 2


def test_labels_follow_a_trained_models_classes(tmp_path):
    names = ["bear", "cow", "bee", "ant"]
    dataset = load_edited(tmp_path, lambda document: None, class_names=names)
    assert dataset.class_names == tuple(names) and dataset.category_ids == (90, -1, 7, 3)
    labels = {i.annotation_id: i.label for r in dataset.images for i in r.instances}
    assert labels == {1: 2, 2: 0, 3: 3, 4: 0}


def test_equal_names_keep_their_own_labels(tmp_path):
    """Some exports name a super-category as its only category."""

    def edit(document):
        document["categories"][1]["name"] = "bee"

    dataset = load_edited(tmp_path, edit, class_names=("bee", "bee", "bear"))
    assert dataset.category_ids == (3, 7, 90)


def test_a_class_that_the_model_does_not_know(tmp_path):
    with pytest.raises(DatasetError, match=r"unknown class: category 'bear' \(id 90\)"):
        load_edited(tmp_path, lambda document: None, class_names=["ant", "bee"])
    dataset = load_edited(
        tmp_path, lambda document: None, class_names=["ant", "bee"], on_error="skip"
    )
    assert len(dataset.faults) == 1 and annotation_ids(dataset) == {1, 3}


def annotation(index, **values):
    return lambda document, folder: document["annotations"][index].update(values)


def image(index, **values):
    return lambda document, folder: document["images"][index].update(values)


def without(kind, index, key):
    return lambda document, folder: document[kind][index].pop(key)


def append(kind, entry):
    return lambda document, folder: document[kind].append(entry)


ANNOTATION_FAULTS = {  # edit, kind, image id, annotation id
    "zero width": (annotation(0, bbox=[3, 3, 0, 9]), "bad box", 501, 1),
    "negative height": (annotation(1, bbox=[3, 3, 5, -1]), "bad box", 501, 2),
    "NaN": (annotation(2, bbox=[3, float("nan"), 5, 5]), "bad box", 12, 3),
    "infinite": (annotation(2, bbox=[3, 3, float("inf"), 5]), "bad box", 12, 3),
    "too great": (annotation(2, bbox=[3, 3, 10**400, 5]), "bad box", 12, 3),
    "three numbers": (annotation(2, bbox=[3, 3, 5]), "bad box", 12, 3),
    "words": (annotation(2, bbox=[3, 3, "5", 5]), "bad box", 12, 3),
    "box outside": (annotation(2, bbox=[51, 3, 5, 5]), "box outside", 12, 3),
    "box no list": (annotation(2, bbox=None), "malformed entry", 12, 3),
    "no box": (without("annotations", 2, "bbox"), "malformed entry", 12, 3),
    "2 points": (annotation(2, segmentation=[[1, 1, 5, 5]]), "bad polygon", 12, 3),
    "odd": (annotation(2, segmentation=[[1, 1, 5, 5, 2, 2, 3]]), "bad polygon", 12, 3),
    "nested": (annotation(2, segmentation=[[[1, 1], [5, 5], [2, 2]] * 2]), "bad polygon", 12, 3),
    "polygon words": (annotation(2, segmentation=[["a"] * 6]), "bad polygon", 12, 3),
    "polygon null": (annotation(2, segmentation=[[None] * 6]), "bad polygon", 12, 3),
    "polygon huge": (annotation(2, segmentation=[[1, 1, 5, 5, 1, 1e9]]), "bad polygon", 12, 3),
    "one of two": (
        annotation(3, segmentation=[[0, 80, 9, 80, 9, 90], [60, 8, 70, 8, 70, 9]]),
        "polygon outside",
        12,
        4,
    ),
    "above": (annotation(2, segmentation=[[1, -9, 5, -9, 5, -1]]), "polygon outside", 12, 3),
    "number": (annotation(2, segmentation=5), "malformed entry", 12, 3),
    "RLE of another": (
        annotation(1, segmentation={"size": [80, 60], "counts": [4800]}),
        "RLE size",
        501,
        2,
    ),
    "RLE short": (
        annotation(1, segmentation={"size": [60, 80], "counts": [9]}),
        "bad RLE",
        501,
        2,
    ),
    "RLE text": (
        annotation(0, segmentation={"size": [60, 80], "counts": "zz\u20ac"}),
        "bad RLE",
        501,
        1,
    ),
    "RLE without counts": (annotation(0, segmentation={"size": [60, 80]}), "bad RLE", 501, 1),
    "RLE without size": (annotation(0, segmentation={"counts": "0"}), "malformed entry", 501, 1),
    "crowd word": (annotation(0, iscrowd="0"), "malformed entry", 501, 1),
    "keypoints": (annotation(3, keypoints=[1, 2]), "bad keypoints", 12, 4),
    "category": (annotation(2, category_id=4), "unknown category id", 12, 3),
    "category word": (annotation(2, category_id="3"), "malformed entry", 12, 3),
    "image": (annotation(2, image_id=99), "unknown image id", 99, 3),
    "no image": (without("annotations", 2, "image_id"), "malformed entry", None, 3),
    "id word": (annotation(2, id="x"), "malformed entry", 12, None),
    "id truth": (annotation(2, id=True), "malformed entry", 12, None),
    "id fraction": (annotation(2, id=1.5), "malformed entry", 12, None),
    "id too great": (annotation(2, id=2**70), "malformed entry", 12, None),
}
LEFT_OUT = {"id word": 3, "id truth": 3, "id fraction": 3, "id too great": 3}


@pytest.mark.parametrize("name", ANNOTATION_FAULTS)
def test_a_faulty_annotation(tmp_path, name):
    edit, kind, image_id, annotation_id = ANNOTATION_FAULTS[name]
    with pytest.raises(DatasetError) as caught:
        load_edited(tmp_path, lambda document: edit(document, tmp_path))
    (fault,) = caught.value.faults
    assert (fault.kind, fault.image_id, fault.annotation_id) == (kind, image_id, annotation_id)
    assert str(fault) in str(caught.value) and "on_error='skip'" in str(caught.value)
    names = {501: "wide.png", 12: "tall.jpg"}
    assert fault.file.endswith(names.get(image_id, "data.json"))
    dataset = load_edited(tmp_path, lambda document: edit(document, tmp_path), on_error="skip")
    assert dataset.faults == (fault,)
    assert image_ids(dataset) == {501, 12, 7}
    assert annotation_ids(dataset) == {1, 2, 3, 4} - {LEFT_OUT.get(name, annotation_id)}


def cut(name, share):
    def edit(document, folder):
        path = folder / "images" / name
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return edit


def replaced(name, data):
    return lambda document, folder: (folder / "images" / name).write_bytes(data)


def removed(name):
    return lambda document, folder: (folder / "images" / name).unlink()


IMAGE_FAULTS = {  # edit of the document, edit of the files, kind, image id
    "missing": (None, removed("wide.png"), "missing file", 501),
    "truncated png": (None, cut("wide.png", 0.6), "truncated file", 501),
    "truncated jpg": (None, cut("tall.jpg", 0.8), "truncated file", 12),
    "no picture": (None, replaced("wide.png", b"<html>not found</html>"), "not a picture", 501),
    "no bytes": (None, replaced("wide.png", b""), "not a picture", 501),
    "header alone": (None, replaced("tall.jpg", b"\xff\xd8\xff\xd9"), "not a picture", 12),
    "height": (image(0, height=61), None, "size mismatch", 501),
    "exchanged": (image(1, height=50, width=90), None, "size mismatch", 12),
    "zero byte": (image(0, file_name="a\0b"), None, "missing file", 501),
    "folder": (image(0, file_name=""), None, "missing file", 501),
    "no name": (without("images", 0, "file_name"), None, "malformed entry", 501),
    "zero height": (image(0, height=0), None, "malformed entry", 501),
    "width word": (image(0, width="80"), None, "malformed entry", 501),
}


@pytest.mark.parametrize("check_images", ["header", "decode"])
@pytest.mark.parametrize("name", IMAGE_FAULTS)
def test_a_faulty_picture(tmp_path, name, check_images):
    edit, spoil, kind, image_id = IMAGE_FAULTS[name]
    document = sound_document()
    if edit:
        edit(document, tmp_path)
    paths = write_files(tmp_path, document)
    if spoil:
        spoil(document, tmp_path)
    with pytest.raises(DatasetError) as caught:
        load_coco(*paths, check_images=check_images)
    (fault,) = caught.value.faults
    assert (fault.kind, fault.image_id, fault.annotation_id) == (kind, image_id, None)
    assert str(fault.file) in str(caught.value) and f"image id {image_id}" in str(caught.value)
    dataset = load_coco(*paths, check_images=check_images, on_error="skip")
    assert dataset.faults == (fault,)
    assert image_ids(dataset) == {501, 12, 7} - {image_id}
    assert annotation_ids(dataset) == ({3, 4} if image_id == 501 else {1, 2})


def test_pictures_are_not_opened_unless_asked(tmp_path):
    json_path, images = write_files(tmp_path, sound_document())
    (images / "wide.png").unlink()
    assert len(load_coco(json_path, images, check_images=False).images) == 3


def test_classes_of_one_name_are_a_fault_and_the_one_with_objects_is_kept(tmp_path):
    def edit(document):  # as Roboflow's exports have it: a group of its only class's name
        document["categories"].insert(0, {"id": 0, "name": "bear", "supercategory": "none"})

    with pytest.raises(DatasetError, match="duplicate class name.*'bear' has the ids 90 and 0"):
        load_edited(tmp_path, edit)
    dataset = load_edited(tmp_path, edit, on_error="skip")
    assert [fault.kind for fault in dataset.faults] == ["duplicate class name"]
    assert "with 2 and 0 objects" in dataset.faults[0].message
    assert dataset.class_names == ("ant", "bee", "bear") and dataset.category_ids == (3, 7, 90)
    assert annotation_ids(dataset) == {1, 2, 3, 4}
    names = load_edited(tmp_path, edit, class_names=["bear", "bee", "ant"])
    assert not names.faults and annotation_ids(names) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "kind, index, image_id, annotation_id",
    [("images", 0, 501, None), ("annotations", 2, 12, 3), ("categories", 1, None, None)],
)
def test_of_a_duplicate_id_the_first_is_kept(tmp_path, kind, index, image_id, annotation_id):
    def edit(document):
        document[kind].append(dict(document[kind][index]))

    dataset = load_edited(tmp_path, edit, on_error="skip")
    (fault,) = dataset.faults
    assert (fault.kind, fault.image_id, fault.annotation_id) == (
        "duplicate id",
        image_id,
        annotation_id,
    )
    assert f"'{kind}'" in fault.message
    assert image_ids(dataset) == {501, 12, 7} and annotation_ids(dataset) == {1, 2, 3, 4}
    assert dataset.class_names == ("ant", "bee", "bear")


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, 5, [], {}])
def test_an_entry_that_is_no_object(tmp_path, kind, entry):
    dataset = load_edited(tmp_path, lambda d: append(kind, entry)(d, None), on_error="skip")
    assert [fault.kind for fault in dataset.faults] == ["malformed entry"]
    assert image_ids(dataset) == {501, 12, 7} and annotation_ids(dataset) == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "text, word",
    [
        ("{", "line 1 column 2"),
        ("[]", "must be an object"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' must be a list"),
        ('{"images": [], "annotations": [], "categories": []}', "no categories"),
        ("[" * 100_000, "malformed json"),
        ("\xff", "malformed json"),
    ],
)
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_json_that_cannot_be_read_is_always_an_error(tmp_path, text, word, on_error):
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DatasetError, match=word) as caught:
        load_coco(path, tmp_path, on_error=on_error)
    assert str(path) in str(caught.value)


def test_missing_json_and_missing_folder(tmp_path):
    json_path, _ = write_files(tmp_path, sound_document())
    with pytest.raises(DatasetError, match="missing file.*none.json"):
        load_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(DatasetError, match="missing folder.*nowhere"):
        load_coco(json_path, tmp_path / "nowhere")


def test_all_faults_come_at_once_and_the_message_stays_short(tmp_path, caplog):
    def edit(document):
        document["annotations"] += [{"id": i} for i in range(100, 130)]
        document["images"][2]["width"] = -1

    with pytest.raises(DatasetError) as caught:
        load_edited(tmp_path, edit)
    assert len(caught.value.faults) == 31
    assert str(caught.value).startswith("31 faults") and "and 11 more" in str(caught.value)
    assert str(caught.value).count("\n") == 22
    with caplog.at_level(logging.WARNING):
        dataset = load_edited(tmp_path, edit, on_error="skip")
    assert image_ids(dataset) == {501, 12} and annotation_ids(dataset) == {1, 2, 3, 4}
    assert "left out 31 faulty items" in caplog.text


def test_objects_without_a_mask_are_sound(tmp_path):
    def edit(document):
        document["annotations"][0]["segmentation"] = []
        del document["annotations"][1]["segmentation"]

    dataset = load_edited(tmp_path, edit)
    assert [instance.segmentation for instance in dataset.images[0].instances] == [None, None]


def test_options_are_checked(tmp_path):
    paths = write_files(tmp_path, sound_document())
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip', got 'ignore'"):
        load_coco(*paths, on_error="ignore")
    with pytest.raises(ValueError, match="check_images must be .* got 'all'"):
        load_coco(*paths, check_images="all")


def test_a_fault_tells_where_it_is():
    fault = Fault("bad box", "wrong", "a.jpg", 3, 9)
    assert str(fault) == "bad box: wrong (file a.jpg, image id 3, annotation id 9)"
    assert str(Fault("bad box", "wrong")) == "bad box: wrong"


def test_real_coco_has_no_fault():
    if not COCO_MINI.is_dir():
        pytest.skip("needs ../shared/data/coco_mini")
    path = COCO_MINI / "annotations" / "instances_train2017.json"
    document = json.loads(path.read_text())
    dataset = load_coco(path, COCO_MINI / "train2017", check_images="decode")
    ids = sorted(category["id"] for category in document["categories"])
    assert len(dataset.images) == 160 and list(dataset.category_ids) == ids and ids[-1] == 90
    found = {
        i.annotation_id: (r.image_id, dataset.category_ids[i.label], i.is_crowd)
        for r in dataset.images
        for i in r.instances
    }
    assert found == {
        a["id"]: (a["image_id"], a["category_id"], bool(a["iscrowd"]))
        for a in document["annotations"]
    }
