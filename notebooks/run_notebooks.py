"""Run notebooks from the first cell to the last, each in its own kernel, and keep what they show: `make notebooks`.

`python notebooks/run_notebooks.py notebooks/01_quickstart.ipynb`
"""

import argparse
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

# Lines of TensorFlow's C++ that no setting turns off: they tell of the machine, not of the notebook.
LOG_LINE = re.compile(
    r"WARNING: All log messages before absl|INFO:tensorflow:|[IWEF]\d{4} [\d:.]+ "
)
TIMEOUT = 3600  # seconds a cell


def execute(path, folder=None):
    """Run a notebook.

    Args:
        path: the `.ipynb` file.
        folder: where it runs; by default where it lies.

    Returns:
        The notebook with its new outputs; the file stays as it is.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed; its message has the cell and the traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(folder or Path(path).parent)}}
    NotebookClient(notebook, timeout=TIMEOUT, resources=resources).execute()
    return tidy(notebook)


def tidy(notebook):
    """Leave out what differs from run to run and machine to machine: times, and log lines of TensorFlow."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not LOG_LINE.match(line)).strip()
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("text", True)]
    notebook.metadata.language_info = {"name": "python"}  # not the version
    return notebook


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("notebooks", nargs="+", type=Path)
    for path in parser.parse_args().notebooks:
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main()
