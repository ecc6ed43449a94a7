"""Files that describe pictures: kohya's fine-tuning metadata (JSON, JSON lines) and its cache of sizes and captions."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.run_config import SubsetConfig
from library.util.said import say

from . import files
from .found import Found, listed, nearest_existing

log = logging.getLogger(__name__)
INFO_CACHE = "metadata_cache.json"
"""Beside the pictures, kept with ``cache_info``."""


@dataclass(frozen=True)
class Raw:
    """A picture before its header was read."""

    path: Path
    caption: str
    has_caption: bool
    size: tuple[int, int] | None = None
    """(width, height) where a description tells it."""
    mask_file: Path | None = None
    tags: str | None = None
    """What counts for the tag statistics where that is not the caption."""


def raw_of_metadata(subset: SubsetConfig, found: Found) -> list[Raw]:
    """The pictures of a metadata file, longest names first (kohya's order).

    Keys are paths, absolute or under ``image_dir``, with or without ending. Caption and tags are joined by the caption
    separator; with wildcards the tags follow each line of the caption.
    """
    assert subset.metadata_file is not None
    table = _read_table(subset.metadata_file, found)
    names = _by_stem(subset.image_dir)
    raw, missing = [], []
    for key in sorted(table, key=len, reverse=True):
        entry = table[key]
        path = _picture(key, subset.image_dir, names)
        if path is None:
            missing.append(key)
            continue
        caption, tags = entry.get("caption") or "", entry.get("tags")
        text = _joined(caption, tags, subset)
        raw.append(Raw(path, text, bool(text), tags=tags or ""))
    if missing:
        found.warn(subset.metadata_file, say("{count} of {total} pictures named in it are not found: {listed}.",
                                             count=len(missing), total=len(table), listed=listed(missing)),
                   "Give the right image_dir (--train_data_dir), or write the file anew.")
    return raw


def _read_table(file: Path, found: Found) -> Mapping[str, Mapping[str, Any]]:
    if not file.is_file():
        found.stop(file, "There is no such metadata file.", nearest_existing(file))
        return {}
    text = file.read_text(encoding="utf-8-sig")
    try:
        if file.suffix.lower() == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            table = {line["image_path"]: line for line in lines}
        else:
            table = json.loads(text)
    except (ValueError, KeyError, TypeError) as error:
        found.stop(file, say("This metadata file cannot be read ({error}).", error=error),
                   "Write it anew with the tool that made it.")
        return {}
    if not isinstance(table, dict) or not all(isinstance(entry, dict) for entry in table.values()):
        found.stop(file, "This is no metadata file: it must map each picture to its caption and tags.",
                   'It looks like {"name": {"caption": "...", "tags": "..."}}.')
        return {}
    if not table:
        found.warn(file, "No pictures stand in this metadata file.", "Write it anew with the tool that made it.")
    return table


def _by_stem(folder: Path | None) -> dict[str, Path]:
    return {path.stem: path for path in files.pictures(folder)} if folder is not None and folder.is_dir() else {}


def _picture(key: str, folder: Path | None, names: Mapping[str, Path]) -> Path | None:
    """The picture that a key means."""
    path = Path(key.replace("\\", "/")) if folder is not None else Path(key)
    whole = path if path.is_absolute() or folder is None else folder / path
    if whole.is_file():
        return whole
    if whole.suffix.lower() not in files.image_suffixes():
        beside = next((whole.with_name(whole.name + ending) for ending in sorted(files.image_suffixes())
                       if whole.with_name(whole.name + ending).is_file()), None)
        if beside is not None:
            return beside
    return names.get(path.stem if path.suffix.lower() in files.image_suffixes() else path.name)


def _joined(caption: str, tags: str | None, subset: SubsetConfig) -> str:
    separator = subset.caption_separator
    if not tags:
        return caption
    if not subset.enable_wildcard:
        return f"{caption}{separator}{tags}" if caption else tags
    tags = tags.replace("\n", separator)
    lines = [line for line in caption.split("\n") if line.strip()]
    return "\n".join(f"{line}{separator}{tags}" for line in lines) if lines else tags


def read_info(folder: Path) -> dict[str, Mapping[str, Any]]:
    """What an earlier run noted of a folder's pictures, by file name; {} where there is nothing (readable)."""
    file = folder / INFO_CACHE
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {os.path.basename(key.replace("\\", "/")): entry for key, entry in table.items()}


def write_info(folder: Path, raw: list[Raw], headers: list[files.Header]) -> None:
    """Note captions and sizes for the next run, in kohya's form (sizes as they lie in the file) plus the orientation."""
    table = {}
    for one, header in zip(raw, headers, strict=True):
        if header.size is None:
            continue
        table[os.path.join(folder, one.path.name)] = {
            "caption": one.caption, "resolution": list(header.size), "orientation": header.orientation}
    file = folder / INFO_CACHE
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(table, ensure_ascii=False, indent=2), encoding="utf-8")
        os.replace(partial, file)
    except OSError as error:  # the notes only save time: another run that reads them (Windows) or a full disk ends nothing
        log.warning(say("The cache {name} cannot be written: {error}.", name=file.name, error=error))
        with suppress(OSError):
            partial.unlink(missing_ok=True)
