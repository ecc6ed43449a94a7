"""``dataset.py collect``: load pictures and their tags from a picture board, after showing how many there are."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from library.data.files import pictures
from library.util.command import within
from library.util.records import Problem, UserError
from library.util.said import say, spoken

from .booru import BOARDS, PAUSE, Client, Post
from .journal import write_whole
from .shared import tell


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="where pictures and captions go, such as train/10_name")
    parser.add_argument("--tags", required=True, help='the pictures must have all of them: "1girl solo red_hair"')
    parser.add_argument("--board", choices=tuple(BOARDS), default="danbooru", help="kind of board (%(default)s)")
    parser.add_argument("--address", help="another board of that kind: https://...")
    parser.add_argument("--most", type=within(int, 1), default=100, metavar="N", help="load at most so many (%(default)s)")
    parser.add_argument("--pause", type=within(float, 0), default=PAUSE,
                        help="seconds between two requests, at least (%(default)s)")
    parser.add_argument("--yes", action="store_true", help="load without asking")


def work(args: argparse.Namespace) -> None:
    board, folder = BOARDS[args.board], Path(args.folder)
    client = Client(board, args.address, args.pause)
    there = client.count(args.tags)
    wanted = min(there, args.most)
    tell(say("{there:picture has|pictures have} the tags {tags}; {wanted} of them would be loaded into {folder}",
             there=there, tags=args.tags, wanted=wanted, folder=folder))
    tell(say("Their makers own them, and the board's terms hold: {terms}",
             terms=board.terms if args.address is None else args.address))
    if not wanted or not (args.yes or agreed(wanted)):
        tell(say("Nothing was loaded."))
        return
    folder.mkdir(parents=True, exist_ok=True)
    have = {path.stem for path in pictures(folder) if path.with_suffix(".txt").is_file()}
    loaded = failed = 0
    for post in client.posts(args.tags, args.most):
        name = f"{args.board}_{post.number}"
        if name in have:
            continue
        try:
            keep(folder / f"{name}{post.ending}", client.load(post), post)
            loaded += 1
        except UserError as error:
            tell(say("left out: {name}: {what}", name=name, what=error.problems[0].what))
            failed += 1
    tell(say("{loaded:picture|pictures} loaded, {have} there before, {failed} left out", loaded=loaded, have=len(have),
             failed=failed))


def keep(path: Path, content: bytes, post: Post) -> None:
    """Write a picture and its caption, the caption last: a picture without one was broken off and is loaded anew."""
    write_whole(path, content)
    tags = ", ".join(tag.replace("_", " ") if len(tag) > 3 else tag for tag in post.tags)
    write_whole(path.with_suffix(".txt"), (tags + "\n").encode("utf-8"))


def agreed(count: int) -> bool:
    """Ask. Raises UserError where nobody can answer."""
    if not sys.stdin.isatty():
        raise UserError(Problem("--yes", "Nobody is there to be asked.", say("Add --yes to load {count} pictures.", count=count)))
    question = spoken(say("Load {count:picture|pictures}? [y/N] ", count=count))
    return input(question).strip().lower() in ("y", "yes", "j", "ja", "はい")
