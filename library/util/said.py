"""Sentences for people: written in English where they are made, given in another language where they are shown.

A sentence with values is made by ``say``; it is its English text, and remembers what it was made of. A language is one
file, ``languages/<language>.toml``: English sentence = the same in that language, with the same ``{values}``.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from library.util.language import language_of
from library.util.secrets import mask

HERE = Path(__file__).parent / "languages"
JOINS = {"en": (", ", " {} "), "ja": ("、", "、")}
"""Language -> what stands between the entries of a list, and before its last one."""


class Said(str):
    """An English sentence that knows its template and values; everywhere but in the frame it is a plain text."""

    template: str
    values: Mapping[str, Any]


def say(template: str, /, **values: Any) -> Said:
    """Make a sentence of a template; anything in the values that is shaped like a secret is masked.

    Beside the formats of ``str.format`` there are ``{count:picture|pictures}`` (1 picture, 3 pictures) and, for lists,
    ``{names}``, ``{names:or}`` and ``{names:and}``. A value that is itself a ``Said`` is given in the language, too.
    """
    said = Said(_Filler("en").vformat(template, (), values))
    said.template, said.values = template, values
    return said


def together(sentences: Sequence[str]) -> str:
    """One line of one or more sentences, each of which can still be given in another language."""
    if len(sentences) == 1:
        return sentences[0]
    return say("{one}; {more}", one=sentences[0], more=together(sentences[1:]))


def in_language(text: str, language: str) -> str:
    """Give a sentence in a language; one that the language's table lacks stays English."""
    if language == "en":
        return str(text)
    if not isinstance(text, Said):
        return table(language).get(text, text)
    return _Filler(language).vformat(table(language).get(text.template, text.template), (), text.values)


def spoken(text: str) -> str:
    """Give a sentence in the language in which the program speaks now, for a line that is printed or logged."""
    return in_language(text, language_of())


@cache
def table(language: str) -> Mapping[str, str]:
    """The table of a language: English sentence or template -> the same in that language."""
    return tomllib.loads((HERE / f"{language}.toml").read_text(encoding="utf-8"))


class _Filler(string.Formatter):
    """Fills a template with values in one language."""

    def __init__(self, language: str):
        super().__init__()
        self.language = language

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Said):
            return in_language(value, self.language)
        if isinstance(value, list | tuple):
            return self._listed([self.format_field(one, "") for one in value], format_spec)
        if "|" in format_spec:
            one, many = format_spec.split("|")
            return f"{value} {one if value == 1 else many}"
        return mask(format(value, format_spec))

    def _listed(self, words: Sequence[str], join: str) -> str:
        between, last = JOINS[self.language]
        if not join or len(words) < 2:
            return between.join(words)
        return between.join(words[:-1]) + last.format(join) + words[-1]
