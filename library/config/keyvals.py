"""``name=value`` settings of --network_args, --optimizer_args and --lr_scheduler_args."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

from library.util.records import Problem
from library.util.said import say

_WORDS = {"true": True, "false": False, "none": None, "null": None}
_NAME = re.compile(r"^[A-Za-z_][\w.\-]*$")


def as_strings(flag: str, words: Iterable[str] | None, problems: list[Problem]) -> dict[str, str]:
    """``["conv_dim=4", ...]`` as strings by name, kohya's contract for network modules; problems are appended."""
    found: dict[str, str] = {}
    for word in _pieces(words or ()):
        name, equals, value = word.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not _NAME.match(name):
            problems.append(
                Problem(
                    f"--{flag}",
                    say('"{word}" cannot be read.', word=word),
                    say("Write name=value, for example --{flag} {example}.", flag=flag, example=_EXAMPLES[flag]),
                    check="args_form",
                )
            )
            continue
        found[name] = _unquoted(value)
    return found


_EXAMPLES = {
    "network_args": "conv_dim=4 conv_alpha=1",
    "optimizer_args": "weight_decay=0.1 betas=0.9,0.99",
    "lr_scheduler_args": "num_cycles=3",
}


def as_values(flag: str, words: Iterable[str] | None, problems: list[Problem]) -> dict[str, Any]:
    """The same with values read as Python writes them: ``0.9,0.99`` is a tuple, ``true`` is True, words stay text."""
    found: dict[str, Any] = {}
    for name, value in as_strings(flag, words, problems).items():
        try:
            found[name] = literal(value)
        except ValueError:
            problems.append(
                Problem(
                    f"--{flag}",
                    say("The value of {name} cannot be read: {value}.", name=name, value=value),
                    "Write a number, true, false, a word, or numbers with commas between them.",
                    check="args_form",
                )
            )
    return found


def literal(text: str) -> Any:
    """A value as Python writes it, or a plain word. Raises ValueError for what is neither."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        # A plain word (a mode, a path) needs no quotes; something that looks like an expression is a slip.
        if re.match(r"^[\w.\-:/\\ ,]+$", text):
            return text
        raise ValueError(text) from None


def _pieces(words: Iterable[str]) -> list[str]:
    """One piece per setting: ``weight_decay = 0.1`` in three words is joined, two settings in one word are parted."""
    pieces: list[str] = []
    for word in words:
        text = str(word).strip()
        opens = text.startswith("=") and bool(pieces) and "=" not in pieces[-1]
        if opens or (pieces and pieces[-1].endswith("=") and "=" not in text):
            pieces[-1] += text
        elif text.count("=") > 1 and re.search(r"\s[\w.\-]+\s*=", text):
            pieces += [part.strip() for part in re.split(r"\s+(?=[\w.\-]+\s*=)", text)]
        elif text:
            pieces.append(text)
    return pieces


def _unquoted(value: str) -> str:
    return value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
