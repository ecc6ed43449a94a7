"""Reading captions for a change, and the change itself: the lines that training sees, the others left as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from library.data import files

from .journal import Change
from .places import Folder, PictureSet, text_caches


@dataclass(frozen=True)
class Caption:
    """A picture's caption file."""

    folder: Folder
    picture: Path
    file: Path
    lines: tuple[str, ...]
    encoding: str

    @property
    def used(self) -> list[int]:
        """Numbers of the lines that training sees: the first, or with wildcards every line that is not empty."""
        if self.folder.subset.enable_wildcard:
            return [number for number, line in enumerate(self.lines) if line]
        return [0] if self.lines else []

    @property
    def first(self) -> str:
        return self.lines[0] if self.lines else ""


def read(data: PictureSet) -> tuple[list[Caption], list[Path]]:
    """(the captions of a set, pictures that have none)."""
    found, without = [], []
    for folder, picture in data.pictures():
        file = folder.caption_of(picture)
        if file is None:
            without.append(picture)
            continue
        text = files.read_caption(file)
        found.append(Caption(folder, picture, file, text.lines, text.encoding))
    return found, without


def rewritten(captions: list[Caption], line: Callable[[str], str]) -> Iterator[tuple[Caption, str]]:
    """The captions that ``line`` changes, with their whole new text."""
    for one in captions:
        lines = [line(text) if number in one.used else text for number, text in enumerate(one.lines)]
        if tuple(lines) != one.lines:
            yield one, "\n".join(lines) + "\n"


def as_changes(rewritten: list[tuple[Caption, str]]) -> list[Change]:
    """What is to be written, always as UTF-8; caches and notes that hold the old text go aside."""
    changes = {one.file: Change(one.file, partial(str.encode, text, "utf-8")) for one, text in rewritten}
    for one, _ in rewritten:
        changes |= {stale: Change(stale) for stale in text_caches(one.picture)}
    return list(changes.values())
