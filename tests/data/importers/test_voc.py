"""Pascal VOC: masks named by their boxes, void left out, and faults by name."""

import numpy as np
import pytest
from import_checks import all_instances, check_round_trip, mask_of, write_picture
from PIL import Image

from kmaskrcnn.data.faults import DatasetError
from kmaskrcnn.data.formats import load_dataset

# VOC counts pixels from 1, the last one included: columns 3 to 12 are xmin 4, xmax 13.
CAT = ("cat", (4, 3, 13, 9), 0)
DOG = ("dog", (15, 5, 24, 16), 0)
HARD = ("bird", (26, 1, 30, 6), 1)
CLASS_PLACES = {"cat": 8, "dog": 12, "bird": 3}  # in VOC's list, from 1


def write(folder, objects=(CAT, DOG), ids=None, classes=None, stem="2007_000032"):
    root = folder / "VOC2012"
    write_picture(root / "JPEGImages" / f"{stem}.jpg")
    (root / "Annotations").mkdir(exist_ok=True)
    text = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox>"
        + "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
        + "</bndbox></object>"
        for name, box, hard in objects
    )
    (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{text}</annotation>")
    for name, pixels in (("SegmentationObject", ids), ("SegmentationClass", classes)):
        if pixels is not None:
            (root / name).mkdir(exist_ok=True)
            picture = Image.fromarray(pixels)
            picture.putpalette([value for i in range(256) for value in (i, 99, 7)])
            picture.save(root / name / f"{stem}.png")
    return root


def painted():
    """Objects 1 (dog) and 2 (cat), not in the XML's order, each in an outline of void."""
    ids, classes = np.zeros((2, 20, 30), np.uint8)
    for value, (name, (x1, y1, x2, y2), _) in ((1, DOG), (2, CAT)):
        for pixels, inner in ((ids, value), (classes, CLASS_PLACES[name])):
            pixels[y1 - 1 : y2, x1 - 1 : x2] = 255
            pixels[y1 : y2 - 1, x1 : x2 - 1] = inner
    return ids, classes


def test_masks_take_their_boxes_names(tmp_path):
    ids, classes = painted()
    source = write(tmp_path, [CAT, DOG, HARD], ids, classes)
    records = check_round_trip(source, source / "JPEGImages", tmp_path)
    assert records.class_names == ("bird", "cat", "dog")
    dog, cat, bird = all_instances(records)
    assert (mask_of(dog) == (ids == 1)).all() and (mask_of(cat) == (ids == 2)).all()
    assert [instance.label for instance in (dog, cat, bird)] == [2, 1, 0]
    assert cat.box == (4, 3, 12, 8), "the mask's box, within the outline"
    assert [instance.is_crowd for instance in (dog, cat, bird)] == [False, False, True]
    assert bird.box == (25, 0, 30, 6) and mask_of(bird)[:6, 25:].all() and bird.area == 30


def test_without_xml_the_class_picture_names(tmp_path):
    source = write(tmp_path, [], *painted())
    assert load_dataset(source).class_names == ("cat", "dog")


def test_without_masks_there_are_boxes(tmp_path):
    records = load_dataset(write(tmp_path, [CAT, HARD]))
    bird, cat = sorted(all_instances(records), key=lambda instance: instance.label)
    assert cat.segmentation is None and cat.box == (3, 2, 13, 9) and bird.is_crowd


def test_faulty_objects_are_named(tmp_path):
    ids, classes = painted()
    ids[18:, 1:3] = 9  # no box, and no class either
    bare = ("sofa", (1, 12, 9, 15), 0)
    source = write(tmp_path, [CAT, DOG, bare, ("", (1, 1, 2, 2), 0), ("x", ("a", 1, 2, 3), 0)])
    write(tmp_path, [CAT, ("cow", *DOG[1:]), bare, ("", (1, 1, 2, 2), 0)], ids, classes)
    with pytest.raises(DatasetError) as error:
        load_dataset(source)
    found = {fault.kind: fault.message for fault in error.value.faults}
    assert "the box says 'cow', the class picture says 'dog'" in found["contradiction"]
    assert "object 9 of 2007_000032.png" in found["no class"]
    assert "the 'sofa' at (0.0, 11.0, 9.0, 15.0) has a box and no mask" in found["no mask"]
    assert "<name> is missing" in found["malformed entry"]
    assert {fault.image_id for fault in error.value.faults} == {1}
    assert all(fault.annotation_id for fault in error.value.faults)
    (cat,) = all_instances(load_dataset(source, on_error="skip"))
    assert (mask_of(cat) == (ids == 2)).all()


def test_faulty_files_are_named(tmp_path):
    source = write(tmp_path, [CAT])
    (source / "Annotations" / "2007_000033.xml").write_text("<annotation>")
    bomb = '<!DOCTYPE a [<!ENTITY b "bb">]><annotation>&b;</annotation>'
    (source / "Annotations" / "2007_000032.xml").write_text(bomb)
    with pytest.raises(DatasetError) as error:
        load_dataset(source)
    entities, missing, *_ = error.value.faults
    assert "declares entities" in entities.message and entities.image_id == 1
    assert missing.kind == "missing file" and missing.image_id == 2
