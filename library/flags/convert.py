"""Typed words -> a flag's value, for the command line and for files alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library.flags.flag import CONVERTERS, TYPE_WORDS, Flag, Number
from library.util.near import near
from library.util.records import Problem
from library.util.said import say

PLAIN_DEFAULTS: dict[str, dict[str, Any]] = {
    "max_token_length": {"75": None},
    "dynamo_backend": {"no": "inductor"},
    "log_with": {"none": None},
    "save_precision": {"fp32": "float", "none": None},
    "mixed_precision": {"fp32": "no", "none": "no"},
    "lr_scheduler_type": {"none": ""},
}
"""Words outside a flag's choices that plainly name its default or one of its choices."""


EXAMPLES = {str: "text", int: "10", float: "1e-4", bool: "true", Path: "C:/AI/folder", Number: "100"}
"""Type -> a value, as one would type it."""


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
        wanted = say(TYPE_WORDS[flag.type])
        remedy = say("Give {wanted}, for example {example}.", wanted=wanted, example=EXAMPLES[flag.type])
        if looks_like_placeholder(text):
            remedy = say("{text} looks like a placeholder of a guide: put {wanted} of your own in its place.",
                         text=text, wanted=wanted)
        elif meant := meant_number(flag, text):
            remedy = say("Did you mean {meant}? Numbers are written with a point, as in 1.5e-4.", meant=meant)
        raise NotUnderstood(say('"{text}" is not {wanted}', text=text, wanted=wanted), remedy) from None
    if flag.choices and value not in flag.choices:
        known = [str(choice) for choice in flag.choices if choice is not None]
        raise NotUnderstood(
            say('"{text}" is not one of its values.', text=text),
            say("{near} Possible: {known}.", near=near(text, known), known=known),
        )
    return value


def meant_number(flag: Flag, text: str) -> str:
    """The number that is meant by one with a decimal comma (``0,5``) or with a full stop behind it (``1e-4.``), or ''."""
    if flag.type is not float:
        return ""
    plain = text.strip(" .,;:").replace(",", ".")
    try:
        float(plain)
    except ValueError:
        return ""
    return plain


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
    named = say("{what}.", what=what) if where == flag.option else say("{option}: {what}.", option=flag.option, what=what)
    return Problem(where, named, remedy, check="flags")
