"""The notebooks: each runs from a clean kernel, quickly; what is kept in them was run in full, and is good."""

import functools
import json
import re
import shutil
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="pip install '.[dev]' brings what runs notebooks")
import run_notebooks  # noqa: E402  it needs nbformat

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in ROOT.glob("notebooks/*.ipynb"))
NEEDS = {"04_serving": "02_your_own_dataset"}  # it serves the model that the other one saved
MOST_BYTES = 600_000
# /home, C:\Users and their like; not /v1/models or ../../shared
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(home|root|tmp|work|Users|usr|opt|var|mnt)/|[A-Z]:\\\\")

# What a notebook's text says of its result, and bounds that a notebook which was run in full keeps.
KEPT_RESULTS = {
    "01_quickstart": (r"mask AP50 ([\d.]+)", 0.75),
    "02_your_own_dataset": (r"mask AP50 ([\d.]+)", 0.6),
    "03_inside_the_model": (r"after learning: .*\[([\d.]+)", 0.7),
    "05_keypoints": (r"keypoint AP50 ([\d.]+)", 0.65),
}


def kept(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    return "".join(o.text for o in outputs(notebook) if o.get("name") == "stdout")


def losses(notebook):
    """The loss of each epoch that a notebook told of."""
    text = printed(notebook)
    pairs = re.findall(r"^loss ([\d.]+) -> ([\d.]+)", text, re.M)
    return [float(value) for value in (pairs[0] if pairs else re.findall(r"loss ([\d.]+)", text))]


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KMASKRCNN_NOTEBOOK_QUICK", "1")
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Runs a notebook, once."""
    folder = copy_notebooks(tmp_path_factory.mktemp("notebooks_run"))
    if (ROOT.parent / "shared").exists():
        (folder.parents[1] / "shared").symlink_to((ROOT.parent / "shared").resolve())

    @functools.cache
    def run(name):
        if name in NEEDS:
            run(NEEDS[name])
        return run_notebooks.execute(folder / f"{name}.ipynb")

    return run


def copy_notebooks(folder):
    """The notebooks in a folder of their own, so that what they write stays out of the source tree."""
    copies = folder / "repository" / "notebooks"
    copies.mkdir(parents=True)
    for name in NAMES:
        shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", copies)
    return copies


@pytest.mark.parametrize("name", NAMES)
def test_runs_from_the_first_cell_to_the_last(executed, name):
    """A cell that fails raises, and says where."""
    notebook = executed(name)
    assert [cell.execution_count for cell in code_cells(notebook)] == [
        number for number, _ in enumerate(code_cells(notebook), start=1)
    ]
    assert count_pictures(notebook) == count_pictures(kept(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NEEDS])
def test_what_is_trained_learns(executed, name):
    """Even in the few steps of a quick run."""
    first, *_, last = losses(executed(name))
    assert 0 < last < first


@pytest.mark.slow
@pytest.mark.parametrize("name", ["02_your_own_dataset", "03_inside_the_model"])
def test_runs_without_the_real_pictures(tmp_path, name):
    notebook = run_notebooks.execute(copy_notebooks(tmp_path) / f"{name}.ipynb")
    assert "is not there" in printed(notebook)
    assert count_pictures(notebook) == count_pictures(kept(name))


def count_pictures(notebook):
    data = [output.get("data", {}) for output in outputs(notebook)]
    return sum(any(kind.startswith("image/") for kind in of_output) for of_output in data)


@pytest.mark.parametrize("name", NAMES)
def test_kept_outputs_are_those_of_one_whole_run(name):
    cells = code_cells(kept(name))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert count_pictures(kept(name)) >= 1
    kinds = {(output.output_type, output.get("name")) for output in outputs(kept(name))}
    assert ("error", None) not in kinds and ("stream", "stderr") not in kinds
    assert (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_is_kept(name):
    notebook = kept(name)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            for kind in [kind for kind in output.get("data", {}) if kind.startswith("image/")]:
                del output.data[kind]  # base64 may say anything
    assert not MACHINE_PATH.search(json.dumps(notebook))


@pytest.mark.parametrize("path", ["/home/me/a.png", "(/tmp/x)", "'/work/y'", "C:\\Users\\me"])
def test_the_search_for_paths_finds_them(path):
    assert MACHINE_PATH.search(json.dumps(path))
    assert not MACHINE_PATH.search(json.dumps("../../shared/data http://a.b/tmp/c /v1/models/x"))


@pytest.mark.parametrize("name", KEPT_RESULTS)
def test_kept_result_is_good(name):
    pattern, bound = KEPT_RESULTS[name]
    assert float(re.findall(pattern, printed(kept(name)))[-1]) >= bound


@pytest.mark.parametrize("name", NAMES)
def test_each_notebook_is_listed(name):
    assert f"({name}.ipynb)" in (ROOT / "notebooks/README.md").read_text()


def test_tidy_leaves_no_log_lines_and_no_times():
    stream = "I0000 00:00:17.3  1 cudart_stub.cc:31] no GPU\nUserWarning: look\n"
    cell = nbformat.v4.new_code_cell("1")
    cell.metadata["execution"] = {"iopub.execute_input": "2026"}
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text=stream.splitlines(True)[0]),
        nbformat.v4.new_output("stream", name="stderr", text=stream),
        nbformat.v4.new_output("display_data", data={"text/plain": "x"}),
    ]
    notebook = run_notebooks.tidy(nbformat.v4.new_notebook(cells=[cell]))
    assert [o.output_type for o in notebook.cells[0].outputs] == ["stream", "display_data"]
    assert notebook.cells[0].outputs[0].text == "UserWarning: look"
    assert not notebook.cells[0].metadata
