"""Texts of the checks by language: a language is a file, ``texts_<language>.py``, with one table ``TEXTS``."""

from __future__ import annotations

import importlib
import locale
import os
from collections.abc import Mapping
from typing import Any

from library.util.secrets import mask

LANGUAGES = ("en", "ja")


def table(language: str) -> Mapping[str, tuple[str, str]]:
    """The table of a language: key -> (what is wrong, what to do), with ``{names}`` for values."""
    return importlib.import_module(f"library.preflight.texts_{language}").TEXTS


def text(key: str, language: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """Give the two sentences of ``key`` filled with ``values``; anything shaped like a secret is masked."""
    what, remedy = table(language)[key]
    clean = {name: mask(str(value)) for name, value in values.items()}
    return what.format(**clean), remedy.format(**clean)


def language_of(environment: Mapping[str, str] | None = None) -> str:
    """Choose the language of messages: ``ja`` where the locale is Japanese, else English.

    ``LC_ALL``, ``LC_MESSAGES`` and ``LANG`` decide in this order as for other programs; where none is set (Windows),
    the system's own locale does. ``PREFLIGHT_LANGUAGE`` overrules all.
    """
    env = os.environ if environment is None else environment
    chosen = env.get("PREFLIGHT_LANGUAGE", "")
    if chosen in LANGUAGES:
        return chosen
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = env.get(name)
        if value:
            return "ja" if value.lower().startswith(("ja", "japanese")) else "en"
    if environment is not None:
        return "en"
    system = locale.getlocale()[0] or ""
    return "ja" if system.lower().startswith(("ja", "japanese")) else "en"
