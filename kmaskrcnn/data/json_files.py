"""Reads json files, untrusted."""

import json
from pathlib import Path

from kmaskrcnn.data.entries import entry_value
from kmaskrcnn.data.faults import DatasetError, Fault, Rejected


def read_json(path):
    """The content of a json file.

    Raises:
        DatasetError: if the file cannot be read or is no json; it names the file.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        fault = Fault("missing file", f"cannot read the json: {error.strerror}", str(path))
        raise DatasetError([fault]) from error
    except (ValueError, RecursionError) as error:
        raise DatasetError([Fault("malformed json", str(error), str(path))]) from error


def read_coco_json(json_path):
    """The content of a COCO json that has its three lists.

    Raises:
        DatasetError: if it cannot be read, is no json, or lacks a list.
    """
    document = read_json(json_path)
    faults = []
    for key in ("images", "annotations", "categories"):
        try:
            entry_value(document, key, list, "a list")
        except Rejected as rejected:
            faults.append(Fault("malformed json", str(rejected), str(json_path)))
    if faults:
        raise DatasetError(faults, "`kmaskrcnn convert-data` makes a COCO json of other formats.")
    return document


def refuse_overwriting(source, output):
    """Raises before a json takes the place of what it is made from.

    Args:
        source: path of the file or folder that is read.
        output: path of the json to write.

    Raises:
        ValueError: if `output` is the source, or is there already within its folder.
    """
    output = Path(output).resolve()
    if output.exists() and Path(source).resolve() in (output, *output.parents):
        raise ValueError(
            f"output: {output} would be overwritten and belongs to {source}, the source"
        )
