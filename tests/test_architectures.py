"""docs/architectures.md says what the specs say, and its commands are understood."""

from __future__ import annotations

import pytest

from library.families import registry
from library.flags import parse
from tools import architectures


def test_the_page_is_made_from_the_specs():
    assert architectures.PAGE.read_text(encoding="utf-8") == architectures.page(), "python tools/architectures.py"


@pytest.mark.parametrize("name", registry.names())
def test_the_command_of_each_architecture_is_understood_and_its_files_are_options(name: str) -> None:
    family = registry.get(name)
    _, script, *argv = architectures.command(family)
    flags = parse(argv, script)
    assert not [note for note in flags.notes if note.severity != "note"]
    for option in architectures.files_of(family):
        assert flags[option] == f"{option}.safetensors"
