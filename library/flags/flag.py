"""What one flag is: its declaration, how it is served, and how typed text becomes its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

ServedKind = Literal["works", "otherwise", "stops", "family"]


@dataclass(frozen=True)
class Served:
    """What giving a flag does here.

    ``works``: what its help says. ``otherwise``: speed or memory only, accepted with ``text`` as a notice. ``stops``:
    it would change the result and cannot work here, the run ends with ``text``. ``family``: an option of some
    architectures; the run ends where the model's architecture has no such option.
    """

    kind: ServedKind = "works"
    text: str = ""


WORKS = Served()
FAMILY = Served("family", "An option of the model's architecture; stops the run where that has no such option.")


def otherwise(text: str) -> Served:
    """Declare a flag that concerns speed or memory alone and is served in another way."""
    return Served("otherwise", text)


def stops(text: str) -> Served:
    """Declare a flag that cannot be honoured here: the run ends with this sentence."""
    return Served("stops", text)


class Number:
    """Marks the type of flags that take a number of steps or a part of all steps (``100``, ``0.05``, ``5%``)."""


@dataclass(frozen=True)
class Flag:
    """One flag, declared once: argparse, file checking, help and docs/flags.md are made from it."""

    name: str
    type: type = str
    default: Any = None
    help: str = ""
    choices: tuple[Any, ...] = ()
    many: bool = False
    """True for flags that take any number of values (argparse's ``*``)."""
    const: Any = None
    """Where set, the value may be left out, and then this holds (argparse's ``?``)."""
    served: Served = WORKS
    scripts: tuple[str, ...] = ()
    """Entry scripts that take it; empty = all."""
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Script -> fields in which it differs there."""
    secret: bool = False
    """Its value is never shown, saved or logged."""
    path: bool = False
    """Its value is a path or may be one."""
    group: str = ""
    ours: bool = False
    """True where kohya has no such flag."""

    @property
    def option(self) -> str:
        return f"--{self.name}"

    @property
    def is_switch(self) -> bool:
        return self.type is bool

    def in_script(self, script: str) -> Flag | None:
        """This flag as a script declares it, or None where the script does not take it."""
        if self.scripts and script not in self.scripts:
            return None
        return replace(self, **self.columns[script]) if script in self.columns else self


def group(name: str, *flags: Flag) -> tuple[Flag, ...]:
    """Give flags the group under which help and docs show them."""
    return tuple(replace(flag, group=name) for flag in flags)


def number(text: str) -> int | float:
    """Read ``100``, ``0.05`` or ``5%``; whole numbers from 1 are steps (int), all else a part (float)."""
    if text.endswith("%"):
        return float(text[:-1]) / 100.0
    value = float(text)
    return int(value) if value >= 1 and value.is_integer() else value


def boolean(text: str) -> bool:
    """Read a truth value typed after a switch; ValueError where it is none."""
    word = text.strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off", ""):
        return False
    raise ValueError(text)


def whole(text: str) -> int:
    """Read an int; ``4.0`` counts as 4, ``4.5`` raises ValueError."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer():
            raise
        return int(value)


CONVERTERS = {str: str, int: whole, float: float, bool: boolean, Path: Path, Number: number}
TYPE_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    Number: "a number of steps (100) or a part of all steps (0.05 or 5%)",
}
