"""``dataset.py report``: what a data set holds, what training makes of it, and what is odd about its pictures."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from library.config import sections
from library.data import files
from library.data.arithmetic import Arithmetic, in_words, of_plan
from library.data.found import listed
from library.data.loading import step_plan
from library.data.plan import DatasetPlan, ScanRules
from library.data.scan import scan
from library.report import html
from library.util.command import within
from library.util.said import say, together

from . import tags
from .examine import THUMBNAIL, look_at
from .journal import write_whole
from .ledger import Row, as_csv, rows
from .page import Card, Group, page
from .places import PictureSet
from .shared import add_place, few, place, tell

REPORT = "_report"
EPOCHS = 10
"""Where nothing says how long the training is to be."""
SEVERITIES = {"stop": say("stop"), "warn": say("warn"), "note": say("note")}
MANY = 1500
"""Pictures from which thumbnails are made smaller, so that the page still opens."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument("--resolution", help="what is trained at, 512,512 if nothing says it")
    parser.add_argument("--train_batch_size", type=within(int, 1))
    parser.add_argument("--max_train_epochs", type=within(int, 1))
    parser.add_argument("--max_train_steps", type=within(int, 1))
    parser.add_argument("--reg_data_dir", help="regularisation pictures")
    parser.add_argument("--no_buckets", action="store_true", help="as if trained without --enable_bucket")
    parser.add_argument("--json", action="store_true", help="print the report for programs, every picture included")
    parser.add_argument("--out", metavar="FOLDER",
                        help=f"where report.html and ledger.csv go; as a rule {REPORT} beside the pictures")
    parser.add_argument("--top", type=within(int, 0), default=20, metavar="N", help="so many of the commonest tags are listed")


@dataclass(frozen=True)
class Report:
    """Everything that a report tells."""

    data: PictureSet
    plan: DatasetPlan
    rows: list[Row]
    steps: Arithmetic


def work(args: argparse.Namespace) -> None:
    flags = [f"--{name}={value}" for name in ("resolution", "train_batch_size", "max_train_epochs", "max_train_steps",
                                              "reg_data_dir") if (value := getattr(args, name)) is not None]
    if not args.no_buckets and Path(args.where).is_dir():
        flags.append("--enable_bucket")
    report = make(place(args, flags))
    folder = Path(args.out) if args.out else report.data.root / REPORT
    write_whole(folder / "ledger.csv", as_csv(report.rows))
    html.write(folder / "report.html", as_page(report, args.top))
    if args.json:
        tell(json.dumps(as_json(report), ensure_ascii=False, indent=1))
        return
    for line in as_text(report, args.top):
        tell(line)
    for size, count in buckets(report):
        tell(say("bucket {size}: {count}", size=size, count=count))
    odd = [row for row in report.rows if row.remarks]
    tell(say("{count:picture|pictures} with remarks", count=len(odd)))
    few([say("  {picture}: {remarks}", picture=row.picture, remarks=together(row.remarks)) for row in odd], 20)
    tell(f"{folder / 'report.html'}, {folder / 'ledger.csv'}")


