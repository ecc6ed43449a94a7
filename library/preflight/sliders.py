"""Checks of slider training: two directions, of equal weight, and a text encoder that is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from library.data.order import sign_counts
from library.preflight.data import world_size
from library.preflight.options import text_rates
from library.preflight.registry import Context, check
from library.util.records import Problem


def strengths(context: Context) -> dict[Any, float]:
    """Folder -> slider strength of the subsets that have one, in a file or in the folder's name; 0 is neutral."""
    return {
        s.config.image_dir or s.config.metadata_file: s.config.slider_strength
        for s in context.plan.subsets
        if s.config.slider_strength is not None
    }


def is_slider(context: Context) -> bool:
    """Tell a slider run: a target preset was asked for, or a subset has a strength."""
    return bool(context.flag("slider_lora_target")) or bool(strengths(context))


@check("slider_one_sign", level="data", needs=("config", "plan"))
def check_signs(context: Context) -> Iterator[Problem]:
    """A slider needs pictures of both directions."""
    assert context.config is not None
    every = strengths(context).values()
    given = [s for s in every if s]
    if every and not given and context.config.data.slider.neutral != "plain":
        yield context.stop("slider_one_sign.neutral", "slider_strength")
    if not is_slider(context) or not given:
        return
    if min(given) > 0 or max(given) < 0:
        up = min(given) > 0
        yield context.warn(
            "slider_one_sign",
            "slider_strength",
            side="above" if up else "below",
            strengths=", ".join(f"{s:g}" for s in sorted(set(given))),
            opposite=f"{-max(given, key=abs):g}",
        )


@check("slider_text", level="data", needs=("config", "plan"))
def check_text(context: Context) -> Iterator[Problem]:
    """A slider leaves the text encoder alone."""
    assert context.config is not None
    if is_slider(context) and context.config.network.train_text_encoder and any(text_rates(context)):
        yield context.warn("slider_text", "--text_encoder_lr", rate=", ".join(f"{r:g}" for r in text_rates(context)))


@check("slider_steps", level="data", needs=("config", "plan"))
def check_accumulation(context: Context) -> Iterator[Problem]:
    """Accumulated batches should hold every direction."""
    assert context.config is not None
    groups = sum(count > 0 for count in sign_counts(context.plan).values())  # a batch of pairs holds both sides
    steps, together = context.config.loop.gradient_accumulation_steps, world_size(context)
    if strengths(context) and groups > 1 and steps > 1 and steps * together % groups:
        yield context.warn("slider_steps", "--gradient_accumulation_steps", steps=steps, groups=groups)


@check("slider_unequal", level="data", needs=("config", "plan"))
def check_balance(context: Context) -> Iterator[Problem]:
    """Both directions should have equally many pictures, and enough of them."""
    if not is_slider(context):
        return
    given = [item.strength for item in context.plan.items if item.strength]
    positive, negative = sum(s > 0 for s in given), sum(s < 0 for s in given)
    if not positive or not negative:
        return
    if max(positive, negative) > 1.5 * min(positive, negative):
        yield context.note("slider_unequal", "slider_strength", positive=positive, negative=negative)
    if min(positive, negative) < 4:
        yield context.note("slider_few", "slider_strength", pairs=min(positive, negative))
