"""One row for each picture of a data set: what it is, what training makes of it, and what is odd about it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.data import files
from library.data.plan import DatasetPlan, Item
from library.util.said import say

from .examine import BLURRED, Seen
from .places import Folder, PictureSet

COLUMNS = ("picture", "folder", "repeats", "regularisation", "size", "bucket", "tokens", "caption", "remarks")
CHUNK = 75
"""Tokens that CLIP reads at once; longer captions need --max_token_length."""


@dataclass(frozen=True)
class Row:
    """A line of the ledger."""

    picture: str
    path: Path
    folder: str
    repeats: int
    regularisation: bool
    size: tuple[int, int] | None
    bucket: tuple[int, int] | None
    tokens: int
    caption: str
    has_caption: bool
    remarks: tuple[str, ...]
    thumbnail: bytes = b""

    def cells(self) -> dict[str, Any]:
        """The row as plain values, by column."""
        def sides(size: tuple[int, int] | None) -> str:
            return "" if size is None else f"{size[0]}x{size[1]}"

        return {"picture": self.picture, "folder": self.folder, "repeats": self.repeats,
                "regularisation": int(self.regularisation), "size": sides(self.size), "bucket": sides(self.bucket),
                "tokens": self.tokens, "caption": self.caption, "remarks": "; ".join(self.remarks)}


def rows(data: PictureSet, plan: DatasetPlan, seen: Sequence[Seen]) -> list[Row]:
    """The ledger; ``seen`` goes with ``data.pictures()``."""
    items = {item.path: item for item in plan.items}
    pictures = list(data.pictures())
    captions = [items[path].caption if path in items else "" for _, path in pictures]
    tokens = count_tokens(captions)
    return [_row(data, place, items.get(place[1]), look, count)
            for place, look, count in zip(pictures, seen, tokens, strict=True)]


def _row(data: PictureSet, place: tuple[Folder, Path], item: Item | None, seen: Seen, tokens: int) -> Row:
    folder, path = place
    caption = item.caption if item is not None else ""
    has_caption = folder.caption_of(path) is not None if item is None else item.has_caption
    return Row(data.label(path), path, folder.path.name, folder.subset.num_repeats, folder.subset.is_reg, seen.size,
               item.placement.bucket if item is not None else None, tokens, caption, has_caption,
               tuple(remarks(folder, item, seen, tokens)), seen.thumbnail)


def remarks(folder: Folder, item: Item | None, seen: Seen, tokens: int) -> list[str]:
    """What is odd about a picture, the worst first."""
    if seen.fault:
        return [seen.fault]
    found: list[str] = []
    if item is not None and seen.size is not None:
        bucket, resized = item.placement.bucket, item.placement.resized
        grown = max(bucket[0] / seen.size[0], bucket[1] / seen.size[1])
        cut = 1 - bucket[0] * bucket[1] / (resized[0] * resized[1])
        if grown > 1.25:
            found.append(say("tiny: blown up {times:.1f} times" if grown > 2 else "small: blown up {times:.1f} times", times=grown))
        found += [say("{part:.0%} cut off to fit its bucket", part=cut)] if cut > 0.15 else []
    found += [say("shows nothing: one colour")] if seen.plain else []
    found += [say("blurred ({blur:.2f})", blur=seen.blur)] if seen.blur > BLURRED and not seen.plain else []
    found += [say("{part:.0%} transparent", part=seen.clear)] if seen.clear > 0 else []
    found += [say("turned upright by its camera's note")] if seen.orientation != 1 else []
    found += [say("moves: only its first picture is used")] if seen.moves else []
    if item is not None and not folder.subset.is_reg:
        found += _on_caption(folder, item)
    found += [say("caption of {tokens} tokens, more than {most}", tokens=tokens, most=CHUNK)] if tokens > CHUNK else []
    return found


def _on_caption(folder: Folder, item: Item) -> list[str]:
    """What is odd about a training picture's caption."""
    if not item.has_caption:
        return [say("no caption")]
    file = folder.caption_of(item.path)
    lines = sum(map(bool, files.read_caption(file).lines)) if file is not None and not folder.subset.enable_wildcard else 1
    found = [say("only the first of its caption's {lines} lines is read", lines=lines)] if lines > 1 else []
    return [*found, *([] if item.caption.strip() else [say("empty caption")])]


def count_tokens(captions: Sequence[str]) -> list[int]:
    """CLIP's tokens of each caption, its start and end not counted."""
    from library.families.clip import shipped_tokenizer

    if not captions:
        return []
    return [len(ids) - 2 for ids in shipped_tokenizer()(list(captions), truncation=False, verbose=False).input_ids]


def as_csv(found: Sequence[Row]) -> bytes:
    """The ledger as CSV, with the mark by which spreadsheets know UTF-8."""
    memory = io.StringIO(newline="")
    writer = csv.DictWriter(memory, COLUMNS)
    writer.writeheader()
    writer.writerows(row.cells() for row in found)
    return memory.getvalue().encode("utf-8-sig")
