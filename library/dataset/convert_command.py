"""``dataset.py convert``: write pictures in another format; captions keep their names."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from library.util.records import Problem, UserError
from library.util.said import say

from . import reshape_commands
from .journal import Change
from .places import latent_caches
from .reshape import FORMATS
from .shared import place


def add_flags(parser: argparse.ArgumentParser) -> None:
    reshape_commands.add_flags(parser)
    parser.add_argument("--to", choices=[ending.lstrip(".") for ending in FORMATS], default="png", help="(%(default)s)")


def work(args: argparse.Namespace) -> None:
    data, ending = place(args), f".{args.to}"
    changes: dict[Path, Change] = {}
    sources: dict[Path, Path] = {}
    lines = []
    for _, path in data.pictures():
        target = path.with_suffix(ending)
        if FORMATS.get(path.suffix.lower()) == FORMATS[ending]:
            continue
        if target in sources:
            what = say("{one} and {other} would both become {target}.", one=sources[target].name, other=path.name,
                       target=target.name)
            raise UserError(Problem(str(path), what, "Rename one of the two."))
        if target.exists():
            raise UserError(Problem(str(path), say("{target} is there already.", target=target.name), "Rename one of the two."))
        sources[target] = path
        lines.append(f"  {data.label(path)} -> {target.name}")
        changes[target] = Change(target, partial(reshape_commands.made, path, lambda pixels: pixels, args.quality, ending))
        changes[path] = Change(path)
        changes |= {stale: Change(stale) for stale in latent_caches(path)}
    reshape_commands.finish(data, "convert", lines, list(changes.values()), args.yes)
