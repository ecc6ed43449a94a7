"""Pictures and captions before training: find, look through, sort out, tag, reshape. Nothing is ever deleted.

    python tools/dataset.py COMMAND --help      what a command does

Commands that change files only show what they would do until --yes is given, keep what they replace in _undo beside the
pictures, and are taken back by `undo`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.util import command

COMMANDS = {
    "collect": "load pictures and tags from a picture board, after asking",
    "report": "count, measure and show every picture: text, ledger.csv, one page with tick boxes",
    "duplicates": "find pictures that show the same, mirrored and cut ones too",
    "tag": "write what a WD14 tagger sees into the captions",
    "caption": "write a sentence about each picture into its caption",
    "tags": "list, prune, merge, rename and sort the tags of captions",
    "resize": "scale large pictures down",
    "crop": "cut to the middle square or to the training bucket",
    "transparent": "put transparent parts on a colour",
    "convert": "write pictures in another format",
    "apply": "move the pictures of a drop list aside",
    "undo": "take back what the last command changed",
}
"""Sub-command -> what it does; each is a module of library/dataset."""


def setup_parser() -> argparse.ArgumentParser:
    """One parser with a sub-parser for each command."""
    parser = argparse.ArgumentParser(prog="dataset.py", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, what in COMMANDS.items():
        module = import_module(f"library.dataset.{name}_command")
        one = commands.add_parser(name, help=what, description=module.__doc__.split(": ", 1)[1].capitalize())
        module.add_flags(one)
        one.set_defaults(work=module.work)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command; returns the exit code."""
    return command.run(setup_parser(), lambda args: args.work(args), argv)


if __name__ == "__main__":
    sys.exit(main())