def make(data: PictureSet) -> Report:
    """Scan, look at every picture, count."""
    plan = scan(data.config, ScanRules())
    plan = replace(plan, items=tuple(item for item in plan.items if item.path.parent in {one.path for one in data.folders}))
    pictures = [path for _, path in data.pictures()]
    seen = look_at(pictures, THUMBNAIL if len(pictures) <= MANY else THUMBNAIL // 2)
    loop = sections.loop(data.flags, 0)
    if loop.max_train_epochs is None and not data.flags.given("max_train_steps"):
        loop = replace(loop, max_train_epochs=EPOCHS)
    return Report(data, plan, rows(data, plan, seen), of_plan(plan, step_plan(plan, loop)))


def as_text(report: Report, top: int) -> list[str]:
    """The report in lines."""
    training = [row for row in report.rows if not row.regularisation]
    lines: list[str] = [say("{count:picture|pictures} to train on, {reg} for regularisation", count=len(training),
                            reg=len(report.rows) - len(training))]
    for folder in report.data.folders:
        inside = [row for row in report.rows if row.path.parent == folder.path]
        kind = say(", regularisation") if folder.subset.is_reg else ""
        lines.append(say("  {name}: {count:picture|pictures} x {repeats}, {captions:caption|captions}{kind}", name=folder.path.name,
                         count=len(inside), repeats=folder.subset.num_repeats, kind=kind,
                         captions=sum(row.has_caption for row in inside)))
    lines += [say("steps: {line}", line=line) for line in in_words(report.steps)]
    if not (report.data.flags.given("max_train_epochs") or report.data.flags.given("max_train_steps")):
        lines.append(say("  ({epochs} epochs are assumed; --max_train_epochs, --train_batch_size say otherwise)", epochs=EPOCHS))
    tokens = [row.tokens for row in training if row.has_caption]
    if tokens:
        lines.append(say("captions: {mean:.0f} tokens on average, the longest {longest}", mean=sum(tokens) / len(tokens),
                         longest=max(tokens)))
    for name, counts in frequencies(report).items():
        common = [f"{tag} ({count})" for tag, count in counts.most_common(top)]
        lines += [say("tags of {name}: {tags}", name=name, tags=common)] if common else []
    lines += [say("{severity}: {where}: {what}", severity=SEVERITIES[one.severity], where=one.where, what=one.what)
              for one in report.plan.problems if one.severity != "note"]
    return [*lines, *not_taken(report.data)]


def not_taken(data: PictureSet) -> list[str]:
    """Picture files of kinds that are not read, and captions whose picture is not there."""
    endings: Counter[str] = Counter()
    orphans: list[str] = []
    for folder in data.folders:
        names = {path.name for path in folder.path.iterdir()}
        captions = {caption.name for path in folder.pictures() if (caption := folder.caption_of(path)) is not None}
        kinds = {name: Path(name).suffix.lower() for name in names if Path(name).suffix.lower() in files.UNREAD_IMAGES}
        unread = {name: kind for name, kind in kinds.items() if kind not in files.image_suffixes()}
        endings.update(unread.values())
        stems = {Path(name).stem for name in unread}
        orphans += sorted(data.label(folder.path / name) for name in names - captions
                          if Path(name).suffix == folder.subset.caption_extension and Path(name).stem not in stems)
    found: list[str] = []
    if endings:
        found.append(say("warn: files of kinds that are not read: {kinds}. Save them as PNG or JPEG to train on them",
                         kinds=[f"{count} {ending}" for ending, count in endings.items()]))
    if orphans:
        found.append(say("warn: {count:caption belongs|captions belong} to no picture: {names}", count=len(orphans),
                         names=listed(orphans)))
    return found


def buckets(report: Report) -> list[tuple[str, int]]:
    """(size, pictures with repeats)."""
    return [(f"{width}x{height}", count) for part in range(len(report.plan.parts))
            for (width, height), count in report.plan.bucket_counts(part)]


def frequencies(report: Report) -> dict[str, Counter[str]]:
    """For each training folder, in how many captions each tag stands."""
    return {folder.path.name: tags.frequencies(tags.parse(row.caption.split("\n")[0], folder.subset.caption_separator)
                                               for row in report.rows if row.path.parent == folder.path and row.has_caption)
            for folder in report.data.folders if not folder.subset.is_reg}


def as_json(report: Report) -> dict:
    """The report as plain values."""
    return {"root": str(report.data.root), "steps": asdict(report.steps), "arithmetic": in_words(report.steps),
            "buckets": dict(buckets(report)),
            "tags": {name: dict(counts.most_common()) for name, counts in frequencies(report).items()},
            "problems": [asdict(one) for one in report.plan.problems],
            "pictures": [row.cells() for row in report.rows]}


def as_page(report: Report, top: int) -> str:
    """The report with all thumbnails on one page."""
    summary = "".join(f"<p>{html.text(line)}</p>" for line in as_text(report, 0))
    sizes = html.table((say("bucket"), say("pictures x repeats")), [(size, str(count)) for size, count in buckets(report)], (1,))
    common = [(html.text(name), html.text(", ".join(f"{tag} ({count})" for tag, count in counts.most_common(top))))
              for name, counts in frequencies(report).items()]
    folded = f"<details><summary>{html.text(say('sizes trained at'))}</summary>{sizes}</details>"
    above = html.sections([("", summary), (say("Tags"), html.table((say("folder"), say("commonest tags")), common)),
                           (say("Buckets"), folded)])
    cards = tuple(Card(row.picture, row.folder, row.thumbnail, _lines(row), row.remarks) for row in report.rows)
    root = report.data.root.absolute()
    return page(say("Pictures of {folder}", folder=root.name), str(root), above, [Group("", cards)])


def _lines(row: Row) -> tuple[str, ...]:
    cells = row.cells()
    return (say("{folder} x {repeats}, {size} -> {bucket}, {tokens:token|tokens}", folder=row.folder, repeats=row.repeats,
                size=cells["size"], bucket=cells["bucket"] or "?", tokens=row.tokens), row.caption)
