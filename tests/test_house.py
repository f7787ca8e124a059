"""The floors of the house (docs/architecture.md), read from the imports."""

import ast
import functools
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "kmaskrcnn"
FLOORS = {
    "cli": 8,
    "cli_training": 7.8,
    "cli_datasets": 7.5,
    "cli_output": 7,
    "training": 7,
    "serving": 6,
    "model": 5,
    "branches": 4,
    "components": 3.5,
    "freezing": 3.5,
    "objective": 2,
    "export": 4,
    "layers": 3,
    "data": 3,
    "weights": 3,
    "evaluation": 3,
    "visualize": 3,
    "kernels": 2,
    "average_precision": 2,
    "lvis_precision": 2.5,
    "cityscapes_precision": 2,
    "evaluation_case": 1,
    "precision_curves": 1,
    "overlaps": 1,
    "coco_format": 1,
    "config": 1,
    "config_checks": 0,
    "config_dicts": 0.5,
    "losses": 1,
    "detections": 1,
    "geometry": 0.5,
    "allocation": 0,
    "backends": 0,
    "version": 0,
}


def imports_of(path):
    """The modules of this package that a file imports, as tuples of parts below `kmaskrcnn`."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [
                (
                    name
                    if (PACKAGE.parent / Path(*name.split("."))).with_suffix(".py").exists()
                    else node.module
                )
                for name in submodules
            ]
        for name in names:
            if name.split(".")[0] == "kmaskrcnn" and "." in name:
                yield tuple(name.split(".")[1:])


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts not in (("__init__",), ("__main__",)):
            yield path, parts


def test_every_module_has_a_floor():
    assert {parts[0] for _, parts in modules()} <= set(FLOORS)


def test_imports_go_down_only():
    wrong = []
    for path, parts in modules():
        for imported in imports_of(path):
            same_room = imported[0] == parts[0]
            if not same_room and FLOORS[imported[0]] >= FLOORS[parts[0]]:
                wrong.append(f"{'.'.join(parts)} imports {'.'.join(imported)}")
    assert not wrong, wrong


def test_the_check_sees_an_import_that_goes_up(tmp_path):
    bad = tmp_path / "bad.py"
    bad.write_text(
        "from kmaskrcnn.layers import fpn\nimport kmaskrcnn.cli\nfrom kmaskrcnn.config import Recipe\n"
    )
    assert set(imports_of(bad)) == {("layers", "fpn"), ("cli",), ("config",)}


def test_rooms_have_no_circles():
    """Within a room, too, a file may not import one that imports it back."""
    graph = {parts: {i for i in imports_of(path) if i[0] == parts[0]} for path, parts in modules()}

    def reaches(start, goal, seen=()):
        return any(
            n == goal or (n not in seen and reaches(n, goal, (*seen, n)))
            for n in graph.get(start, ())
        )

    assert not [parts for parts in graph if reaches(parts, parts)]


def test_importing_has_no_side_effects(tmp_path):
    """No file is written, no line printed, no TensorFlow device or thread pool set up, no seed drawn."""
    code = (
        "import keras, numpy, random; before = random.getstate(), numpy.random.get_state()[1].tolist();"
        "import kmaskrcnn;"
        "assert (random.getstate(), numpy.random.get_state()[1].tolist()) == before;"
        "from tensorflow.python.eager import context; assert not context.context()._initialized"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert not run.stdout and not list(tmp_path.iterdir())


def test_the_wheel_is_pure_python(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("kmaskrcnn", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        path = PACKAGE.parent / name
        ignore = shutil.ignore_patterns("__pycache__")
        copy = functools.partial(shutil.copytree, ignore=ignore) if path.is_dir() else shutil.copy
        copy(path, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
    ]
    run = subprocess.run([*command, str(source)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "kmaskrcnn/layers/roi_align.py" in names
    assert "kmaskrcnn/kernels/roi_align_cpu.cc" in names  # compiled on demand
    assert not [name for name in names if name.endswith(".so") or name.startswith("tests")]
