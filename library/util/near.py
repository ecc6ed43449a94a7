"""Near names for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from library.util.said import say


def near(name: str, known: Iterable[str], count: int = 3) -> str:
    """One sentence with the likely names, or with all of them where none is near."""
    lower = {one.lower(): one for one in known}
    close = [lower[match] for match in difflib.get_close_matches(name.lower(), lower, n=count, cutoff=0.6)]
    if close:
        return say("Did you mean {names:or}?", names=close)
    return say("Known: {names}.", names=list(lower.values()))
