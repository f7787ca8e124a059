"""What is dear to make and shared by rooms: made once in a session."""

import pytest


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
