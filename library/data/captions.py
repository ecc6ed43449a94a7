"""From a caption file's lines to the text of one step: kohya's pipeline, in kohya's order of random draws."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from library.config.run_config import SubsetConfig


@dataclass(frozen=True)
class Moment:
    """Where training stands when a caption is made: what dropout by epoch and token warm-up depend on."""

    epoch: int = 0
    step: int = 0
    max_steps: int = 0


def base_caption(lines: Sequence[str], subset: SubsetConfig) -> str:
    """What a picture's caption is before anything random: its first line, or all lines where wildcards are on."""
    return "\n".join(lines) if subset.enable_wildcard else (lines[0] if lines else "")


def make(caption: str, subset: SubsetConfig, moment: Moment, rng: random.Random) -> str:
    """The caption of one step: prefix, suffix, dropout, wildcards, shuffling, token warm-up, tag dropout.

    Draws from ``rng`` in kohya's order: dropout, line, wildcards left to right, shuffle, one draw a tag.
    """
    if subset.caption_prefix:
        caption = f"{subset.caption_prefix} {caption}"
    if subset.caption_suffix:
        caption = f"{caption} {subset.caption_suffix}"
    if _is_dropped(subset, moment, rng):
        return ""
    caption = wildcards(caption, rng) if subset.enable_wildcard else caption.split("\n", 1)[0]
    if subset.shuffle_caption or subset.token_warmup_step > 0 or subset.caption_tag_dropout_rate > 0:
        caption = ", ".join(_chosen_tags(caption, subset, moment, rng))
    if subset.secondary_separator:
        caption = caption.replace(subset.secondary_separator, subset.caption_separator)
    return caption


def settled(caption: str, subset: SubsetConfig) -> str:
    """The caption with nothing left to chance: no tag dropped or moved, the same words for wildcards each time."""
    still = replace(subset, shuffle_caption=False, caption_dropout_rate=0.0, caption_dropout_every_n_epochs=0,
                    caption_tag_dropout_rate=0.0, token_warmup_step=0)
    return make(caption, still, Moment(epoch=1), random.Random(0))


def _is_dropped(subset: SubsetConfig, moment: Moment, rng: random.Random) -> bool:
    if subset.caption_dropout_rate > 0 and rng.random() < subset.caption_dropout_rate:
        return True
    every = subset.caption_dropout_every_n_epochs
    return every > 0 and moment.epoch % every == 0


OPEN, CLOSE = "\0open\0", "\0close\0"


def wildcards(caption: str, rng: random.Random) -> str:
    """Take one of several lines and one word of each ``{a|b}``; ``{{`` and ``}}`` stand for the braces themselves."""
    if "\n" in caption:
        caption = rng.choice(caption.split("\n"))
    guarded = caption.replace("{{", OPEN).replace("}}", CLOSE)
    chosen = re.sub(r"\{([^}]+)\}", lambda found: rng.choice(found.group(1).split("|")), guarded)
    return chosen.replace(OPEN, "{").replace(CLOSE, "}")


@dataclass(frozen=True)
class Tags:
    """A caption cut up: ``first`` and ``last`` stay where they are, ``flexible`` may be shuffled and dropped."""

    first: list[str]
    flexible: list[str]
    last: list[str]


def cut(caption: str, subset: SubsetConfig) -> Tags:
    """Cut a caption at its separators; with ``keep_tokens_separator`` in it, empty tags go, else they stay (kohya)."""
    mark, comma = subset.keep_tokens_separator, subset.caption_separator
    if mark and mark in caption:
        pieces = caption.split(mark, 2)
        parts = [[tag.strip() for tag in piece.split(comma) if tag.strip()] for piece in pieces]
        return Tags(parts[0], parts[1], parts[2] if len(parts) > 2 else [])
    tags = [tag.strip() for tag in caption.strip().split(comma)]
    return Tags(tags[: subset.keep_tokens], tags[subset.keep_tokens:], [])


def _chosen_tags(caption: str, subset: SubsetConfig, moment: Moment, rng: random.Random) -> list[str]:
    tags = cut(caption, subset)
    flexible = list(tags.flexible[: warmed_up(len(tags.flexible), subset, moment)])
    if subset.shuffle_caption:
        rng.shuffle(flexible)
    if subset.caption_tag_dropout_rate > 0:
        flexible = [tag for tag in flexible if rng.random() >= subset.caption_tag_dropout_rate]
    return [*tags.first, *flexible, *tags.last]


def warmed_up(count: int, subset: SubsetConfig, moment: Moment) -> int:
    """How many flexible tags are in use at this step (``token_warmup_step`` below 1 is a part of the run)."""
    warmup = subset.token_warmup_step
    if 0 < warmup < 1:
        warmup = math.floor(warmup * moment.max_steps)
    if not warmup or moment.step >= warmup:
        return count
    return math.floor(moment.step * ((count - subset.token_warmup_min) / warmup)) + subset.token_warmup_min
