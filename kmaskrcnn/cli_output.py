"""What the commands write: text for a person, and files of numbers."""

import json
import sys
from pathlib import Path


def show(text):
    """Write a command's result to stdout."""
    sys.stdout.write(f"{text}\n")


def counted(number, noun):
    """`"1 picture"`, `"2 pictures"`, `"3 classes"`."""
    ending = "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending * (number != 1)}"


def write_json(path, values):
    """Write numbers as JSON, making the folder if need be."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values, indent=2))
