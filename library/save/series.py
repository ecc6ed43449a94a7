"""The files of a run, found again by the names they were saved under (kohya's): epochs, steps, and the last without number."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from library.util.header import read_header
from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say

ENDINGS = (".safetensors", ".ckpt", ".pt")
_NUMBERED = re.compile(r"(?P<stem>.+)-(?:(?P<step>step)(?P<count>\d+)|(?P<epoch>\d+))")
_BESIDE = re.compile(r".+-(?:best|noema|lastgood)")
Count = Literal["epoch", "step", "last"]


@dataclass(frozen=True)
class Member:
    """A file of a series."""

    path: Path
    counted: Count
    number: int | None = None
    """Its epoch or step as the name says; for the last as its metadata say, None where they do not."""

    @property
    def label(self) -> str:
        """``epoch 3``, ``step 100``, ``last``."""
        return "last" if self.counted == "last" else f"{self.counted} {self.number}"


def parse(path: Path, stem: str | None = None) -> tuple[str, Member]:
    """(series, member) by a file's name: ``name-000001``, ``name-step00000100``, ``name``, numbers of any width.

    A ``stem`` that is known decides where a name could be read in two ways: ``anna-2`` is the last file of the series
    ``anna-2`` and the second of ``anna``.
    """
    found = None if path.stem == stem else _NUMBERED.fullmatch(path.stem)
    if found is None:
        return path.stem, Member(path, "last")
    if found["step"]:
        return found["stem"], Member(path, "step", int(found["count"]))
    return found["stem"], Member(path, "epoch", int(found["epoch"]))


def of_run(file: Path) -> list[Member]:
    """All files of the run that ``file`` belongs to, in the order of training, the last at the end.

    ``file`` is any of them, or the path that the last has or would have, with or without its ending. Averages,
    best and last good files stand beside a series, not in it. Raises UserError where there is none.
    """
    file = file if file.suffix.lower() in ENDINGS else file.with_name(file.name + ENDINGS[0])
    present = sorted(p for p in file.parent.glob("*") if p.suffix.lower() == file.suffix.lower()
                     ) if file.parent.is_dir() else []
    stem = _stem_of(file, present)
    found = [member for path in present for name, member in [parse(path, stem)]
             if name == stem and not (_BESIDE.fullmatch(path.stem) and path != file)]
    if not found:
        raise UserError(_missing(file, present))
    return _in_order(found)


def _stem_of(file: Path, present: Sequence[Path]) -> str:
    """The series' name: the file's own where numbered files or none bear it, else without its number."""
    stem, _ = parse(file)
    if any(path.stem.startswith(f"{file.stem}-") and parse(path, file.stem)[0] == file.stem for path in present):
        return file.stem
    return stem


def _missing(file: Path, present: Sequence[Path]) -> Problem:
    if not file.parent.is_dir():
        return Problem(str(file), say("There is no folder {parent}.", parent=file.parent), "Check the path.")
    names = sorted({parse(path)[0] for path in present})
    remedy = near(file.stem, names) if names else "Give the folder's own file, or train first."
    return Problem(
        str(file),
        say("There is no file {file} in {parent}, nor numbered ones of that name.", file=file.name, parent=file.parent),
        remedy,
    )


def _in_order(found: Iterable[Member]) -> list[Member]:
    """By training time: epochs and steps are brought onto one scale by the steps that the metadata tell."""
    members = [_counted(member) if member.counted == "last" else member for member in found]
    if len({member.counted for member in members if member.counted != "last"}) < 2:
        return sorted(members, key=lambda m: (m.counted == "last", m.number or 0))
    steps = {member.path: _told(member.path, "ss_steps") for member in members}
    return sorted(members, key=lambda m: (m.counted == "last", steps[m.path] or 0, m.number or 0))


def _counted(member: Member) -> Member:
    return Member(member.path, "last", _told(member.path, "ss_epoch"))


def _told(path: Path, key: str) -> int | None:
    value = read_header(path).metadata.get(key, "") if path.suffix.lower() == ".safetensors" else ""
    return int(value) if value.isdigit() else None


def every(members: Sequence[Member], nth: int) -> list[Member]:
    """Every n-th of the numbered ones by their number (2: epochs 2, 4, ...), and the last."""
    return [m for m in members if m.counted == "last" or (m.number or 0) % nth == 0]


__all__ = ["Member", "every", "of_run", "parse"]
