"""Every training command of the documentation, run where its paths exist on an RTX 3060, meets neither stop nor warning."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from library.config.resolve import Detected, resolve
from library.config.toml_file import read_command
from library.data.plan import ScanRules
from library.data.scan import scan
from library.preflight.machine import Machine
from library.preflight.registry import context_of, later, run
from tests.test_docs import BLOCK, PAGES, ROOT

from .cases import state
from .world import SD1, World, write_folder, write_picture, write_safetensors

COMMAND = re.compile(r"(?:accelerate launch|python) (?:--\S+ )*(\w*train_network\.py) (--[^`]*)")
MADE = {"start-up-checks.md", "flags.md"}
"""Pages made from declarations; they hold no examples."""


def commands() -> Iterator[Any]:
    for page in PAGES:
        text = "" if page.name in MADE else page.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            found = COMMAND.search(line)
            if found and "..." not in line:
                yield pytest.param(found[1], shlex.split(found[2]), page, id=f"{page.name}-{number}")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds whatever the pages' commands name."""
    for model in ("model.safetensors", "models/base.safetensors"):
        write_safetensors(tmp_path / model, SD1)
    for folder in ("train/10_mychar", "reg/1_girl", "dataset/lineart/1", "eyes_large", "eyes_small"):
        made = write_folder(tmp_path, folder, 6, first="mychar")
        for picture in made.glob("*.png"):
            write_picture(picture, (512, 640))
    state(World(tmp_path)).rename(tmp_path / "out" / "mychar-000003-state")
    shutil.copytree(ROOT / "examples", tmp_path / "examples", ignore=shutil.ignore_patterns("*.py"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_hold_several_commands() -> None:
    assert len(list(commands())) >= 8


@pytest.mark.parametrize(("script", "words", "page"), list(commands()))
def test_a_command_of_the_documentation_meets_no_warning(place: Path, script: str, words: list[str], page: Path) -> None:
    described = [text for _, text in BLOCK.findall(page.read_text(encoding="utf-8")) if "slider_strength" in text]
    if "--dataset_config=slider.toml" in words:
        (place / "slider.toml").write_text(described[0], encoding="utf-8")
    flags = read_command(words, script)
    config = resolve(flags, lambda source, flags: Detected("sd1"))
    plan = scan(config.data, ScanRules())
    context = replace(later(context_of(flags, Machine.fake()), config, plan), cwd=place)
    found = run(context, ("words", "files", "data", "machine"))
    assert [p for p in [*found, *plan.problems] if p.severity != "note"] == []
