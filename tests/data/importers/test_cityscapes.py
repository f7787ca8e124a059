"""Cityscapes' files against what its own scripts made of them, and faults by name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset
from kmaskrcnn.data.importers.cityscapes import load_cityscapes
from kmaskrcnn.geometry.segmentations import to_rle

FIXTURE = Path(__file__).parents[2] / "fixtures" / "cityscapes"
NAMES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
IDS = (24, 25, 26, 27, 28, 31, 32, 33)
VOID = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)


def decoded(rle):
    return coco_mask.decode(to_rle(rle, *rle["size"])).astype(bool)


@pytest.fixture(params=["pictures of ids", "polygons"])
def folders(request, tmp_path):
    """The recorded part with both kinds of labels, or polygons alone."""
    shutil.copytree(FIXTURE, tmp_path / "cityscapes")
    if request.param == "polygons":
        for path in (tmp_path / "cityscapes").rglob("*_instanceIds.png"):
            path.unlink()
    return tmp_path / "cityscapes" / "gtFine", tmp_path / "cityscapes" / "leftImg8bit"


def test_objects_are_the_pixels_that_the_original_painted(folders):
    records = load_cityscapes(*folders)
    assert records.class_names == NAMES and records.category_ids == IDS
    assert records.rules == "cityscapes" and not records.faults
    truths = sorted((FIXTURE / "gtFine").rglob("*_instanceIds.png"))
    assert [record.image_id for record in records.images] == [1, 2, 3]
    for record, truth in zip(records.images, truths):
        ids = np.array(Image.open(truth)).astype(int)
        classes = np.where(ids < 1000, ids, ids // 1000)
        wanted = {value for value in np.unique(ids[np.isin(classes, IDS)])}
        found = {}
        for instance in record.instances:
            mask = decoded(instance.segmentation)
            (value,) = set(ids[mask])  # one object's pixels alone
            found[value] = instance
            assert mask.sum() == (ids == value).sum() == instance.area
            assert IDS[instance.label] == classes[mask][0]
            assert instance.is_crowd == (value < 1000)
            rows, columns = np.nonzero(mask)
            box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert instance.box == box
        assert set(found) == wanted and any(value < 1000 for value in wanted)
        assert (decoded(record.void) == np.isin(ids, VOID)).all()


def test_the_folder_tells_the_format(folders):
    assert load_dataset(*folders).rules == "cityscapes"
    assert len(load_dataset(*folders, format="cityscapes").images) == 3
    with pytest.raises(DatasetError, match="no format can be told from the folder"):
        load_dataset(folders[1], folders[1])
    with pytest.raises(ValueError, match="format must be one of .* got 'citiscapes'"):
        load_dataset(*folders, format="citiscapes")


def test_the_pictures_folder_is_found_beside(folders):
    assert load_cityscapes(folders[0]).images == load_cityscapes(*folders).images


def test_labels_follow_a_trained_models_classes(folders):
    with pytest.raises(DatasetError, match="unknown class: category 'bus'"):
        load_cityscapes(*folders, class_names=("car", "person"))
    records = load_cityscapes(*folders, class_names=("car", "person"), on_error="skip")
    assert records.category_ids == (26, 24)
    assert {i.label for record in records.images for i in record.instances} == {0, 1}


def write_part(folder, objects, **changes):
    """One picture of 20 x 10 with polygons."""
    labels, pictures = folder / "gtFine" / "ulm", folder / "leftImg8bit" / "ulm"
    labels.mkdir(parents=True)
    pictures.mkdir(parents=True)
    document = {"imgHeight": 10, "imgWidth": 20, "objects": objects, **changes}
    (labels / "ulm_1_2_gtFine_polygons.json").write_text(json.dumps(document))
    Image.new("RGB", (20, 10)).save(pictures / "ulm_1_2_leftImg8bit.png")
    return folder / "gtFine"


SQUARE = [[2, 1], [5, 1], [5, 4], [2, 4]]


def test_later_polygons_hide_earlier_ones(tmp_path):
    """By hand: the painter's brush covers the outline, so 2 to 5 are four pixels a side."""
    below = {"label": "car", "polygon": [[0, 0], [9, 0], [9, 9], [0, 9]]}
    above = {"label": "person", "polygon": SQUARE}
    hidden = {"label": "bus", "polygon": [[3, 2], [4, 2], [4, 3]]}
    gone = {"label": "truck", "polygon": SQUARE, "deleted": 1}
    records = load_cityscapes(write_part(tmp_path, [below, hidden, above, gone]))
    (record,) = records.images
    person, car = record.instances
    assert (person.label, person.area, person.box) == (0, 16, (2, 1, 6, 5))
    assert (car.label, car.area, car.box) == (2, 100 - 16, (0, 0, 10, 10))
    assert not decoded(car.segmentation)[1:5, 2:6].any()


