"""VIA 1 and 2: every shape's pixels, the class from attributes, and faults by name."""

import json
import math

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

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset

XS, YS = [x for x, _ in NOTCHED], [y for _, y in NOTCHED]
POLYGON = {"name": "polygon", "all_points_x": XS, "all_points_y": YS}
RECT = {"name": "rect", "x": 4, "y": 5, "width": 7, "height": 3}
CIRCLE = {"name": "circle", "cx": 14.5, "cy": 9.5, "r": 6.2}
ELLIPSE = {"name": "ellipse", "cx": 15, "cy": 10, "rx": 9, "ry": 4, "theta": 0.5}


def region(shape, attributes=None):
    return {
        "shape_attributes": shape,
        "region_attributes": {"class": "cat"} if attributes is None else attributes,
    }


def write(folder, regions, project=False, name="via.json"):
    write_picture(folder / "images" / "a.png")
    metadata = {"a.png123": {"filename": "a.png", "size": 123, "regions": regions}}
    content = {"_via_settings": {}, "_via_img_metadata": metadata} if project else metadata
    (folder / name).write_text(json.dumps(content))
    return folder / name, folder / "images"


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_versions(tmp_path, version, project):
    regions = [region(POLYGON), region(RECT, {"class": "dog"})]
    regions = (
        {str(place): entry for place, entry in enumerate(regions)} if version == 1 else regions
    )
    records = check_round_trip(*write(tmp_path, regions, project), tmp_path)
    assert records.class_names == ("cat", "dog") and records.images[0].path.endswith("a.png")
    notched, square = all_instances(records)
    assert (mask_of(notched) == inside(NOTCHED)).all() and notched.area == 90
    assert notched.box == (3, 2, 15, 12) and (notched.label, square.label) == (0, 1)
    wanted = np.zeros((20, 30), bool)
    wanted[5:8, 4:11] = True
    assert (mask_of(square) == wanted).all() and square.box == (4, 5, 11, 8)


def test_a_polyline_is_closed(tmp_path):
    records = load_dataset(*write(tmp_path, [region({**POLYGON, "name": "polyline"})]))
    assert (mask_of(*all_instances(records)) == inside(NOTCHED)).all()


@pytest.mark.parametrize("shape", [CIRCLE, ELLIPSE, {**ELLIPSE, "theta": 0}])
def test_curves(tmp_path, shape):
    """Pixels count that lie off the outline by more than rasterisers differ."""
    (found,) = all_instances(load_dataset(*write(tmp_path, [region(shape)])))
    y, x = np.mgrid[:20, :30] + 0.5
    dx, dy = x - shape["cx"], y - shape["cy"]
    angle = shape.get("theta", 0)
    along = dx * math.cos(angle) + dy * math.sin(angle)
    across = dy * math.cos(angle) - dx * math.sin(angle)
    rx, ry = shape.get("rx", shape.get("r")), shape.get("ry", shape.get("r"))
    surely_in = (along / (rx - 0.75)) ** 2 + (across / (ry - 0.75)) ** 2 < 1
    surely_out = (along / (rx + 0.75)) ** 2 + (across / (ry + 0.75)) ** 2 > 1
    mask = mask_of(found)
    assert mask[surely_in].all() and not mask[surely_out].any() and surely_in.sum() > 50
    assert found.area == pytest.approx(math.pi * rx * ry, rel=0.05)


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ([{}, {}], ("object",)),
        ([{"kind": "b"}, {"kind": "a"}], ("a", "b")),
        ([{"colour": "red", "label": "cat"}, {"label": "dog"}], ("cat", "dog")),
        ([{"type": {"cat": True, "dog": False}}, {"type": "dog"}], ("cat", "dog")),
    ],
)
def test_the_class_is_an_attribute(tmp_path, attributes, names):
    regions = [region(RECT, each) for each in attributes]
    assert load_dataset(*write(tmp_path, regions)).class_names == names


def test_of_several_attributes_one_is_named(tmp_path):
    paths = write(tmp_path, [region(RECT, {"colour": "red", "breed": "pug"})])
    with pytest.raises(DatasetError, match="attributes .'breed', 'colour'.: say which.*via.json"):
        load_dataset(*paths)
    options = {"reader_options": {"class_attribute": "breed"}}
    assert load_dataset(*paths, **options).class_names == ("pug",)
    with pytest.raises(ValueError, match="'via' takes .'class_attribute'., got .'class'"):
        load_dataset(*paths, reader_options={"class": "breed"})


@pytest.mark.parametrize(
    ("entry", "kind", "message"),
    [
        (region({"name": "point", "cx": 3, "cy": 4}), "unknown shape", "'point' has no area"),
        (region({"name": "blob"}), "unknown shape", "'blob' is not known; accepted are"),
        (region({**POLYGON, "all_points_x": [1, 2]}), "bad polygon", "got 2 and 6"),
        (region({**POLYGON, "all_points_x": None}), "malformed entry", "'all_points_x' must be"),
        (
            region({**RECT, "width": 0}),
            "malformed entry",
            "'width' must be a finite number above 0",
        ),
        (region({**CIRCLE, "r": -2}), "malformed entry", "'r' must be"),
        (region({**CIRCLE, "r": 1e200}), "bad polygon", "finite"),
        (region({**CIRCLE, "cx": 200}), "polygon outside", "outside"),
        (region(RECT, {}), "no class|malformed", "'class' must name one class, got None"),
        (region(RECT, {"class": {"cat": True, "dog": True}}), "no class", "must name one class"),
        ({"region_attributes": {}}, "malformed entry", "'shape_attributes' is missing"),
        (3, "malformed entry", "must be an object, got 3"),
    ],
)
def test_a_faulty_region_is_named_and_left_out_alone(tmp_path, entry, kind, message):
    paths = write(tmp_path, [region(RECT), entry, region(POLYGON)])
    with pytest.raises(DatasetError, match=message) as error:
        load_dataset(*paths)
    (fault,) = error.value.faults
    assert fault.kind in kind and (fault.image_id, fault.annotation_id) == (1, 2)
    assert fault.file == str(paths[0])
    kept = load_dataset(*paths, on_error="skip")
    assert [i.annotation_id for i in all_instances(kept)] == [1, 3]


def test_faulty_files_are_named(tmp_path):
    source, images = write(tmp_path, [region(RECT)])
    content = json.loads(source.read_text())
    content |= {"b": {"filename": "b.png", "regions": []}, "c": content["a.png123"]}
    source.write_text(json.dumps(content))
    with pytest.raises(DatasetError) as error:
        load_dataset(source, images)
    missing, twice = error.value.faults
    assert missing.kind == "missing file" and missing.file == str(images / "b.png")
    assert twice.kind == "duplicate picture" and twice.image_id == 3
    for text in ("[]", '{"a": {"regions": []}}', "{"):
        source.write_text(text)
        with pytest.raises(DatasetError, match="malformed json.*via.json"):
            load_dataset(source, images, format="via")
