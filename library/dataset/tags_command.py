"""``dataset.py tags``: list, prune, merge, rename and sort the tags of captions."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path

from library.util.command import within
from library.util.records import Problem, UserError
from library.util.said import say, together

from . import captions, slots, tags
from .places import PictureSet
from .shared import add_place, add_yes, few, place, settle, tell

EXAMPLE = '--merge "striped shirt, vertical stripes, vertical-striped shirt -> striped shirt"'


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument("--activate", metavar="TAGS", help="put these tags first in every caption: the trigger")
    parser.add_argument("--prune", action="append", default=[], metavar="TAGS", help='take tags out: "1girl, solo, *background"')
    parser.add_argument("--merge", action="append", default=[], metavar="RULE", help=f"one tag for several: {EXAMPLE}")
    parser.add_argument("--rename", action="append", default=[], metavar="RULE", help='"old -> new"')
    parser.add_argument("--append", metavar="TAGS", help="put these tags last where they are missing")
    parser.add_argument("--unique", action="store_true", help="drop repeated tags")
    parser.add_argument("--sort", choices=("frequency",), help="common tags before rare ones, counted for each folder")
    parser.add_argument("--order", metavar="SLOTS", help='sort by named slots: "pose, emotion, composition, object detail"')
    parser.add_argument("--slots", metavar="FILE", 
                        help='.toml or .json that says which tags a slot has: pose = ["standing", "sit*"]')
    parser.add_argument("--check", action="store_true", help="with --order: name captions that lack a slot; nothing is changed")
    parser.add_argument("--keep", type=within(int, 0), default=None, metavar="N",
                        help="so many first tags stay in front when sorting; as a rule the number of --activate's")
    parser.add_argument("--top", type=within(int, 0), default=20, metavar="N", help="so many of the commonest tags are listed")
    add_yes(parser)


def work(args: argparse.Namespace) -> None:
    data = place(args)
    found, without = captions.read(data)
    separators = {one.folder.subset.caption_separator for one in found} or {","}
    if len(separators) > 1:
        raise UserError(Problem(args.where, "Its folders separate tags by different signs.", "Give --folder, one after the other."))
    separator = separators.pop()
    tell(say("{count:caption|captions} in {folders:folder|folders}", count=len(found), folders=len(data.folders)))
    if without:
        tell(say("{count:picture has|pictures have} no caption", count=len(without)))
    odd = {one.encoding: sum(other.encoding == one.encoding for other in found) for one in found if one.encoding != "utf-8-sig"}
    if odd:
        tell(say("{count:caption is|captions are} not UTF-8 (read as {encodings}); what is changed is written as UTF-8",
                 count=sum(odd.values()), encodings=list(odd)))
    if args.check:
        check(data, found, _order(args, required=True), _keep(args))
        return
    change = _steps(args)
    if not change:
        for folder in data.folders:
            list_tags(folder.path.name, [tags.parse(one.first, separator) for one in found if one.folder is folder], args.top)
        return
    changed: list[tuple[captions.Caption, str]] = []
    for folder in data.folders:
        inside = [one for one in found if one.folder is folder]
        changed += captions.rewritten(inside, partial(_line, separator, change(inside, separator)))
    few([f"{data.label(one.file)}\n  - {one.first}\n  + {text.splitlines()[one.used[0]] if text.strip() else ''}"
         for one, text in changed])
    settle(data, "tags", captions.as_changes(changed), args.yes)


def _line(separator: str, steps: list[tags.TagsToTags], text: str) -> str:
    return f"{separator} ".join(reduce(lambda words, step: step(words), steps, tags.parse(text, separator)))


StepsOfFolder = Callable[[list[captions.Caption], str], list[tags.TagsToTags]]


def _steps(args: argparse.Namespace) -> StepsOfFolder | None:
    """What is to be done, in this order: merge, rename, prune, append, unique, sort, activate; None: nothing is."""
    rules = [tags.merged(*tags.read_rule("--merge", rule)) for rule in args.merge]
    rules += [tags.merged(*tags.read_rule("--rename", rule)) for rule in args.rename]
    rules += [tags.without(tags.parse(words)) for words in args.prune]
    rules += [tags.appended(tags.parse(args.append))] if args.append else []
    rules += [tags.unique] if args.unique else []
    activate = [tags.in_front(tags.parse(args.activate))] if args.activate else []
    order = _order(args)
    if not (rules or activate or order or args.sort):
        return None

    def of_folder(found: list[captions.Caption], separator: str) -> list[tags.TagsToTags]:
        steps = [*rules, *activate]
        if args.sort:
            counts = tags.frequencies(tags.parse(one.first, separator) for one in found)
            steps.append(tags.by_frequency(counts, _keep(args)))
        if order is not None:
            steps.append(lambda words: order.sorted(words, _keep(args)))
        return steps
    return of_folder


def _keep(args: argparse.Namespace) -> int:
    return args.keep if args.keep is not None else len(tags.parse(args.activate or ""))


def _order(args: argparse.Namespace, required: bool = False) -> slots.Order | None:
    if args.order is None:
        if required or args.slots:
            raise UserError(Problem("--check" if required else "--slots", "It needs the slots' order.",
                                    'Add --order "pose, emotion, composition".'))
        return None
    return slots.read_order(args.order, args.slots)


def check(data: PictureSet, found: list[captions.Caption], order: slots.Order | None, keep: int) -> None:
    """Name captions that lack a slot, stand in another order, or have tags of no slot."""
    assert order is not None
    lines, places = [], dict.fromkeys(order.names, 0)
    unplaced: list[list[str]] = []
    for one in found:
        words = tags.parse(one.first, one.folder.subset.caption_separator)
        missing = order.missing(words)
        for name in missing:
            places[name] += 1
        unplaced.append(order.unplaced(words, keep))
        wrong = [say("no {missing:or}", missing=missing)] if missing else []
        wrong += [say("another order")] if order.sorted(words, keep) != words else []
        if wrong:
            lines.append(say("{name}: {remarks}", name=data.label(one.file), remarks=together(wrong)))
    few(lines, 20)
    for name, count in places.items():
        tell(say("slot {name}: missing in {count} of {all:caption|captions}", name=name, count=count, all=len(found)))
    strange = tags.frequencies(unplaced).most_common(10)
    if strange:
        tell(say("tags of no slot: {tags}", tags=[f"{tag} ({count})" for tag, count in strange]))


def list_tags(name: str, found: list[list[str]], top: int) -> None:
    """The commonest tags of a folder, with their share of the captions."""
    counts = tags.frequencies(found)
    tell(say("{name}: {tags:tag|tags} in {count:caption|captions}", name=Path(name), tags=len(counts), count=len(found)))
    for tag, count in counts.most_common(top):
        tell(f"  {count:5d}  {count / len(found):4.0%}  {tag}")
