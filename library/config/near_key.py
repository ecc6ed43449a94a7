"""How far apart two names are, to tell a misspelling from a setting of another program."""

from __future__ import annotations

from collections.abc import Iterable


def distance(a: str, b: str) -> int:
    """Edit distance in which exchanging two neighbouring letters counts as one edit."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        older, before = before, row
        row = [i]
        for j, right in enumerate(b, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == b[j - 2] and a[i - 2] == right:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]


def misspelt(key: str, known: Iterable[str]) -> str | None:
    """The one known name that a key misspells: at distance 1 or 2 from it alone, and less than half its length."""
    name = key.lower().replace("-", "_")
    close = [
        one
        for one in known
        if abs(len(one) - len(name)) <= 2 and distance(name, one) <= 2 and distance(name, one) * 2 < len(one)
    ]
    return close[0] if len(close) == 1 else None
