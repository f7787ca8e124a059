"""What is dear to make and shared by rooms: made once in a session."""

import os
import shutil

import pytest
from hypothesis import settings

# A deadline fails where the machine is busy, not where the code is wrong; tests of hanging set their own.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(scope="session", autouse=True)
def kernels_folder(tmp_path_factory):
    """A folder for built kernels that is not the user's: what they built changes no test."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("no_kernels")
        patch.setenv("KMASKRCNN_KERNELS", str(folder))
        yield folder


@pytest.fixture(scope="session")
def built_kernels(tmp_path_factory):
    """A folder with the kernels for CPUs, compiled in about 20 s."""
    from kmaskrcnn.kernels.builder import build_kernels

    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "c++"))):
        pytest.skip("there is no C++ compiler to build the kernels with")
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kernels")
        patch.setenv("KMASKRCNN_KERNELS", str(folder))
        build_kernels(cuda=False)
    return folder


@pytest.fixture
def kernels(built_kernels, monkeypatch):
    """Within a test that asks for it, the kernels are built."""
    monkeypatch.setenv("KMASKRCNN_KERNELS", str(built_kernels))


@pytest.fixture(scope="session")
def served_model():
    """A tiny model whose batch norms are not the identity."""
    from test_folding import shaken
    from tiny import tiny_model

    return shaken(tiny_model())


@pytest.fixture(scope="session")
def served_folder(served_model, tmp_path_factory):
    """Its SavedModel."""
    from kmaskrcnn.export.saved_model import export_saved_model

    return export_saved_model(served_model, tmp_path_factory.mktemp("served") / "tiny" / "1")
