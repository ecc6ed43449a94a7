"""``dataset.py transparent``: put transparent parts on a colour; training itself drops transparency and shows what is below."""

from __future__ import annotations

import argparse

from . import reshape, reshape_commands
from .shared import place


def add_flags(parser: argparse.ArgumentParser) -> None:
    reshape_commands.add_flags(parser)
    parser.add_argument("--colour", "--color", dest="colour", default="white", help="white, black, #ff8800 (%(default)s)")


def work(args: argparse.Namespace) -> None:
    reshape_commands.change_all(place(args), "transparent", reshape.on_colour(reshape.read_colour(args.colour)), args)
