"""docs/architectures.md says what the specs say, and its commands are understood."""

from __future__ import annotations

import pytest

from library.families import registry, released
from library.flags import parse
from library.preflight.estimate import GIB, gpu_memory
from library.preflight.machine import Machine
from library.preflight.registry import Context
from tools import architectures


def test_the_page_is_made_from_the_specs():
    assert architectures.PAGE.read_text(encoding="utf-8") == architectures.page(), "python tools/architectures.py"


@pytest.mark.parametrize("name", registry.names())
def test_the_command_fits_the_card_that_it_is_made_for(name: str) -> None:
    family = registry.get(name)
    _, script, *argv = architectures.command(family)
    argv = [word for word in argv if not word.endswith((".safetensors", ".pth"))]  # not here, so the published size counts
    context = Context(parse([*argv, "--pretrained_model_name_or_path=a/b"], script).values, Machine.fake(), script=script)
    assert gpu_memory(context) <= architectures.FULL * architectures.savers(family)[0] * GIB


@pytest.mark.parametrize("name", registry.names())
def test_the_command_of_each_architecture_is_understood_and_its_files_are_options(name: str) -> None:
    family = registry.get(name)
    _, script, *argv = architectures.command(family)
    flags = parse(argv, script)
    assert not [note for note in flags.notes if note.severity != "note"]
    places = released.of(name)[0].files
    assert places and all(flags[option] == place.rpartition("/")[2] for option, place in places.items())
    texts = family.RECIPE.texts if family.SPEC.target_space == "flow" else ()
    assert {text.option for text in texts} <= places.keys(), "the command names every text encoder's file"
