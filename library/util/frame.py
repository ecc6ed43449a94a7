"""The frame in which problems are shown: plain text that a beginner can read and any console can print."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from library.util.language import language_of
from library.util.records import Problem
from library.util.said import in_language, say
from library.util.secrets import mask

ORDER = {"note": 0, "warn": 1, "stop": 2}
WORDS = {
    "stop": "STOP",
    "warn": "WARNING",
    "note": "NOTE",
    "remedy": "What to do: ",
    "title": "Before the training starts: {stops} to mend, {warns} to know",
    "title_stop": "The training did not start: {stops} to mend",
    "title_warn": "Good to know before the training starts",
    "begun_stop": "The training stopped: {stops} to mend",
    "tool_stop": "This did not work: {stops} to mend",
    "begun_warn": "Seen during the training",
    "last": "Not started. The cause: {where}: {what}",
    "begun_last": "Stopped. The cause: {where}: {what}",
    "command": "The command line that works, to copy:",
    "more": " (and {more} more above)",
    "wrapper": '(The lines about a "non-zero exit status" below come from accelerate and add nothing.)',
}
"""The frame's own words; other languages have them in their tables."""


@dataclass(frozen=True)
class Box:
    """The characters of a frame."""

    line: str
    thin: str
    left: str
    corners: str
    """Upper left, lower left, tee."""


BOX = Box("━", "─", "┃", "┏┗┠")
ASCII = Box("=", "-", "|", "+++")


def columns(text: str) -> int:
    """Width of a text in console columns; East Asian wide characters take two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrap(text: str, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` columns; Japanese may break anywhere, other text between words.

    A word that is longer than a line (a path) is left whole, so that it can be copied.
    """
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        if columns(paragraph) == len(paragraph):
            lines += textwrap.wrap(paragraph, width, break_long_words=False, break_on_hyphens=False) or [""]
            continue
        line = ""
        for piece in _pieces(paragraph):
            if line and columns(line) + columns(piece) > width:
                lines.append(line.rstrip())
                line = piece.lstrip()
            else:
                line += piece
        lines.append(line)
    return lines


def _pieces(text: str) -> list[str]:
    """Split where a line may be broken: after each wide character and after spaces, but not before closing signs."""
    pieces: list[str] = []
    for c in text:
        wide = columns(c) == 2
        if pieces and (c in "、。」』）)・ー" or (not wide and columns(pieces[-1][-1]) == 1 and pieces[-1][-1] != " ")):
            pieces[-1] += c
        else:
            pieces.append(c)
    return pieces


def render(
    problems: Sequence[Problem], width: int = 96, language: str = "en", ascii_only: bool = False, begun: bool = False,
    tool: bool = False,
) -> str:
    """Lay problems out in a frame of ``width`` columns, worst last; "" where there are none.

    ``begun``: a training was under way; ``tool``: it is no training at all.
    """
    if not problems:
        return ""
    box = ASCII if ascii_only else BOX
    stops = sum(p.severity == "stop" for p in problems)
    warns = len(problems) - stops
    if tool and stops:
        key = "tool_stop"
    elif begun:
        key = "begun_stop" if stops else "begun_warn"
    else:
        key = "title" if stops and warns else "title_stop" if stops else "title_warn"
    lines = [f"{box.corners[0]}{box.line * 2} {_word(key, language, stops=stops, warns=warns)} "]
    lines[0] += box.line * max(0, width - columns(lines[0]))
    for number, problem in enumerate(sorted(problems, key=lambda p: ORDER[p.severity])):
        if number:
            lines.append(box.corners[2] + box.thin * (width - 1))
        lines += [f"{box.left} {line}".rstrip() for line in _entry(problem, language, width - 2)]
    lines.append(box.corners[1] + box.line * (width - 1))
    for command in (problem.command for problem in problems if problem.command):
        lines += [_word("command", language), mask(command)]
    return "\n".join(lines)


def _word(key: str, language: str, **values: object) -> str:
    return in_language(say(WORDS[key], **values), language)


def _entry(problem: Problem, language: str, width: int) -> list[str]:
    """The lines of one problem: a head with the place, what is wrong, what to do."""
    what, remedy = (mask(in_language(text, language)) for text in (problem.what, problem.remedy))
    lines = wrap(f"{_word(problem.severity, language)}  {mask(in_language(problem.where, language))}", width)
    lines += [f"   {line}" for line in wrap(what, width - 3)]
    if remedy:
        lines += [f"   {line}" for line in wrap(_word("remedy", language) + remedy, width - 3)]
    return lines


def last_line(
    problems: Sequence[Problem], language: str = "en", launched: bool | None = None, begun: bool = False
) -> str:
    """Repeat the first stop in one line, the last thing before exit; "" where nothing stops the run."""
    stops = [p for p in problems if p.severity == "stop"]
    if not stops:
        return ""
    where, what = (mask(" ".join(in_language(text, language).split())) for text in (stops[0].where, stops[0].what))
    line = _word("begun_last" if begun else "last", language, where=where, what=what)
    line += _word("more", language, more=len(stops) - 1) if len(stops) > 1 else ""
    if launched if launched is not None else "ACCELERATE_MIXED_PRECISION" in os.environ:
        line += "\n" + _word("wrapper", language)
    return line


def printable(text: str, encoding: str | None) -> str:
    """Replace what an encoding cannot hold: frame and typographic signs by ASCII, anything else by ``?``."""
    try:
        text.encode(encoding or "ascii")
        return text
    except (UnicodeEncodeError, LookupError):
        for sign, plain in {"—": "-", "–": "-", "…": "...", "“": '"', "”": '"', "’": "'", "×": "x"}.items():
            text = text.replace(sign, plain)
        try:
            return text.encode(encoding or "ascii", "replace").decode(encoding or "ascii")
        except LookupError:
            return text.encode("ascii", "replace").decode("ascii")


def can_show(sample: str, encoding: str | None) -> bool:
    """Tell whether a stream's encoding has all characters of a text."""
    try:
        sample.encode(encoding or "ascii")
        return True
    except (UnicodeEncodeError, LookupError):
        return False


def show(
    problems: Iterable[Problem], stream: TextIO | None = None, language: str | None = None,
    launched: bool | None = None, begun: bool = False,
) -> None:
    """Print problems in a frame, worst last, and repeat the cause of a stop as the very last line.

    Never raises UnicodeEncodeError: the frame falls back to ASCII, and Japanese to English words of the frame, where
    the stream's encoding lacks them. ``launched`` tells whether accelerate started the program (None: look), ``begun``
    whether the training was under way.
    """
    problems = list(problems)
    if not problems:
        return
    stream = sys.stderr if stream is None else stream
    encoding = stream.encoding
    language = language or language_of()
    if not can_show(_word("last", language, where="", what=""), encoding):
        language = "en"
    width = max(60, min(110, shutil.get_terminal_size((96, 24)).columns - 1))
    text = render(problems, width, language, not can_show("━┃┏┗┠─", encoding), begun)
    last = last_line(problems, language, launched, begun)
    stream.write(printable(f"\n{text}\n{last}\n" if last else f"\n{text}\n", encoding))
    stream.flush()
