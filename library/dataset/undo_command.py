"""``dataset.py undo``: take back what the last command changed."""

from __future__ import annotations

import argparse
from pathlib import Path

from library.util.records import Problem, UserError
from library.util.said import say

from .journal import undo
from .shared import few, tell


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("where", metavar="WHERE", help="the folder or file that the command was given")
    parser.add_argument("--force", action="store_true", help="also where files were changed since; what is there now is kept aside")


def work(args: argparse.Namespace) -> None:
    path = Path(args.where)
    if not path.exists():
        raise UserError(Problem(args.where, "There is no such folder or file.", "Give what the command was given."))
    root = path if path.is_dir() else path.parent
    name, touched = undo(root, args.force)
    tell(say("Taken back: {name}, {count:file|files}.", name=name, count=len(touched)))
    few([f"  {path.relative_to(root) if path.is_relative_to(root) else path}" for path in touched])
