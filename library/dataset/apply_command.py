"""``dataset.py apply``: move the pictures of a drop list aside."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from library.config.toml_text import decode
from library.data.found import listed
from library.util.records import Problem, UserError
from library.util.said import say

from .journal import Change
from .places import PictureSet, companions
from .shared import add_place, add_yes, few, place, settle, tell


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument("list", metavar="LIST", help="drop list of a report's or duplicates' page (.json), or a text file with one "
                        "picture a line")
    add_yes(parser)


def work(args: argparse.Namespace) -> None:
    data = place(args)
    pictures = named_pictures(data, Path(args.list))
    tell(say("{count:picture is|pictures are} to be moved aside, captions and caches too:", count=len(pictures)))
    few([f"  {data.label(path)}" for path in pictures], 20)
    settle(data, "apply", aside(pictures), args.yes)


def aside(pictures: list[Path]) -> list[Change]:
    """The pictures and what belongs to them, moved aside."""
    paths = {path: None for picture in pictures for path in (picture, *companions(picture))}
    return [Change(path) for path in paths]


def named_pictures(data: PictureSet, file: Path) -> list[Path]:
    """The pictures of a drop list. Raises UserError where one of them is no picture of this set."""
    known = {data.label(path): path for _, path in data.pictures()}
    names = read_list(file)
    missing = [name for name in names if name not in known]
    if missing:
        what = say(
            "{missing} of {names} names are no pictures of {root}: {missing2}.",
            missing=len(missing),
            names=len(names),
            root=data.root,
            missing2=listed(missing),
        )
        raise UserError(Problem(str(file), what, "Give the folder or file that the list was made from; pictures that were moved "
                                "aside already are gone from it."))
    return [known[name] for name in dict.fromkeys(names)]


def read_list(file: Path) -> list[str]:
    """Names of a drop list, JSON or text. Raises UserError."""
    if not file.is_file():
        raise UserError(Problem(str(file), "There is no such file.", "Browsers save a page's drop list among the downloads."))
    text, _ = decode(file)
    if file.suffix.lower() != ".json":
        return [line.strip().replace("\\", "/") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    try:
        names = json.loads(text)["drop"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(Problem(str(file), "This is no drop list.", "Save it with the button of the page.")) from error
    return [str(name).replace("\\", "/") for name in names]
