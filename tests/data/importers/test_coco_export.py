"""COCO json as other tools write it, put right, and the rest left for the check."""

import json

import pytest
from import_checks import NOTCHED, all_instances, check_round_trip, inside, mask_of, write_picture

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import convert_dataset, load_dataset
from kmaskrcnn.data.records import load_coco

OUTLINE = [value for point in NOTCHED for value in point]


def write(folder, annotations, images=None, categories=None):
    write_picture(folder / "a.png")
    document = {
        "images": images or [{"id": 1, "file_name": "a.png", "height": 20, "width": 30}],
        "annotations": annotations,
        "categories": categories or [{"id": 1, "name": "cat", "supercategory": "animals"}],
    }
    (folder / "export.json").write_text(json.dumps(document))
    return folder / "export.json"


def annotation(**changes):
    sound = {
        "id": 5,
        "image_id": 1,
        "category_id": 1,
        "bbox": [3, 2, 12, 10],
        "area": 90,
        "segmentation": [OUTLINE],
    }
    return {key: value for key, value in (sound | changes).items() if value is not ...}


def read(source, **options):
    return load_dataset(source, format="coco_export", **options)


def test_ids_that_are_text_or_fractions(tmp_path):
    images = [{"id": "7", "file_name": "a.png", "height": 20.0, "width": 30.0}]
    categories = [{"id": "kitten", "name": "cat"}, {"id": 1.0, "name": "dog"}]
    objects = [
        annotation(id="x1", image_id="7", category_id="kitten"),
        annotation(id="1", image_id=7.0, category_id=1),
    ]
    source = write(tmp_path, objects, images, categories)
    with pytest.raises(DatasetError, match="'id' must be a whole number, got '7'"):
        load_coco(source, tmp_path)
    records = check_round_trip(source, tmp_path, tmp_path, format="coco_export")
    assert records.class_names == ("dog", "cat") and records.category_ids == (1, 2)
    assert records.images[0].image_id == 7
    assert [i.annotation_id for i in all_instances(records)] == [2, 1]
    assert [i.label for i in all_instances(records)] == [1, 0]


def test_annotations_without_ids_are_numbered(tmp_path):
    source = write(tmp_path, [annotation(id=...), annotation(id=...)])
    assert [i.annotation_id for i in all_instances(read(source))] == [1, 2]


def test_a_group_that_is_no_class(tmp_path):
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
    ]
    records = read(write(tmp_path, [annotation()], categories=categories))
    assert records.class_names == ("cat",) and records.category_ids == (1,)
    used = read(write(tmp_path, [annotation(category_id=0)], categories=categories))
    assert used.class_names == ("animals", "cat")
    categories = [{"id": 0, "name": "cat", "supercategory": "none"}, {"id": 1, "name": "cat"}]
    assert read(write(tmp_path, [annotation()], categories=categories)).category_ids == (1,)
    objects = [annotation(), annotation(id=6, category_id=0)]
    with pytest.raises(DatasetError, match="'cat' has the ids 0 and 1, with 1 and 1 objects"):
        read(write(tmp_path, objects, categories=categories))


@pytest.mark.parametrize("box", [..., None, []])
def test_a_box_that_is_missing(tmp_path, box):
    (found,) = all_instances(read(write(tmp_path, [annotation(bbox=box, area=...)])))
    assert found.box == (3, 2, 15, 12) and found.area == inside(NOTCHED).sum()


def test_segmentations(tmp_path):
    column_runs = [0, 40, 560]  # two columns of 20 pixels
    objects = [
        annotation(segmentation=[[], OUTLINE]),
        annotation(id=6, segmentation={"size": [20.0, 30.0], "counts": column_runs}),
        annotation(id=7, segmentation=[], iscrowd=None),
        annotation(id=8, iscrowd="1"),
    ]
    outline, columns, none, crowd = all_instances(read(write(tmp_path, objects)))
    assert (mask_of(outline) == inside(NOTCHED)).all()
    assert mask_of(columns)[:, :2].all() and mask_of(columns).sum() == 40
    assert none.segmentation is None and crowd.is_crowd and not none.is_crowd


def test_what_cannot_be_put_right_is_named(tmp_path):
    objects = [annotation(bbox=None, segmentation=[[1, 2, 3]]), annotation(id=6, category_id="9")]
    with pytest.raises(DatasetError) as error:
        read(write(tmp_path, [*objects, 3]))
    found = [(fault.kind, fault.annotation_id) for fault in error.value.faults]
    assert found[:2] == [("malformed entry", 5), ("unknown category id", 6)] and len(found) == 3


def test_converting_puts_right_without_being_asked(tmp_path):
    images = [{"id": "7", "file_name": "a.png", "height": 20, "width": 30}]
    source = write(tmp_path, [annotation(image_id="7")], images)
    convert_dataset(source, tmp_path / "out.json")
    assert load_coco(tmp_path / "out.json", tmp_path).images[0].image_id == 7


def test_a_picture_elsewhere_keeps_its_place(tmp_path):
    (tmp_path / "annotations").mkdir()
    pictures = [write_picture(tmp_path / "pictures" / name) for name in ("a.png", "b.png")]
    names = [str(pictures[0].absolute()), "../pictures/b.png"]
    images = [
        {"id": n, "file_name": name, "height": 20, "width": 30} for n, name in enumerate(names)
    ]
    source = write(tmp_path / "annotations", [annotation()], images)
    records = convert_dataset(source, tmp_path / "out.json")
    again = load_coco(tmp_path / "out.json", source.parent)
    assert again.images == records.images and again.images[0].path == names[0]
