"""Weighted captions: ``(word)``, ``(word:1.3)`` and ``[word]``, as kohya and the image UIs read them."""

from __future__ import annotations

import re

STEP = 1.1
_PIECE = re.compile(r"\\[()\[\]\\]|\\|:[+-]?[.\d]+\)|[()\[\]]|[^\\()\[\]:]+|:")
_NUMBER = re.compile(r":([+-]?[.\d]+)\)$")


def parse(text: str) -> list[tuple[str, float]]:
    """Split a caption into runs of text with one weight each.

    ``( )`` multiplies what it encloses by 1.1, ``[ ]`` divides by 1.1, ``(text:w)`` multiplies by w; brackets nest, one
    that is never closed reaches to the end; a backslash makes a bracket literal.
    """
    runs: list[list] = []
    open_at: dict[str, list[int]] = {"(": [], "[": []}

    def close(kind: str, factor: float) -> None:
        for run in runs[open_at[kind].pop() :]:
            run[1] *= factor

    for match in _PIECE.finditer(text):
        piece = match[0]
        number = _NUMBER.match(piece)
        if piece[0] == "\\":
            runs.append([piece[1:], 1.0])
        elif piece in open_at:
            open_at[piece].append(len(runs))
        elif number and open_at["("]:
            close("(", float(number[1]))
        elif piece == ")" and open_at["("]:
            close("(", STEP)
        elif piece == "]" and open_at["["]:
            close("[", 1 / STEP)
        else:
            runs.append([piece, 1.0])
    for kind, factor in (("(", STEP), ("[", 1 / STEP)):
        while open_at[kind]:
            close(kind, factor)
    return _merged(runs)


def _merged(runs: list[list]) -> list[tuple[str, float]]:
    """Neighbours of equal weight become one run, so that words are not split where nothing changes."""
    merged: list[tuple[str, float]] = []
    for text, weight in runs:
        if merged and merged[-1][1] == weight:
            merged[-1] = (merged[-1][0] + text, weight)
        else:
            merged.append((text, weight))
    return merged or [("", 1.0)]
