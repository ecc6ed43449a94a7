"""What the sub-commands share: the place they work on, and how changes are shown before they are made."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from library.util.command import tell
from library.util.records import UserError
from library.util.said import say

from .journal import UNDO, Change, carry_out
from .places import PictureSet, read_set

Show = Callable[[], None]
SHOWN = 10
"""Changes that are shown one by one."""


def add_place(parser: argparse.ArgumentParser) -> None:
    """``WHERE``, ``--caption_extension`` and ``--folder``."""
    parser.add_argument("where", metavar="WHERE", help="a folder of N_name folders, a folder of pictures, a data set's .toml "
                        "(--dataset_config) or a training's settings (--config_file)")
    parser.add_argument("--caption_extension", metavar="ENDING",
                        help="ending of the caption files; as a rule found out (.txt or .caption)")
    parser.add_argument("--folder", action="append", default=[], metavar="NAME",
                        help="only this folder of the set; may be given several times")


def add_yes(parser: argparse.ArgumentParser) -> None:
    """``--yes``: without it nothing is changed."""
    parser.add_argument("--yes", "--write", dest="yes", action="store_true",
                        help="make the changes; without it they are only shown")


def place(args: argparse.Namespace, training: Sequence[str] = ()) -> PictureSet:
    """The set that the flags of ``add_place`` name."""
    extension = [f"--caption_extension={args.caption_extension}"] if args.caption_extension else []
    return read_set(args.where, [*extension, *training]).only(args.folder)


def settle(data: PictureSet, command: str, changes: Sequence[Change], yes: bool) -> None:
    """Make the changes, or say how; the last lines of every command that changes files."""
    if not changes:
        tell(say("Nothing to change."))
        return
    if not yes:
        tell(say("{count:file|files} would be changed. Nothing was: add --yes to do it.", count=len(changes)))
        return
    folder = carry_out(data.root, command, changes)
    tell(say('{count:file|files} changed. What was there before is in {folder}; take it back with: python tools/dataset.py undo '
             '"{root}"', count=len(changes), folder=data.label(folder), root=data.root))


def few(lines: Sequence[str], most: int = SHOWN) -> None:
    """Show the first lines, and how many more there are."""
    for line in lines[:most]:
        tell(line)
    if len(lines) > most:
        tell(say("... and {count} more", count=len(lines) - most))


def left_out(data: PictureSet, path: Path, error: UserError) -> None:
    """Name a picture that a command passes over, and why."""
    tell(say("left out: {name}: {what}", name=data.label(path), what=error.problems[0].what))


__all__ = ["UNDO", "add_place", "add_yes", "few", "left_out", "place", "settle", "tell"]
