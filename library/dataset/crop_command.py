"""``dataset.py crop``: cut pictures to the square in their middle, or to the bucket that training puts them in."""

from __future__ import annotations

import argparse

from library.data.buckets import BucketRules
from library.util.command import within

from . import reshape, reshape_commands
from .shared import place


def add_flags(parser: argparse.ArgumentParser) -> None:
    reshape_commands.add_flags(parser)
    parser.add_argument("--to", choices=("square", "bucket"), default="square", help="(%(default)s)")
    parser.add_argument("--resolution", type=within(int, 64), default=512, metavar="N",
                        help="with --to bucket: what is trained at (%(default)s)")


def work(args: argparse.Namespace) -> None:
    rules = BucketRules((args.resolution, args.resolution), max_side=max(1024, 2 * args.resolution))
    change = reshape.to_bucket(rules) if args.to == "bucket" else reshape.to_square()
    reshape_commands.change_all(place(args), "crop", change, args)