@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        ({"label": "cat", "polygon": SQUARE}, "unknown class", "objects.1.: .*no label 'cat'"),
        ({"label": "car"}, "malformed entry", "objects.1.: 'polygon' is missing"),
        ({"polygon": SQUARE}, "malformed entry", "objects.1.: 'label' is missing"),
        ({"label": "car", "polygon": [[1, 2], [3, 4]]}, "bad polygon", "at least 3 points"),
        ({"label": "car", "polygon": [[1, 2], [3, 4], [5]]}, "bad polygon", "points .x, y."),
        ({"label": "car", "polygon": [[1, 2], [3, 4], [5, 1e9]]}, "bad polygon", "finite"),
        ({"label": "car", "polygon": [[31, 2], [33, 4], [35, 1]]}, "polygon outside", "outside"),
        (7, "malformed entry", "objects.1.: must be an object"),
    ],
)
def test_a_faulty_object_is_named_and_left_out_alone(tmp_path, entry, kind, message):
    sound = {"label": "car", "polygon": SQUARE}
    folder = write_part(tmp_path, [sound, entry, sound])
    with pytest.raises(DatasetError, match=message) as error:
        load_cityscapes(folder)
    (fault,) = error.value.faults
    assert (fault.kind, fault.image_id, fault.annotation_id) == (kind, 1, 2)
    assert fault.file.endswith("leftImg8bit.png") or fault.file.endswith("polygons.json")
    assert len(load_cityscapes(folder, on_error="skip").images[0].instances) == 1


def test_faulty_files_are_named(folders):
    labels, pictures = folders
    # Of two files the one of ids counts, which comes first by name.
    first, second = (min(labels.rglob(f"aachen_{number:06}*")) for number in (1, 2))
    first.write_bytes(b"")
    second.write_bytes(second.read_bytes()[: second.stat().st_size // 2])
    shutil.rmtree(pictures / "ulm")
    with pytest.raises(DatasetError) as error:
        load_cityscapes(*folders)
    found = [(Path(fault.file).name[:13], fault.image_id) for fault in error.value.faults]
    assert found == [("aachen_000001", 1), ("aachen_000002", 2), ("ulm_000003_00", 3)]
    assert error.value.faults[2].kind == "missing file"


def test_missing_folders_are_named(folders, tmp_path):
    with pytest.raises(DatasetError, match="there are no .*_gtFine_polygons.json"):
        load_cityscapes(tmp_path / "nowhere", folders[1])
    with pytest.raises(DatasetError, match="missing folder.*nowhere"):
        load_cityscapes(folders[0], tmp_path / "nowhere")


def test_a_size_beyond_reason_is_refused_before_it_is_painted(tmp_path):
    folder = write_part(tmp_path, [], imgHeight=10**6, imgWidth=10**6)
    with pytest.raises(DatasetError, match="malformed json: 1000000 x 1000000 pixels"):
        load_cityscapes(folder)
