"""LabelMe: every shape's pixels, parts of one object, and faults by name."""

import base64
import io
import json

import numpy as np
import pytest
from import_checks import (
    NOTCHED,
    all_instances,
    check_round_trip,
    inside,
    mask_of,
    write_picture,
)
from PIL import Image

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset

RECTANGLE = {"label": "dog", "shape_type": "rectangle", "points": [[25, 9], [20, 4]]}
POLYGON = {"label": "cat", "shape_type": "polygon", "points": [list(p) for p in NOTCHED]}


def png(mask):
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


PATCH = np.random.default_rng(2).random((6, 9)) < 0.5
PATCH[0, 0] = PATCH[-1, -1] = PATCH[0, -1] = True
MASK = {"label": "cat", "shape_type": "mask", "points": [[10, 12], [18, 17]], "mask": png(PATCH)}


def write(folder, shapes, name="a", **changes):
    write_picture(folder / "data" / f"{name}.png")
    content = {"imagePath": f"{name}.png", "imageHeight": 20, "imageWidth": 30, "shapes": shapes}
    (folder / "data" / f"{name}.json").write_text(json.dumps(content | changes))
    return folder / "data"


def test_shapes(tmp_path):
    circle = {"label": "dog", "shape_type": "circle", "points": [[15, 10], [20, 10]]}
    write(tmp_path, [circle], "sub/b", imagePath="..\\sub\\b.png")
    source = write(tmp_path, [POLYGON, RECTANGLE, MASK])
    records = check_round_trip(source, source, tmp_path)
    assert records.class_names == ("cat", "dog")
    assert [record.path for record in records.images] == [
        str(source / "a.png"),
        str(source / "sub" / "b.png"),
    ]
    notched, square, patch, disc = all_instances(records)
    assert (mask_of(notched) == inside(NOTCHED)).all()
    assert square.box == (20, 4, 25, 9) and mask_of(square)[4:9, 20:25].all() and square.area == 25
    wanted = np.zeros((20, 30), bool)
    wanted[12:18, 10:19] = PATCH
    assert (mask_of(patch) == wanted).all()
    y, x = np.mgrid[:20, :30] + 0.5
    distance = np.hypot(x - 15, y - 10)
    assert mask_of(disc)[distance < 4.3].all() and not mask_of(disc)[distance > 5.7].any()


def test_one_file_and_a_size_from_the_picture(tmp_path):
    source = write(tmp_path, [POLYGON], imageHeight=None)
    records = load_dataset(source / "a.json")
    assert (records.images[0].height, records.images[0].width) == (20, 30)


def test_parts_of_one_group_are_one_object(tmp_path):
    parts = [{**shape, "label": "cat", "group_id": 4} for shape in (POLYGON, RECTANGLE)]
    other = {**POLYGON, "group_id": 5}
    both = all_instances(load_dataset(write(tmp_path, [parts[0], other, parts[1]])))
    assert len(both) == 2 and len(both[0].segmentation) == 2
    wanted = inside(NOTCHED)
    wanted[4:9, 20:25] = True
    assert (mask_of(both[0]) == wanted).all() and both[0].box == (3, 2, 25, 12)
    wanted[12:18, 10:19] |= PATCH
    (joined,) = all_instances(load_dataset(write(tmp_path, [*parts, {**MASK, "group_id": 4}])))
    assert (mask_of(joined) == wanted).all() and joined.area == wanted.sum()


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ({**POLYGON, "shape_type": "point"}, "unknown shape", "'point' has no area"),
        ({**POLYGON, "shape_type": "linestrip"}, "unknown shape", "'linestrip' has no area"),
        ({**POLYGON, "shape_type": "star"}, "unknown shape", "'star' is not known"),
        ({**POLYGON, "points": [[1, 2], [3, 4]]}, "bad polygon", "at least 3 points"),
        ({**POLYGON, "points": [[1, 2], [3]]}, "bad polygon", "points .x, y. of finite numbers"),
        ({**RECTANGLE, "points": [[1, 2]]}, "bad polygon", "a rectangle has 2 points, got 1"),
        (
            {**RECTANGLE, "shape_type": "circle", "points": [[4, 5]] * 2},
            "bad polygon",
            "have a radius",
        ),
        ({**MASK, "mask": "no base64!"}, "bad mask", "must be a PNG in base64"),
        ({**MASK, "mask": "aGFsbG8="}, "not a picture", "cannot be decoded"),
        ({**MASK, "points": [[28, 3], [36, 8]]}, "mask outside", "leaves the picture"),
        ({"points": []}, "malformed entry", "'label' is missing"),
        ("cat", "malformed entry", "must be an object"),
    ],
)
def test_a_faulty_shape_is_named_and_left_out_alone(tmp_path, shape, kind, message):
    source = write(tmp_path, [POLYGON, shape, RECTANGLE])
    with pytest.raises(DatasetError, match=message) as error:
        load_dataset(source)
    (fault,) = error.value.faults
    assert (fault.kind, fault.image_id, fault.annotation_id) == (kind, 1, 2)
    assert fault.file == str(source / "a.json") and "shapes[1]" in fault.message
    kept = all_instances(load_dataset(source, on_error="skip"))
    assert [instance.annotation_id for instance in kept] == [1, 3]


def test_a_faulty_part_of_a_group_is_named(tmp_path):
    line = {**POLYGON, "points": [[1, 2], [3, 4]], "group_id": 4}
    source = write(tmp_path, [RECTANGLE, {**MASK, "group_id": 4}, line])
    with pytest.raises(DatasetError, match=r"shapes\[1\]: .*at least 3 points.*image id 1"):
        load_dataset(source)
    (kept,) = all_instances(load_dataset(source, on_error="skip"))
    assert kept.box == (20, 4, 25, 9)


def test_faulty_files_are_named(tmp_path):
    source = write(tmp_path, [POLYGON])
    (source / "b.json").write_text('{"shapes": [')
    (source / "c.json").write_text('{"imagePath": "c.png", "shapes": 3, "imageHeight": 3}')
    with pytest.raises(DatasetError) as error:
        load_dataset(source)
    found = [(fault.kind, fault.file, fault.image_id) for fault in error.value.faults]
    assert found[0] == ("malformed json", str(source / "b.json"), 2)
    assert found[1][2] == 3 and found[1][1] == str(source / "c.json")
