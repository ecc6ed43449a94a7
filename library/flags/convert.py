"""Typed words -> a flag's value, for the command line and for files alike."""

from __future__ import annotations

from typing import Any

from library.flags.flag import CONVERTERS, TYPE_WORDS, Flag
from library.util.near import near
from library.util.records import Problem
from library.util.secrets import mask

PLAIN_DEFAULTS: dict[str, dict[str, Any]] = {
    "max_token_length": {"75": None},
    "dynamo_backend": {"no": "inductor"},
    "log_with": {"none": None},
    "save_precision": {"fp32": "float", "none": None},
    "mixed_precision": {"fp32": "no", "none": "no"},
    "lr_scheduler_type": {"none": ""},
}
"""Words outside a flag's choices that plainly name its default or one of its choices."""


class NotUnderstood(Exception):
    """A word that is no value of its flag; the arguments are what is wrong and the remedy."""


def convert(flag: Flag, text: str) -> Any:
    """One word as the flag's type, checked against its choices. Raises NotUnderstood."""
    plain = PLAIN_DEFAULTS.get(flag.name, {})
    if text.lower() in plain:
        return plain[text.lower()]
    try:
        value = CONVERTERS[flag.type](text)
    except ValueError:
        shown = mask(text)
        remedy = f"Give {TYPE_WORDS[flag.type]}."
        if looks_like_placeholder(text):
            remedy = (
                f"{shown} looks like a placeholder of a guide: put {TYPE_WORDS[flag.type]} of your own in its place."
            )
        raise NotUnderstood(f'"{shown}" is not {TYPE_WORDS[flag.type]}', remedy) from None
    if flag.choices and value not in flag.choices:
        known = [str(choice) for choice in flag.choices if choice is not None]
        raise NotUnderstood(
            f'"{mask(text)}" is not one of its values', f"{near(text, known)} Possible: {', '.join(known)}."
        )
    return value


def looks_like_placeholder(text: str) -> bool:
    """Whether a word stands in guides for the reader's own value: ``DIM_FOR_X``, ``<path>``, ``...``, ``$dim``."""
    bare = text.strip()
    return (
        bare in ("...", "…")
        or (bare.startswith("<") and bare.endswith(">"))
        or bare.startswith("$")
        or (len(bare) > 2 and bare.startswith("%") and bare.endswith("%"))
        or (len(bare) > 3 and bare.isupper() and "_" in bare)
    )


def problem(flag: Flag, where: str, error: NotUnderstood) -> Problem:
    """A Problem from a word that was not understood."""
    what, remedy = error.args
    return Problem(where, f"{flag.option}: {what}." if where != flag.option else f"{what}.", remedy, check="flags")
