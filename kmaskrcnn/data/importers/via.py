"""VGG Image Annotator, versions 1 and 2: a project, or the json that "export annotations" writes.

    {"_via_img_metadata": {key: PICTURE}} or {key: PICTURE}
    PICTURE: {"filename": "a.jpg", "regions": [REGION] or {"0": REGION}}
    REGION: {"shape_attributes": {"name": "polygon", ...}, "region_attributes": {"class": "cat"}}

A polyline is taken for the polygon that closes it; a point has no area and is refused. Pictures'
sizes are read from their files.

Reference:
    Dutta and Zisserman, "The VIA Annotation Software for Images, Audio and Video" (2019).
"""

from collections import Counter
from functools import partial
from pathlib import Path

from kmaskrcnn.data.entries import entry_number, entry_value, is_number
from kmaskrcnn.data.faults import DatasetError, Fault, Rejected
from kmaskrcnn.data.importers.assembly import (
    SourceObject,
    SourcePicture,
    assemble,
    read_each,
    read_pictures,
)
from kmaskrcnn.data.json_files import read_json
from kmaskrcnn.data.pictures import picture_size
from kmaskrcnn.geometry.outlines import circle, ellipse, rectangle

# Of several attributes the first of these is the class.
CLASS_ATTRIBUTES = ("class", "label", "category", "name", "type", "object")
ONLY_CLASS = "object"  # where no region has an attribute


def read_via(source, image_dir, class_attribute=None):
    """Reads a VIA json.

    Args:
        source: path of the json.
        image_dir: path of the folder of pictures.
        class_attribute: str, the region attribute that names the class; by default the only one
            there is, or the first of "class", "label", "category", "name", "type", "object". Without
            any attribute all regions are of one class, "object".

    Returns:
        `Document`.

    Raises:
        DatasetError: if the json cannot be read or the class attribute cannot be told.
    """
    entries = _read_entries(source)
    attribute = class_attribute or _find_attribute(entries.values(), source)
    items = [(Path(image_dir) / entry["filename"], entry) for entry in entries.values()]
    read = partial(_read_picture, source=str(source), attribute=attribute)
    return assemble(read_pictures(items, read), source)


def _read_entries(source):
    document = read_json(source)
    if isinstance(document, dict):
        document = document.get("_via_img_metadata", document)
    is_via = isinstance(document, dict) and all(
        isinstance(entry, dict) and isinstance(entry.get("filename"), str)
        for entry in document.values()
    )
    if not is_via:
        message = "a VIA json must be an object of pictures, each with its 'filename'"
        raise DatasetError([Fault("malformed json", message, str(source))])
    return document


def _find_attribute(entries, source):
    """The name of the region attribute that holds the class, `None` where there are none."""
    counts = Counter(
        name
        for entry in entries
        for region in _regions(entry).values()
        if isinstance(region, dict) and isinstance(region.get("region_attributes"), dict)
        for name in region["region_attributes"]
    )
    known = [name for name in CLASS_ATTRIBUTES if name in counts]
    if len(counts) > 1 and not known:
        message = f"regions have the attributes {sorted(counts)}: say which is the class"
        raise DatasetError(
            [
                Fault(
                    "no class",
                    f"{message}: class_attribute=, or `convert-data --class-attribute`",
                    str(source),
                )
            ]
        )
    return known[0] if known else next(iter(counts), None)


def _regions(entry):
    """`{place: region}`, of version 1's object or version 2's list."""
    regions = entry.get("regions") or {}
    if not isinstance(regions, (list, dict)):
        return {"regions": regions}
    named = regions if isinstance(regions, dict) else dict(enumerate(regions))
    return {f"regions[{place}]": region for place, region in named.items()}


def _read_picture(path, entry, source, attribute):
    objects = read_each(_regions(entry), partial(_read_region, attribute=attribute))
    return SourcePicture(entry["filename"], *picture_size(path), objects, source)


def _read_region(region, attribute):
    shape = entry_value(region, "shape_attributes", dict, "an object")
    name = entry_value(shape, "name", str, f"one of {sorted(OUTLINES)}")
    if name not in OUTLINES:
        reason = "has no area to be a mask" if name in ("point", "line") else "is not known"
        accepted = f"accepted are {sorted(OUTLINES)}"
        raise Rejected("unknown shape", f"a {name!r} {reason}; {accepted}")
    return SourceObject(_class_name(region, attribute), [OUTLINES[name](shape)])


def _class_name(region, attribute):
    if attribute is None:
        return ONLY_CLASS
    attributes = entry_value(region, "region_attributes", dict, "an object")
    value = attributes.get(attribute)
    if isinstance(value, dict):  # a checkbox holds its options
        chosen = [option for option, is_on in value.items() if is_on]
        value = chosen[0] if len(chosen) == 1 else None
    if not isinstance(value, str) or not value.strip():
        found = f"got {attributes.get(attribute)!r}"
        raise Rejected("no class", f"the attribute {attribute!r} must name one class, {found}")
    return value.strip()


def _polygon(shape):
    xs, ys = (entry_value(shape, f"all_points_{axis}", list, "a list") for axis in "xy")
    if len(xs) != len(ys) or not all(is_number(value) for value in (*xs, *ys)):
        raise Rejected(
            "bad polygon", f"as many finite x as y are wanted, got {len(xs)} and {len(ys)}"
        )
    return [value for point in zip(xs, ys) for value in point]


def _rectangle(shape):
    x, y = entry_number(shape, "x"), entry_number(shape, "y")
    return rectangle(
        x, y, x + entry_number(shape, "width", 0), y + entry_number(shape, "height", 0)
    )


def _circle(shape):
    return circle(*_centre(shape), entry_number(shape, "r", 0))


def _ellipse(shape):
    angle = entry_number(shape, "theta") if "theta" in shape else 0.0
    radii = entry_number(shape, "rx", 0), entry_number(shape, "ry", 0)
    return ellipse(*_centre(shape), *radii, angle)


def _centre(shape):
    return entry_number(shape, "cx"), entry_number(shape, "cy")


OUTLINES = {
    "polygon": _polygon,
    "polyline": _polygon,
    "rect": _rectangle,
    "circle": _circle,
    "ellipse": _ellipse,
}
