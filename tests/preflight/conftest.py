from pathlib import Path

import pytest

from .world import SD1, World, write_folder, write_safetensors


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A folder with a model, twelve captioned pictures and nothing wrong."""
    made = World(tmp_path)
    write_safetensors(made.model, SD1)
    write_folder(made.data, "10_zob")
    return made
