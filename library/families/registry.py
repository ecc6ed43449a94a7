"""All families by name. Importing this costs nothing; a family's module is imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from library.families.interface import Family, FamilySpec
from library.util.records import Problem, UserError
from library.util.said import say

MODULES = {
    "sd1": "library.families.sd1",
    "sdxl": "library.families.sdxl",
    "flux1": "library.families.flux1",
    "chroma": "library.families.chroma",
    "sd3": "library.families.sd3",
    "zimage": "library.families.zimage",
    "lumina2": "library.families.lumina2",
    "qwenimage": "library.families.qwenimage",
    "flux2": "library.families.flux2",
    "hunyuanimage": "library.families.hunyuanimage",
    "anima": "library.families.anima",
    "wan": "library.families.wan",
    "wan5b": "library.families.wan5b",
    "auraflow": "library.families.auraflow",
}
"""Name -> module, in the order in which detection asks them."""


def names() -> tuple[str, ...]:
    """Names of all families."""
    return tuple(MODULES)


def get(name: str) -> Family:
    """The family's module. Raises UserError with the near names where there is none of that name."""
    if name not in MODULES:
        near = difflib.get_close_matches(name, MODULES, 3, 0.4) or list(MODULES)
        raise UserError(
            Problem("--family", say("No architecture is called {name!r}.", name=name), say("Did you mean {near}?", near=near))
        )
    return cast(Family, importlib.import_module(MODULES[name]))


def specs() -> tuple[FamilySpec, ...]:
    """The specs of all families; torch is not imported."""
    return tuple(get(name).SPEC for name in MODULES)


def by_script(script: str) -> Family | None:
    """The family that an entry script (``sdxl_train_network.py``) leads to; None where it is open to all."""
    stem = script.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".py")
    for name in MODULES:
        if any(s.removesuffix(".py") == stem for s in get(name).SPEC.scripts):
            return get(name)
    return None


def make_options(family: Family, values: Mapping[str, Any]) -> Any:
    """The family's options from values by flag name; names that are not among its options are left out."""
    known = {f.name for f in fields(family.Options)}
    return family.Options(**{k: v for k, v in values.items() if k in known and v is not None})
