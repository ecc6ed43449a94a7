"""What of a typed value may be shown in a message: nothing of a secret flag, nothing shaped like a token."""

from __future__ import annotations

from collections.abc import Sequence

from library.flags.table import BY_NAME
from library.util.secrets import mask

HIDDEN = "(hidden)"
SECRETS = tuple(flag.name for flag in BY_NAME.values() if flag.secret)


def shown(flag: str, text: str) -> str:
    """``text``, a value of ``flag`` (name or option, shortened or not), as it may be shown to anyone."""
    name = flag.lstrip("-").split("=")[0].lower()
    if len(name) > 2 and any(secret.startswith(name) for secret in SECRETS):
        return HIDDEN
    return mask(text)


def shown_words(words: Sequence[str]) -> list[str]:
    """A command line as it may be shown: the values of secret flags are left out, whatever they look like."""
    told: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        if equals and name.startswith("--"):
            told.append(f"{name}={shown(name, value)}")
        else:
            told.append(shown(before, word) if before.startswith("--") and "=" not in before else mask(word))
    return told
