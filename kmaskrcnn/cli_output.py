"""What the commands write: text for a person, and files of numbers."""

import json
import sys
from pathlib import Path


def show(text):
    """Write a command's result to stdout."""
    sys.stdout.write(f"{text}\n")


def write_json(path, values):
    """Write numbers as JSON, making the folder if need be."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(values, indent=2))
