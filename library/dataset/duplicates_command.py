"""``dataset.py duplicates``: find pictures that show the same, mark the best of each, move the others aside."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from library.data.found import listed
from library.report import html
from library.util.command import within
from library.util.said import say

from . import alike
from .apply_command import aside
from .examine import THUMBNAIL, look_at
from .journal import write_whole
from .page import Card, Group, page
from .report_command import REPORT
from .shared import add_place, add_yes, few, place, settle, tell


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument("--alike", type=within(float, 0, 1), default=alike.ALIKE, metavar="X",
                        help=f"how much alike pictures must be, up to 1 (as a rule {alike.ALIKE}; lower finds more, and more that "
                        "is not the same)")
    parser.add_argument("--out", metavar="FOLDER", help=f"where duplicates.html and its list go; as a rule {REPORT}")
    add_yes(parser)


def work(args: argparse.Namespace) -> None:
    data = place(args)
    folders = {path: folder for folder, path in data.pictures()}
    prints = alike.prints_of(list(folders))
    described = {path for path, folder in folders.items() if folder.caption_of(path) is not None}
    groups = [[prints.paths[number] for number in group] for group in alike.groups(prints, args.alike, described)]
    unread = sorted(folders.keys() - set(prints.paths))
    if unread:
        tell(say("left out: {count:picture|pictures} that cannot be read: {names}", count=len(unread),
                 names=listed([data.label(path) for path in unread])))
    sizes = dict(zip(prints.paths, prints.sizes, strict=True))
    spare = [path for group in groups for path in group[1:]]
    tell(say("{count:picture|pictures}, {groups:group|groups} that show the same, {spare:picture|pictures} more than needed",
             count=len(prints.paths), groups=len(groups), spare=len(spare)))
    few([f"  {data.label(group[0])} = " + ", ".join(data.label(path) for path in group[1:]) for group in groups], 20)
    if not groups:
        return
    shown = [path for group in groups for path in group]
    seen = dict(zip(shown, look_at(shown, THUMBNAIL), strict=True))

    def card(path: Path, best: bool) -> Card:
        lines = (f"{path.parent.name}, {sizes[path][0]}x{sizes[path][1]}, {path.stat().st_size / 1024:.0f} KB",)
        return Card(data.label(path), path.parent.name, seen[path].thumbnail, lines, ticked=not best, best=best)

    folder = Path(args.out) if args.out else data.root / REPORT
    made = [Group(say("group {number}", number=number), tuple(card(path, path is group[0]) for path in group))
            for number, group in enumerate(groups, 1)]
    above = html.text(say("{groups:group|groups}, {spare:picture|pictures} ticked: all but the best of each group.",
                          groups=len(groups), spare=len(spare)))
    title = say("Duplicates in {folder}", folder=data.root.absolute().name)
    html.write(folder / "duplicates.html", page(title, str(data.root.absolute()), f"<p>{above}</p>", made))
    names = {"root": str(data.root.absolute()), "drop": [data.label(path) for path in spare]}
    write_whole(folder / "duplicates.json", json.dumps(names, ensure_ascii=False, indent=1).encode("utf-8"))
    tell(say("Look through {page}; what would be moved stands in {list}.", page=folder / "duplicates.html",
             list=folder / "duplicates.json"))
    settle(data, "duplicates", aside(spare), args.yes)
