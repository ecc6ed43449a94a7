"""Every key of a data set file: its kind, the tables that may hold it and the flag that it falls back to."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from library.util.said import say

GENERAL, DATASET, SUBSET = "[general]", "[[datasets]]", "[[datasets.subsets]]"
EVERYWHERE = (GENERAL, DATASET, SUBSET)
NOT_SUBSET = (GENERAL, DATASET)


@dataclass(frozen=True)
class Key:
    """One key: ``read(value)`` gives (value, what was understood or "") or raises ValueError with what is expected."""

    read: Callable[[Any], tuple[Any, str]]
    tables: tuple[str, ...] = EVERYWHERE
    flag: str | None = None
    """Flag whose value holds where no table has the key; "" = the flag of the same name, None = no flag."""
    ours: bool = False


def _changed(value: Any, found: Any) -> tuple[Any, str]:
    return found, say("{value!r} is read as {found!r}", value=value, found=found)


def integer(value: Any) -> tuple[Any, str]:
    if isinstance(value, int):
        return int(value), ""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError("a whole number") from None
    if not number.is_integer():
        raise ValueError("a whole number")
    return _changed(value, int(number))


def real(value: Any) -> tuple[Any, str]:
    if isinstance(value, bool):
        raise ValueError("a number")
    if isinstance(value, int | float):
        return float(value), ""
    try:
        return _changed(value, float(value))
    except (TypeError, ValueError):
        raise ValueError("a number") from None


def strict_real(value: Any) -> tuple[Any, str]:
    """A number that kohya wants with a point (``0.0``); whole ones are accepted here."""
    found, note = real(value)
    if isinstance(value, int):
        note = say("{value} is accepted for {found} (kohya refuses it without the point)", value=value, found=found)
    return found, note


def truth(value: Any) -> tuple[Any, str]:
    if isinstance(value, bool):
        return value, ""
    words = {"true": True, "1": True, "false": False, "0": False}
    if str(value).lower() not in words:
        raise ValueError("true or false")
    return _changed(value, words[str(value).lower()])


def text(value: Any) -> tuple[Any, str]:
    if isinstance(value, str):
        return value, ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _changed(value, str(value))
    raise ValueError("text in quotes")


def path(value: Any) -> tuple[Any, str]:
    found, note = text(value)
    if not found:
        raise ValueError("a path")
    return found, note


def size(value: Any) -> tuple[Any, str]:
    """A resolution: 512, [512, 768] (width, height), and what kohya refuses: "512,512", 512.0, [512]."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value), ""
    parts = (
        value
        if isinstance(value, list)
        else re.split(r"\s*[,x×* ]\s*", value.strip())
        if isinstance(value, str)
        else [value]
    )
    try:
        numbers = [integer(part)[0] for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or isinstance(value, bool):
        raise ValueError("one number or [width, height]")
    found = (numbers[0], numbers[-1])
    plain = isinstance(value, list) and all(type(part) is int for part in value) and len(value) == 2
    return found, "" if plain else say("{value!r} is read as {found[0]}x{found[1]}", value=value, found=found)


def span(value: Any) -> tuple[Any, str]:
    """A range of two numbers: [2.0, 4.0], and "2.0,4.0"."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        numbers = tuple(real(part)[0] for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 2:
        raise ValueError("two numbers, for example [2.0, 4.0]")
    plain = isinstance(value, list) and all(isinstance(part, float) for part in value)
    return numbers, "" if plain else say("{value!r} is read as {numbers}", value=value, numbers=str(numbers))


def table(value: Any) -> tuple[Any, str]:
    if not isinstance(value, dict):
        raise ValueError("a table")
    return value, ""


KEYS: dict[str, Key] = {
    "batch_size": Key(integer, NOT_SUBSET, "train_batch_size"),
    "resolution": Key(size, NOT_SUBSET, ""),
    "enable_bucket": Key(truth, NOT_SUBSET, ""),
    "min_bucket_reso": Key(integer, NOT_SUBSET, ""),
    "max_bucket_reso": Key(integer, NOT_SUBSET, ""),
    "bucket_reso_steps": Key(integer, NOT_SUBSET, ""),
    "bucket_no_upscale": Key(truth, NOT_SUBSET, ""),
    "validation_split": Key(strict_real, NOT_SUBSET, ""),
    "validation_seed": Key(integer, NOT_SUBSET, ""),
    "num_repeats": Key(integer, EVERYWHERE, "dataset_repeats"),
    "shuffle_caption": Key(truth, EVERYWHERE, ""),
    "keep_tokens": Key(integer, EVERYWHERE, ""),
    "keep_tokens_separator": Key(text, EVERYWHERE, ""),
    "secondary_separator": Key(text, EVERYWHERE, ""),
    "caption_separator": Key(text, EVERYWHERE, ""),
    "enable_wildcard": Key(truth, EVERYWHERE, ""),
    "color_aug": Key(truth, EVERYWHERE, ""),
    "flip_aug": Key(truth, EVERYWHERE, ""),
    "face_crop_aug_range": Key(span, EVERYWHERE, ""),
    "random_crop": Key(truth, EVERYWHERE, ""),
    "token_warmup_min": Key(integer, EVERYWHERE, ""),
    "token_warmup_step": Key(real, EVERYWHERE, ""),
    "caption_prefix": Key(text, EVERYWHERE, ""),
    "caption_suffix": Key(text, EVERYWHERE, ""),
    "custom_attributes": Key(table),
    "resize_interpolation": Key(text, EVERYWHERE, ""),
    "caption_dropout_rate": Key(real, EVERYWHERE, ""),
    "caption_dropout_every_n_epochs": Key(integer, EVERYWHERE, ""),
    "caption_tag_dropout_rate": Key(real, EVERYWHERE, ""),
    "caption_extension": Key(text, EVERYWHERE, ""),
    "class_tokens": Key(text),
    "cache_info": Key(truth, EVERYWHERE, ""),
    "alpha_mask": Key(truth, EVERYWHERE, ""),
    "is_reg": Key(truth, (SUBSET,)),
    "image_dir": Key(path, (SUBSET,)),
    "metadata_file": Key(path, (SUBSET,)),
    "conditioning_data_dir": Key(path, (SUBSET,)),
    "network_multiplier": Key(strict_real),
    "slider_strength": Key(real, EVERYWHERE, ours=True),
    "probability": Key(real, EVERYWHERE, ours=True),
}
"""``alpha_mask``, ``class_tokens`` and ``network_multiplier`` are accepted in more tables than kohya has them in."""

ELSEWHERE = {
    "train_batch_size": "batch_size",
    "image_directory": "image_dir",
    "path": "image_dir",
    "repeats": "num_repeats",
    "dataset_repeats": "num_repeats",
    "caption_ext": "caption_extension",
    "trigger_word": "class_tokens",
    "in_json": "metadata_file",
    "image_jsonl_file": "metadata_file",
    "train_data_dir": "image_dir",
    "mask_path": "conditioning_data_dir",
}
"""Names of other programs -> ours."""
