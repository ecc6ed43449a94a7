"""Changing files so that everything can be taken back: what was there is kept, what was made is noted, nothing is deleted.

Each command that changes a data set gets a folder of its own, ``_undo/0001-tags``, with ``journal.jsonl`` and the
originals. A line is written before its file is touched, so that a command that was broken off can be undone as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from library.data.found import listed
from library.util.records import Problem, UserError
from library.util.said import say

UNDO = "_undo"
JOURNAL = "journal.jsonl"
UNDONE = "undone.jsonl"


@dataclass(frozen=True)
class Change:
    """One file that is to be written anew, made, or moved aside."""

    path: Path
    make: Callable[[], bytes] | None = None
    """Its new content, made when the change is; None: the file is moved aside."""


@dataclass(frozen=True)
class Entry:
    """A line of a journal."""

    path: Path
    kept: Path | None
    """Where the original lies; None: there was none."""
    sha256: str | None
    """Of what was written; None: nothing was, the file was moved aside."""


def carry_out(root: Path, command: str, changes: Sequence[Change]) -> Path:
    """Make all changes and return the folder of their undo list."""
    assert len({change.path for change in changes}) == len(changes), "a file is changed twice"
    folder = _new_folder(root, command)
    with (folder / JOURNAL).open("a", encoding="utf-8", newline="\n") as journal:
        for number, change in enumerate(changes):
            content = change.make() if change.make is not None else None
            exists = change.path.is_file()
            if content is None and not exists:
                continue
            entry = Entry(change.path, _place(folder, root, change.path, number) if exists else None,
                          hashlib.sha256(content).hexdigest() if content is not None else None)
            journal.write(_line(entry, root, folder) + "\n")
            journal.flush()
            os.fsync(journal.fileno())
            _change(entry, content)
    return folder


def undo(root: Path, force: bool = False) -> tuple[str, list[Path]]:
    """Take the last command back; (its name, files that were put back or taken away).

    Raises UserError where there is nothing to undo, or, without ``force``, where files were changed since. What lies in
    the way is moved into the undo list's ``undone`` folder.
    """
    folders = [folder for folder in _folders(root) if (folder / JOURNAL).is_file()]
    if not folders:
        raise UserError(Problem(str(root), "There is nothing to undo.", say("Undo lists stand in {value}.", value=root / UNDO)))
    folder = folders[-1]
    lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    entries = [_entry(line, root, folder) for line in lines if line.endswith("\n")]  # a torn last line: nothing was done yet
    changed = [entry.path for entry in entries if _changed_since(entry)]
    if changed and not force:
        raise UserError(
            Problem(
                str(folder),
                say(
                    "{changed} files were changed since: {changed2}.",
                    changed=len(changed),
                    changed2=listed(path.name for path in changed),
                ),
                "--force puts the originals back all the same; what is there now is kept beside them.",
            )
        )
    touched = []
    for number, entry in reversed(list(enumerate(entries))):
        if entry.kept is not None and not entry.kept.is_file():
            continue  # it was broken off before the original was kept
        if entry.path.is_file():
            _move(entry.path, folder / "undone" / f"{number:05d}" / entry.path.name)
        if entry.kept is not None:
            _move(entry.kept, entry.path)
        touched.append(entry.path)
    os.replace(folder / JOURNAL, folder / UNDONE)
    return folder.name, touched


def _change(entry: Entry, content: bytes | None) -> None:
    if content is None:
        assert entry.kept is not None
        _move(entry.path, entry.kept)
        return
    if entry.kept is not None:
        entry.kept.parent.mkdir(parents=True, exist_ok=True)
        half = entry.kept.with_name(entry.kept.name + ".half")
        shutil.copy2(entry.path, half)
        os.replace(half, entry.kept)
    write_whole(entry.path, content)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.half")
    half.write_bytes(content)
    os.replace(half, path)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)


def _changed_since(entry: Entry) -> bool:
    """Whether a file is neither what was written, nor what was there before, nor absent where it was moved away."""
    if not entry.path.is_file() or (entry.kept is not None and not entry.kept.is_file()):
        return False
    now = _hash(entry.path)
    return now != entry.sha256 and (entry.kept is None or now != _hash(entry.kept))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(root: Path) -> list[Path]:
    place = root / UNDO
    return sorted(folder for folder in place.iterdir() if folder.name[:4].isdecimal()) if place.is_dir() else []


def _new_folder(root: Path, command: str) -> Path:
    before = _folders(root)
    number = int(before[-1].name[:4]) + 1 if before else 1
    folder = root / UNDO / f"{number:04d}-{command}"
    folder.mkdir(parents=True)
    return folder


def _place(folder: Path, root: Path, path: Path, number: int) -> Path:
    """Where an original is kept: under its own name and folder, or numbered where it lies outside the root."""
    if path.is_relative_to(root):
        return folder / "originals" / path.relative_to(root)
    return folder / "elsewhere" / f"{number:05d}" / path.name


def _line(entry: Entry, root: Path, folder: Path) -> str:
    path = entry.path.relative_to(root) if entry.path.is_relative_to(root) else entry.path.absolute()
    kept = entry.kept.relative_to(folder).as_posix() if entry.kept is not None else None
    return json.dumps({"path": path.as_posix(), "kept": kept, "sha256": entry.sha256}, ensure_ascii=False)


def _entry(line: str, root: Path, folder: Path) -> Entry:
    """Raises UserError for a line that was edited by hand into something else."""
    try:
        found = json.loads(line)
        return Entry(root / found["path"], folder / found["kept"] if found["kept"] else None, found["sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(Problem(str(folder / JOURNAL), say('This line is none of an undo list: "{line}".', line=line[:60]),
                                "Take it out, or put files back from the folder of originals by hand.")) from error
