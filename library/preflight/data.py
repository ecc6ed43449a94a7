"""Checks of pictures and captions, on the plan that ``library.data.scan`` made of them.

What the scan itself found is passed on; here stands what follows from the plan as a whole.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from library.data.loading import step_plan
from library.preflight.pictures import SHOWN, named
from library.preflight.registry import Context, check
from library.util.records import Problem
from library.util.secrets import has_secret

WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|[^\s\w]+|_", re.IGNORECASE)
"""CLIP's way of cutting a text before byte pairs are joined: each piece is at least one token."""
BROKEN_TEXT = re.compile("\ufffd|縺|繧|譁|Ã[\x80-\xbf©¤¶¼]|â€|\x00")
"""Typical remains of a text that was read in the wrong encoding."""
TAILS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND\xaeB`\x82"}
"""Last bytes of a whole picture file; trailing bytes may follow."""
FOLDER_FLAGS = ("--train_data_dir", "--reg_data_dir")


def training(context: Context) -> list[Any]:
    """The items that are trained as the subject, not as regularisation."""
    return [item for item in context.plan.items if not item.is_reg]


@check("scan", level="data", row="F01", needs=("plan",))
def check_scan(context: Context) -> Iterator[Problem]:
    """What the scan found: no pictures, folders one level off, sizes without buckets, captions that are missing, ..."""
    groups: dict[tuple[str, str, str], list[Problem]] = defaultdict(list)
    for problem in context.plan.problems:
        missing = problem.where in FOLDER_FLAGS and not (context.cwd / str(context.flag(problem.where[2:]) or "")).is_dir()
        if not missing and problem.where not in context.facts.get("wrong_sizes", ()):  # other checks have said these
            alike = re.sub(r"\d+", "0", problem.what)
            groups[problem.severity, alike, re.sub(r"\d+", "0", problem.remedy)].append(problem)
    for (severity, _, _), alike_ones in groups.items():
        if len(alike_ones) <= SHOWN:
            yield from alike_ones
            continue
        paths = [Path(p.where) for p in alike_ones]
        where = str(paths[0].parent) if len({p.parent for p in paths}) == 1 else "--train_data_dir"
        yield replace(
            context.problem(severity, "scan_many", where, count=len(paths), names=named(paths), what=alike_ones[0].what),
            remedy=alike_ones[0].remedy,
        )


@dataclass(frozen=True)
class Steps:
    """The arithmetic of a run: pictures x repeats x epochs / batch."""

    per_epoch: int
    total: int
    epochs: int


def steps_of(context: Context) -> Steps:
    """Count batches as the loader will make them."""
    assert context.config is not None
    plan = step_plan(context.plan, context.config.loop, world_size(context))
    return Steps(plan.steps_per_epoch, plan.steps, plan.epochs)


def world_size(context: Context) -> int:
    """Processes that train together."""
    return int(context.machine.env.get("WORLD_SIZE") or 1)


@check("plan_steps", level="data", row="F63", needs=("config", "plan"))
def check_plan(context: Context) -> Iterator[Problem]:
    """The arithmetic in one line; and, with regularisation pictures, why an epoch has twice the steps."""
    assert context.config is not None
    if not training(context):
        return
    steps, reg = steps_of(context), context.plan.images(reg=True)
    context.facts["steps"] = steps.total
    batch = max(p.batch_size for p in context.config.data.parts)
    yield context.note(
        "plan_steps",
        "steps",
        images=context.plan.pictures(),
        repeated=context.plan.images(),
        reg=f" + {reg} reg" if reg else "",
        per_epoch=steps.per_epoch,
        epochs=steps.epochs,
        batch=batch,
        steps=steps.total,
    )
    if reg:
        yield context.note("reg_doubles", "--reg_data_dir", steps=steps.per_epoch)


@check("data_few", level="data", row="F12", needs=("plan",))
def check_count(context: Context) -> Iterator[Problem]:
    """Very few pictures."""
    count = len({item.path for item in training(context)})
    if 0 < count < 5 and not context.plan.has_strengths:
        yield context.warn("data_few", "--train_data_dir", images=count)
    elif 5 <= count < 10 and not context.plan.has_strengths:
        yield context.note("data_few.some", "--train_data_dir", images=count)


@check("steps_many", level="data", row="F12", needs=("config", "plan"))
def check_steps(context: Context) -> Iterator[Problem]:
    """Far too many steps for the pictures, or too few to see anything."""
    count = len({item.path for item in training(context)})
    if not count:
        return
    assert context.config is not None
    total, batch = steps_of(context).total, max(p.batch_size for p in context.config.data.parts)
    if total * batch > 5000 and count < 50 and total * batch / count > 200:
        yield context.warn("steps_many", "--max_train_steps", steps=total, images=count)
    elif total * batch < 200:
        yield context.warn("steps_few", "--max_train_steps", steps=total, batch=batch)


def tags(item: Any, separator: str = ",") -> list[str]:
    """The tags of an item's (first) caption."""
    return [t.strip() for t in item.caption.split("\n")[0].split(separator) if t.strip()]


def by_folder(context: Context) -> dict[Path, list[Any]]:
    """Training items that have a caption, by folder."""
    folders: dict[Path, list[Any]] = defaultdict(list)
    for item in training(context):
        if item.has_caption:
            folders[item.path.parent].append(item)
    return folders


@check("keep_tokens_long", level="data", row="F26", needs=("plan",))
def check_keep_tokens(context: Context) -> Iterator[Problem]:
    """keep_tokens that leaves nothing to shuffle."""
    keep, items = context.flag("keep_tokens") or 0, [i for group in by_folder(context).values() for i in group]
    if not keep or not items or not context.flag("shuffle_caption"):
        return
    short = sum(len(tags(item)) <= keep for item in items)
    if short > len(items) / 2:
        yield context.warn("keep_tokens_long", "--keep_tokens", keep=keep, count=short, images=len(items))


@check("trigger_missing", level="data", row="F24", needs=("plan",))
def check_trigger(context: Context) -> Iterator[Problem]:
    """keep_tokens keeps the first tags in front, which only helps where they are the same trigger everywhere."""
    keep = context.flag("keep_tokens") or 0
    if not keep or not context.flag("shuffle_caption") or context.flag("keep_tokens_separator"):
        return
    for folder, items in by_folder(context).items():
        firsts = Counter(tags(item)[0] for item in items if tags(item))
        if len(items) >= 5 and firsts and firsts.most_common(1)[0][1] < len(items) / 2:
            yield context.warn(
                "trigger_missing", str(folder), folder=folder.name, keep=keep, examples=", ".join(list(firsts)[:SHOWN])
            )


@check("captions_same", level="data", row="F26", needs=("plan",))
def check_same_captions(context: Context) -> Iterator[Problem]:
    """One caption for everything."""
    for folder, items in by_folder(context).items():
        captions = {item.caption for item in items}
        if len(items) >= 5 and len(captions) == 1:
            caption = captions.pop()
            if len(tags(items[0])) > 1:
                yield context.note("captions_same", str(folder), folder=folder.name, images=len(items), caption=caption[:60])


@check("captions_long", level="data", row="F26", needs=("config", "plan"))
def check_long_captions(context: Context) -> Iterator[Problem]:
    """Captions that are surely longer than the text encoder's limit."""
    from library.families.registry import get

    assert context.config is not None
    slots = get(context.config.model.family).SPEC.text_slots
    if not slots or any(slot.max_length != 77 for slot in slots):
        return
    limit = context.config.model.max_token_length or 75
    long = [
        item.path for item in training(context) if any(len(WORD.findall(line)) > limit for line in item.caption.split("\n"))
    ]
    if long:
        yield context.warn(
            "captions_long",
            "--max_token_length",
            count=len(long),
            limit=limit,
            names=named(long),
            more=150 if limit < 150 else 225,
        )


@check("captions_mojibake", level="data", row="F62", needs=("plan",))
def check_mojibake(context: Context) -> Iterator[Problem]:
    """Captions that were saved in one encoding and read in another."""
    broken = [item.path for item in context.plan.items if BROKEN_TEXT.search(item.caption)]
    if broken:
        yield context.warn("captions_mojibake", str(broken[0].parent), count=len(broken), names=named(broken))


@check("caption_secret", level="data", row="F72", needs=("plan",))
def check_caption_secrets(context: Context) -> Iterator[Problem]:
    """A token that was pasted into a caption."""
    holding = [item.path for item in context.plan.items if has_secret(item.caption)]
    if holding:
        yield context.warn("caption_secret", str(holding[0].parent), names=named(holding))


@check("captions_orphan", level="data", row="F26", needs=("plan",))
def check_orphans(context: Context) -> Iterator[Problem]:
    """Caption files without a picture: names that do not match."""
    extension = "." + (context.flag("caption_extension") or ".caption").lower().lstrip(".")
    stems: dict[Path, set[str]] = defaultdict(set)
    for item in context.plan.items:
        stems[item.path.parent].add(item.path.stem.lower())
    for folder in sorted({item.path.parent for item in training(context)}):
        pictured = sorted(stems[folder])
        alone = [folder / n for n in sorted(os.listdir(folder))
                 if n.lower().endswith(extension) and not _has_beginning(pictured, n[: -len(extension)].lower())]
        if len(alone) >= 3:
            yield context.note("captions_orphan", str(folder), folder=folder.name, count=len(alone), names=named(alone))


def _has_beginning(ordered: list[str], beginning: str) -> bool:
    """Whether one of the ordered names begins so: pictures with face data have more in their names than their captions."""
    place = bisect_left(ordered, beginning)
    return place < len(ordered) and ordered[place].startswith(beginning)


@check("bucket_small", level="data", row="F06", needs=("config", "plan"))
def check_buckets(context: Context) -> Iterator[Problem]:
    """Buckets with fewer pictures than a batch."""
    for index, part in enumerate(context.plan.parts):
        counts = context.plan.bucket_counts(index)
        small = sum(count < part.batch_size for _, count in counts)
        if part.batch_size > 1 and small:
            yield context.note("bucket_small", "--enable_bucket", count=small, buckets=len(counts), batch=part.batch_size)


@check("images_small", level="data", row="F33", needs=("plan",))
def check_small_images(context: Context) -> Iterator[Problem]:
    """Pictures that are blown up to more than twice their size."""
    items = training(context)
    small = [
        item.path for item in items if max(item.placement.bucket[0] / item.size[0], item.placement.bucket[1] / item.size[1]) > 2
    ]
    if small:
        yield context.warn("images_small", "--resolution", count=len(small), images=len(items), names=named(small))


@check("image_cut_off", level="data", row="F33", needs=("plan",))
def check_image_ends(context: Context) -> Iterator[Problem]:
    """Pictures whose last bytes are missing, told without decoding them."""
    cut = [path for path in sorted({item.path for item in context.plan.items}) if is_cut_off(path)]
    if cut and not context.flag("allow_truncated_images"):
        yield context.stop("image_cut_off", str(cut[0].parent), count=len(cut), names=named(cut))


def is_cut_off(path: Path) -> bool:
    """Tell from the ends of a file whether a JPEG, PNG or WebP is whole.

    The marker is looked for in the last kilobytes, because cameras and editors append data of their own.
    """
    with path.open("rb") as file:
        start = file.read(16)
        size = file.seek(0, os.SEEK_END)
        if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
            return size < int.from_bytes(start[4:8], "little") + 8
        file.seek(max(0, size - 65536))
        end = file.read()
    if start.startswith(b"\x89PNG"):
        return TAILS[".png"] not in end
    if start.startswith(b"\xff\xd8"):
        return TAILS[".jpg"] not in end
    return False


@check("reg_unused", level="data", row="F83", needs=("plan",))
def check_reg_count(context: Context) -> Iterator[Problem]:
    """More regularisation pictures than are needed."""
    used = len({item.path for item in context.plan.items if item.is_reg})
    there = sum(s.images for s in context.plan.subsets if s.config.is_reg)
    if used and there > used:
        yield context.note("reg_unused", "--reg_data_dir", unused=there - used, reg=there, train=context.plan.images())
