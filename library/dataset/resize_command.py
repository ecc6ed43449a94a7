"""``dataset.py resize``: scale large pictures down, as training would, so that they load faster and take less room."""

from __future__ import annotations

import argparse

from library.util.command import within

from . import reshape, reshape_commands
from .shared import place


def add_flags(parser: argparse.ArgumentParser) -> None:
    reshape_commands.add_flags(parser)
    parser.add_argument("--side", type=within(int, 1), default=1536, metavar="N", help="length of the longest side (%(default)s)")
    parser.add_argument("--shortest", action="store_true", help="of the shortest side instead")


def work(args: argparse.Namespace) -> None:
    reshape_commands.change_all(place(args), "resize", reshape.at_most(args.side, args.shortest), args)
