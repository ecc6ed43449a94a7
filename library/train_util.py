"""The names that notebooks and front ends import from kohya's scripts, as thin adapters over this program's own parts.

``from library.train_util import BucketManager, read_config_from_file`` and ``train_network.NetworkTrainer`` keep
working; new programs should call ``library.train.run`` and the rooms themselves.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from library.config.toml_file import config_path, merge_file
from library.data.buckets import BucketRules, Size
from library.flags import Flags, flags_of
from library.flags.scripts import NETWORK
from library.flags.values import COMMAND_LINE, defaults
from library.util.records import UserError


class BucketManager:
    """kohya's class of this name: sizes of buckets, and which bucket a picture belongs to.

    ``select_bucket(width, height)`` gives (bucket, scaled size, ratio error); ``buckets`` holds what ``add_image`` put in.
    """

    def __init__(self, no_upscale: bool, max_reso: Size, min_size: int | None, max_size: int | None, reso_steps: int):
        limits = {"min_side": min_size, "max_side": max_size}
        self.no_upscale, self.max_reso, self.min_size, self.max_size = no_upscale, max_reso, min_size, max_size
        self.reso_steps, self.max_area = reso_steps, max_reso[0] * max_reso[1]
        self.rules = BucketRules(tuple(max_reso), step=reso_steps, no_upscale=no_upscale,
                                 **{name: side for name, side in limits.items() if side is not None})
        self.predefined_resos: list[Size] = []
        self.resos: list[Size] = []
        self.reso_to_id: dict[Size, int] = {}
        self.buckets: list[list[Any]] = []

    def make_buckets(self) -> None:
        """Fill ``predefined_resos``."""
        self.predefined_resos = list(self.rules.sizes)

    def set_predefined_resos(self, resos: list[Size]) -> None:
        """Take over sizes that were worked out elsewhere."""
        self.predefined_resos = list(resos)
        self.rules.__dict__["sizes"] = sorted(resos)

    def select_bucket(self, image_width: int, image_height: int) -> tuple[Size, Size, float]:
        """(bucket, size that the picture is scaled to, ratio error)."""
        placed = self.rules.place((image_width, image_height))
        self.add_if_new_reso(placed.bucket)
        return placed.bucket, placed.resized, placed.ratio_error

    def add_if_new_reso(self, reso: Size) -> None:
        """Open a bucket of this size unless there is one."""
        if reso not in self.reso_to_id:
            self.reso_to_id[reso] = len(self.resos)
            self.resos.append(reso)
            self.buckets.append([])

    def add_image(self, reso: Size, image_or_info: Any) -> None:
        """Put a picture into the bucket of this size."""
        self.add_if_new_reso(reso)
        self.buckets[self.reso_to_id[reso]].append(image_or_info)

    def sort(self) -> None:
        """Order the buckets by size."""
        pairs = sorted(zip(self.resos, self.buckets, strict=True), key=lambda pair: pair[0])
        self.resos, self.buckets = [reso for reso, _ in pairs], [bucket for _, bucket in pairs]
        self.reso_to_id = {reso: index for index, reso in enumerate(self.resos)}


def flags_of_namespace(args: argparse.Namespace, script: str = NETWORK) -> Flags:
    """The Flags of a namespace that ``setup_parser`` made; what differs from its default counts as given."""
    known, given = defaults(script), vars(args)
    values = known | {name: value for name, value in given.items() if name in known}
    changed = {name: COMMAND_LINE for name, value in values.items() if value != known[name]}
    return Flags(script, values, changed)


def read_config_from_file(args: argparse.Namespace, parser: argparse.ArgumentParser) -> argparse.Namespace:
    """``args`` with the settings of the file that ``--config_file`` names; what was typed wins.

    Raises UserError with every problem of the file.
    """
    if not args.config_file:
        return args
    script = parser.prog if parser.prog.endswith("train_network.py") else NETWORK
    flags, problems = merge_file(flags_of_namespace(args, script), config_path(args.config_file))
    if problems:
        raise UserError(*problems)
    return argparse.Namespace(**(vars(args) | dict(flags.values)))


class NetworkTrainer:
    """kohya's class of this name: ``NetworkTrainer().train(args)`` is a whole run from a namespace."""

    script = NETWORK

    def train(self, args: argparse.Namespace) -> None:
        """Run what ``args`` say. Raises UserError with everything that is wrong, as the run itself would show it."""
        from library.train.run import run_flags

        flags = flags_of_namespace(args, self.script)
        run_flags(flags, command_of(flags))


def command_of(flags: Flags) -> list[str]:
    """A command line that says what differs from the defaults, secrets left out, for the report."""
    words: list[str] = []
    for name, value in flags.changed().items():
        flag = flags_of(flags.script)[name]
        if flag.secret or value is None:
            continue
        if flag.is_switch:
            words.append(flag.option)
        else:
            words += [flag.option, *map(str, value)] if flag.many else [f"{flag.option}={value}"]
    return words


def main(file: str) -> int:
    """Run the entry script of this file name from the process's command line; gives its exit code."""
    from library.train.run import main as run_script

    return run_script(script=Path(file).name)
