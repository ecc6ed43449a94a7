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
from library.families.registry import by_script, get
from library.preflight.machine import GIB, Machine
from library.preflight.registry import context_of, later, run
from tests.test_docs import BLOCK, PAGES, ROOT

from .cases import card, state
from .world import SD1, World, write_folder, write_picture, write_safetensors

COMMAND = re.compile(r"(?:accelerate launch|python) (?:--\S+ )*(\w*train_(?:network|leco)\.py) (--[^`]*)")
MADE = {"start-up-checks.md", "flags.md"}
"""Pages made from declarations; they hold no examples."""


def commands() -> Iterator[Any]:
    for page in PAGES:
        text = "" if page.name in MADE else page.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            found = COMMAND.search(line)
            if found and "..." not in line:
                yield pytest.param(found[1], shlex.split(found[2]), page, id=f"{page.name}-{number}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds whatever the pages' commands name."""
    root = tmp_path_factory.mktemp("documented")
    for model in ("model.safetensors", "models/base.safetensors"):
        write_safetensors(root / model, SD1)
    for folder in ("train/10_mychar", "reg/1_girl", "dataset/lineart/1", "eyes_large", "eyes_small"):
        for picture in write_folder(root, folder, 6, first="mychar").glob("*.png"):
            write_picture(picture, (1536, 1920) if folder.startswith("train") else (512, 640))
    state(World(root)).rename(root / "out" / "mychar-000003-state")
    shutil.copytree(ROOT / "examples", root / "examples", ignore=shutil.ignore_patterns("*.py"))
    return root


@pytest.fixture
def place(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the current folder."""
    monkeypatch.chdir(prepared)
    return prepared


def test_the_pages_hold_several_commands() -> None:
    assert len(list(commands())) >= 8


def described_as(page: Path, word: str) -> list[str]:
    """Blocks of a page that show a file with this word in it."""
    return [text for _, text in BLOCK.findall(page.read_text(encoding="utf-8")) if word in text]


@pytest.mark.parametrize(("script", "words", "page"), list(commands()))
def test_a_command_of_the_documentation_meets_no_warning(place: Path, script: str, words: list[str], page: Path) -> None:
    shown = "[[targets]]" if "--prompts_file=slider.toml" in words else "slider_strength"
    described = described_as(page, shown)
    if any(word.endswith("=slider.toml") for word in words):
        (place / "slider.toml").write_text(described[0], encoding="utf-8")
    if "--prompts_file=prompts.yaml" in words:
        (place / "prompts.yaml").write_text(described_as(page, "unconditional")[0], encoding="utf-8")
    family = get("sd1") if script in ("train_network.py", "train_leco.py") else by_script(script)
    assert family is not None
    flags = read_command(words, script)
    config = resolve(flags, lambda source, flags: Detected(family.SPEC.name))
    plan = scan(config.data, ScanRules())
    model = Path(flags["pretrained_model_name_or_path"])
    if family is get("sd1") and model.suffix == ".safetensors" and not model.exists():
        write_safetensors(model, SD1)
    machine = Machine.fake() if page.name != "architectures.md" else Machine.fake(**card(total=24, free=24), memory_free=96 * GIB)
    context = replace(later(context_of(flags, machine), config, plan), cwd=place)
    levels = ("words", "files", "data", "machine") if family is get("sd1") else ("words", "data", "machine")
    found = run(context, levels)  # the model file here is of SD 1
    assert [p for p in [*found, *plan.problems] if p.severity != "note"] == []
