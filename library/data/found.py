"""What a scan gathers on its way, and how it words lists and places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from library.util.records import Problem, Severity
from library.util.said import say

from .plan import Item, ScannedSubset


@dataclass
class Found:
    """Pictures and problems so far."""

    problems: list[Problem] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    validation: list[Item] = field(default_factory=list)
    subsets: list[ScannedSubset] = field(default_factory=list)
    tags: list[dict[str, Counter[str]]] = field(default_factory=list)
    """For each part: folder -> tag -> captions with it."""

    def _add(self, severity: Severity, where: Any, what: str, remedy: str) -> None:
        self.problems.append(Problem(str(where), what, remedy, severity, check="data"))

    def stop(self, where: Any, what: str, remedy: str) -> None:
        self._add("stop", where, what, remedy)

    def warn(self, where: Any, what: str, remedy: str) -> None:
        self._add("warn", where, what, remedy)

    def note(self, where: Any, what: str, remedy: str = "") -> None:
        self._add("note", where, what, remedy)


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    if len(names) <= most:
        return say("{names}", names=names)
    return say("{names} and {more} more", names=names[:most], more=len(names) - most)


def nearest_existing(path: Path) -> str:
    """A remedy for a path that is not there: how much of it exists, and what is there instead, the likely names first."""
    turned = Path(str(path).replace("\\", "/"))
    if turned != path and turned.exists():
        return say('"{path}" is there: on this system folders are separated by "/".', path=turned)
    depth, existing = next(((d, parent) for d, parent in enumerate(path.parents) if parent.is_dir()), (0, None))
    if existing is None:
        return "Check the path; a relative one counts from the folder in which you started the program."
    names = sorted(child.name for child in existing.iterdir() if child.is_dir())
    likely = get_close_matches(path.parts[-1 - depth], names)
    inside = listed(dict.fromkeys((*likely, *names))) or say("no folders")
    return say('"{folder}" exists; in it there are: {inside}.',
               folder=existing if str(existing) != "." else Path.cwd(), inside=inside)
