"""Texts of the checks by language: a language is a file, ``texts_<language>.py``, with one table ``TEXTS``."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from library.util.language import LANGUAGES, language_of
from library.util.secrets import mask

__all__ = ["LANGUAGES", "language_of", "table", "text"]


def table(language: str) -> Mapping[str, tuple[str, str]]:
    """The table of a language: key -> (what is wrong, what to do), with ``{names}`` for values."""
    return importlib.import_module(f"library.preflight.texts_{language}").TEXTS


def text(key: str, language: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Give the two sentences of ``key`` filled with ``values``; anything shaped like a secret is masked."""
    what, remedy = table(language)[key]
    clean = {name: mask(str(value)) for name, value in values.items()}
    return what.format(**clean), remedy.format(**clean)
