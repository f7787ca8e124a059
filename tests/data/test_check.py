"""The report's numbers against a dataset counted by hand."""

import json

import pytest
from coco_files import sound_document, write_files

from kmaskrcnn.data.check import Spread, inspect_dataset
from kmaskrcnn.data.records import DatasetError


def test_counts_by_hand(tmp_path):
    report = inspect_dataset(*write_files(tmp_path, sound_document()))
    assert (report.num_images, report.num_objects, report.num_crowds) == (3, 4, 1)
    assert report.empty_images == (7,) and report.num_without_mask == 0 and report.faults == ()
    assert report.objects_per_class == {"ant": 1, "bee": 1, "bear": 2}
    assert report.objects_by_size == {"small": 4, "medium": 0, "large": 0}
    assert report.heights == Spread(40, 60, (60 + 90 + 40) / 3, 90)
    assert report.widths == Spread(40, 50, (80 + 50 + 40) / 3, 80)
    assert report.aspect_ratios.maximum == 80 / 60 and report.aspect_ratios.minimum == 50 / 90
    assert report.objects_per_image == Spread(0, 2, 4 / 3, 2)
    # boxes (width x height): 30 x 30, 10 x 60, 20 x 40, and 50 x 10 once cut to the picture
    assert report.object_sides.maximum == 30
    assert report.object_sides.minimum == pytest.approx(500**0.5)
    assert report.object_aspect_ratios == Spread(1 / 6, 0.75, (1 + 1 / 6 + 0.5 + 5) / 4, 5)


def test_sizes_follow_cocos_limits(tmp_path):
    document = sound_document()
    for entry, area in zip(document["annotations"], (1023, 1024, 9215, 9216)):
        entry["area"] = area
    report = inspect_dataset(*write_files(tmp_path, document))
    assert report.objects_by_size == {"small": 1, "medium": 2, "large": 1}


def test_every_fault_is_listed_with_its_ids(tmp_path):
    document = sound_document()
    document["annotations"][2]["bbox"] = [1, 1, 0, 5]
    document["annotations"][0]["category_id"] = 1
    paths = write_files(tmp_path, document)
    (paths[1] / "empty.png").unlink()
    report = inspect_dataset(*paths)
    assert report.num_images == 2 and report.num_objects == 2
    found = {(fault.kind, fault.image_id, fault.annotation_id) for fault in report.faults}
    expected = {
        ("bad box", 12, 3),
        ("unknown category id", 501, 1),
        ("missing file", 7, None),
    }
    assert found == expected
    text = report.to_text()
    assert all(str(fault) in text for fault in report.faults)
    assert "bad box: 1" in text and "bear  2" in text and "3, " not in text.splitlines()[1]
    values = json.loads(json.dumps(report.to_dict()))
    assert values["faults"][0]["image_id"] == 7 and values["heights"]["maximum"] == 90


def test_a_dataset_without_objects_is_reported(tmp_path):
    document = sound_document()
    document["annotations"] = []
    report = inspect_dataset(*write_files(tmp_path, document))
    assert report.num_objects == 0 and len(report.empty_images) == 3
    assert report.object_sides == Spread(0, 0, 0, 0) and "3 without objects" in report.to_text()


def test_a_broken_json_is_an_error(tmp_path):
    (tmp_path / "data.json").write_text("{")
    with pytest.raises(DatasetError, match="malformed json"):
        inspect_dataset(tmp_path / "data.json", tmp_path)
