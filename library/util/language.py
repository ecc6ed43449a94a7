"""The language in which the program speaks to people: Japanese where the locale is Japanese, else English."""

from __future__ import annotations

import locale
import os
import sys
from collections.abc import Mapping

LANGUAGES = ("en", "ja")


def language_of(environment: Mapping[str, str] | None = None) -> str:
    """Choose the language of messages: ``ja`` where the locale is Japanese, else English.

    ``LC_ALL``, ``LC_MESSAGES`` and ``LANG`` decide in this order as for other programs; where none is set (Windows),
    the system's own locale does. ``PREFLIGHT_LANGUAGE`` overrules all. A console that cannot show Japanese gets English.
    """
    env = os.environ if environment is None else environment
    chosen = env.get("PREFLIGHT_LANGUAGE", "")
    if chosen in LANGUAGES:
        return chosen
    if environment is None and not _shows_japanese():
        return "en"
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        value = env.get(name)
        if value:
            return "ja" if value.lower().startswith(("ja", "japanese")) else "en"
    if environment is not None:
        return "en"
    system = locale.getlocale()[0] or ""
    return "ja" if system.lower().startswith(("ja", "japanese")) else "en"


def _shows_japanese() -> bool:
    """Whether stderr has Japanese letters; a stream without an encoding (in memory, or none at all) has every letter."""
    if sys.stderr is None or not sys.stderr.encoding:
        return True
    try:
        "学習".encode(sys.stderr.encoding)
        return True
    except (UnicodeEncodeError, LookupError):
        return False
