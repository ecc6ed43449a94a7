"""What ``resize``, ``crop``, ``transparent`` and ``convert`` share: which pictures change, into what, shown before it is done."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from library.util.command import within
from library.util.records import UserError
from library.util.said import say

from . import reshape
from .journal import Change
from .places import PictureSet, latent_caches
from .shared import add_place, add_yes, few, left_out, settle, tell


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Where, quality, ``--yes``."""
    add_place(parser)
    parser.add_argument("--quality", type=within(int, 1, 100), default=95, help="of JPEG and WebP (%(default)s)")
    add_yes(parser)


def change_all(data: PictureSet, command: str, change: reshape.Reshape, args: argparse.Namespace) -> None:
    """Every picture that ``change`` changes, written in its own format."""
    import numpy as np

    changes: dict[Path, Change] = {}
    lines = []
    for _, path in data.pictures():
        try:
            before = reshape.read(path)
            after = change(before)
        except UserError as error:
            left_out(data, path, error)
            continue
        if after.shape == before.shape and np.array_equal(after, before):
            continue
        lines.append(f"  {data.label(path)}: {before.shape[1]}x{before.shape[0]} -> {after.shape[1]}x{after.shape[0]}")
        changes[path] = Change(path, partial(made, path, change, args.quality))
        changes |= {stale: Change(stale) for stale in latent_caches(path)}
    finish(data, command, lines, list(changes.values()), args.yes)


def made(path: Path, change: reshape.Reshape, quality: int, ending: str | None = None) -> bytes:
    """The new file's bytes, read from the old one at the last moment: no picture waits in memory."""
    return reshape.write(change(reshape.read(path)), ending or path.suffix, reshape.Saving(quality))


def finish(data: PictureSet, command: str, lines: Sequence[str], changes: Sequence[Change], yes: bool) -> None:
    tell(say("{count:picture changes|pictures change}", count=len(lines)))
    few(lines, 20)
    settle(data, command, changes, yes)
