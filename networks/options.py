"""Reading ``--network_args``: one dataclass per adapter declares what may be given, with type and default.

A field's annotation is its type (``int``, ``float``, ``bool``, ``str``, each perhaps ``| None``); its metadata may hold
``choices``. Values arrive as strings, kohya's contract.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from library.util.records import Problem, UserError
from library.util.said import say

Options = TypeVar("Options")

_TRUE = {"true", "1", "yes", "on"}
_FALSE = {"false", "0", "no", "off", ""}


NOT_HERE = {
    "train_t5xxl": "T5 gets no adapter here; leave it out: CLIP and the denoiser are trained.",
    **dict.fromkeys(("ggpo_sigma", "ggpo_beta"), "LoRA-GGPO's disturbed weights are not here; leave both out, or use "
                    "rank_dropout or --ip_noise_gamma against over-fitting."),
}
"""kohya's arguments that no adapter here takes -> the way out. One that is switched off asks for what happens."""


def _to_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError(text)


_CONVERT: dict[type, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    bool: (_to_bool, "true or false"),
    str: (str, "a word"),
}


def _plain_type(annotation: Any) -> type:
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return next(t for t in typing.get_args(annotation) if t is not type(None))
    return annotation


def _near(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    listed = ", ".join(sorted(known))
    return (f"Did you mean {' or '.join(close)}? " if close else "") + f"It knows: {listed}."


def read_options(cls: type[Options], args: Mapping[str, Any], module: str) -> Options:
    """Turn ``--network_args`` into the adapter's options record.

    Raises UserError that holds every unknown name, with the near ones, and every value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in args.items():
        where = f"--network_args {name}={value}"
        if name not in fields and name in NOT_HERE and str(value).strip().lower() in _FALSE:
            continue
        if name not in fields:
            problems.append(Problem(where, say("{module} has no argument {name!r}.", module=module, name=name),
                                    NOT_HERE.get(name) or _near(name, list(fields))))
            continue
        if value is None:
            continue
        convert, kind = _CONVERT[_plain_type(hints[name])]
        try:
            values[name] = convert(str(value))
        except ValueError:
            problems.append(
                Problem(
                    where,
                    say("{name} must be {kind}; {value!r} is not.", name=name, kind=kind, value=value),
                    say("Write {name}=VALUE.", name=name),
                )
            )
            continue
        choices = fields[name].metadata.get("choices")
        if choices and values[name] not in choices:
            problems.append(
                Problem(
                    where,
                    say("{name} cannot be {value!r}.", name=name, value=value),
                    say("Choose one of {choices}.", choices=choices),
                )
            )
    if problems:
        raise UserError(*problems)
    return cls(**values)
