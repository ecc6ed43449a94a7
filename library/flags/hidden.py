"""What of a typed value may be shown in a message: nothing of a secret flag, nothing shaped like a token."""

from __future__ import annotations

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
