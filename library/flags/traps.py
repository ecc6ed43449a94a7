"""What shells and web pages do to a command line, recognised and where the meaning is plain mended.

PowerShell turns ``512,512`` after a space into two words; a closing ``\\"`` lets a path swallow the flags behind it;
web pages turn quotes and dashes into typographic ones; a continuation mark of another shell arrives as a word of its
own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from library.flags.flag import Flag
from library.flags.hidden import shown
from library.util.records import Problem
from library.util.said import say

# Written as code points, for many of them look like a plain hyphen, comma or quote.
DASHES = "\u2013\u2014\u2212\u2015\u2012\u2011\u2010\uff0d\u30fc"
OPENING = "\u201c\u201e\u201f\u00ab\u2018\u201a\u201b"
CLOSING = "\u201d\u201c\u00bb\u2019\u2018\u201b"
MARKS = {"\\": "bash (Linux, macOS)", "^": "the Windows command prompt (cmd)", "`": "PowerShell"}
WIDE_EQUALS, WIDE_BLANK, LONG_VOWEL = "\uff1d", "\u3000", "\u30fc"
"""What a Japanese keyboard types for = and the blank, and a letter that looks like a hyphen."""
_SWALLOWED = re.compile(r"[\"']\s+-{1,2}[A-Za-z]")
_SIZE_PART = re.compile(r"^,?\s*\d+\s*,?(\s*\d+)?$")


def candidates(word: str, table: dict[str, Flag]) -> list[str]:
    """Flags that a typed ``--word`` may mean: an exact name, else kohya's of that prefix, else ours."""
    name = word.removeprefix("--")
    if name in table:
        return [name]
    found = [flag for flag in table.values() if flag.name.startswith(name)]
    helps = ["help"] if "help".startswith(name) else []
    kohya = [flag.name for flag in found if not flag.ours] + helps
    return kohya or [flag.name for flag in found]


@dataclass
class Mended:
    """The command line after mending, with what was noticed."""

    tokens: list[str] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note(self, where: str, what: str, remedy: str) -> None:
        self.notes.append(Problem(where, what, remedy, "warn", "flags"))

    def stop(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(where, what, remedy, check="flags"))


def mend(argv: Iterable[str], table: dict[str, Flag]) -> Mended:
    """Undo what a shell or a web page did to the words; what cannot be undone becomes a problem."""
    result = Mended()
    option = ""
    for raw in (piece for word in argv for piece in _half_width(word, table, result)):
        token = _straight_dashes(raw, table, result)
        if token.startswith("--") and len(token) > 2:
            option, _, value = token.partition("=")
            if "=" in token:
                token = f"{option}={_clean_value(option, _half_width_number(option, value, table, result), result)}"
        elif _continues_value(token, result):
            _join(token, result)
            continue
        elif _continues_resolution(token, option, result, table):
            continue
        else:
            token = _clean_value(option or "command line", _half_width_number(option, token, table, result), result)
        result.tokens.append(token)
    return result


def _half_width(word: str, table: dict[str, Flag], result: Mended) -> list[str]:
    """Undo the full-width signs of a Japanese keyboard in a flag's name, its equals sign and the blanks between flags."""
    pieces = []
    for piece in re.split(f"{WIDE_BLANK}+(?=[-{DASHES}])", word):
        option, sign, value = re.fullmatch(f"([^={WIDE_EQUALS}]*)([={WIDE_EQUALS}]?)(.*)", piece, re.DOTALL).groups()
        plain = unicodedata.normalize("NFKC", option)
        name = plain.lstrip(DASHES + "-")
        changed = plain != option or sign == WIDE_EQUALS
        if changed and name != plain and len(candidates(f"--{name}", table)) == 1:
            mended = f"--{name}" + ("=" if sign else "") + value
            result.note(f"--{name}", say("Full-width signs stand in {typed}; it is read as {mended}.",
                                         typed=shown(f"--{name}", piece), mended=shown(f"--{name}", mended)),
                        "Type flags with Japanese input switched off.")
            piece = mended
        pieces.append(piece)
    for piece in pieces[1:]:
        result.note(piece.partition("=")[0], "A full-width blank stands before this flag; it is read as an ordinary one.",
                    "Type blanks with Japanese input switched off.")
    return pieces


def _half_width_number(option: str, value: str, table: dict[str, Flag], result: Mended) -> str:
    """A number in full-width digits, for flags that take no text."""
    names = candidates(option, table) if option.startswith("--") else []
    if len(names) != 1 or names[0] not in table or (table[names[0]].type in (str, Path) and names[0] != "resolution"):
        return value
    plain = unicodedata.normalize("NFKC", value).replace(LONG_VOWEL, "-")
    if plain != value:
        result.note(option, say("Full-width signs stand in {typed}; it is read as {mended}.", typed=value, mended=plain),
                    "Type numbers with Japanese input switched off.")
    return plain


def _straight_dashes(token: str, table: dict[str, Flag], result: Mended) -> str:
    if not token or (token[0] not in DASHES and not (token.startswith("-") and token[1:2] and token[1] in DASHES)):
        return token
    straight = "--" + token.lstrip(DASHES + "-")
    if len(candidates(straight.split("=")[0], table)) != 1:
        return token
    result.note(
        straight.split("=")[0],
        say('"{dash}" is a typographic dash; it is read as two hyphens.', dash=token[:1]),
        "Type -- by hand.",
    )
    return straight


def _clean_value(where: str, value: str, result: Mended) -> str:
    if _SWALLOWED.search(value):
        kept = value[: _SWALLOWED.search(value).start()]
        result.stop(
            where,
            say("The value swallowed the flags behind it: {shown}", shown=shown(where, value)[:80]),
            say('A backslash before the closing quote makes the quote part of the value. Write "{shown}" without the last '
                "backslash.", shown=shown(where, kept)),
        )
        return kept
    if value[:1] and value[0] in OPENING:
        if len(value) > 1 and value[-1] in CLOSING:
            result.note(
                where,
                say("Typographic quotes stand around {shown}; they are left out.", shown=shown(where, value)),
                'Type plain quotes (").',
            )
            return value[1:-1]
        result.stop(
            where,
            say("Typographic quotes in {shown}: a shell does not know them, and the value fell apart.",
                shown=shown(where, value)),
            'Type plain quotes (") instead of those copied from a web page.',
        )
        return value
    if value.endswith('"') and not value.startswith('"'):
        result.note(
            where,
            say("The value ends with a quote: {shown} The quote is left out.", shown=shown(where, value)),
            "End a quoted path without a backslash.",
        )
        return value[:-1]
    return value


def _continues_value(token: str, result: Mended) -> bool:
    """``--flag= value``: the word after an empty value belongs to it."""
    last = result.tokens[-1] if result.tokens else ""
    return last.startswith("--") and last.endswith("=") and bool(token.strip()) and not token.startswith("-")


def _join(token: str, result: Mended) -> None:
    option = result.tokens[-1].removesuffix("=")
    result.note(
        option,
        say("There is a space after {option}=; it is read as {option}={shown}.", option=option, shown=shown(option, token)),
        "Leave the space out.",
    )
    result.tokens[-1] += token


def _continues_resolution(token: str, option: str, result: Mended, table: dict[str, Flag]) -> bool:
    """``--resolution 512 512`` and ``--resolution 768, 768``: two words for one value."""
    if not option or candidates(option, table) != ["resolution"] or not _SIZE_PART.match(token):
        return False
    last = result.tokens[-1]
    if last == option:
        return False
    before = last.partition("=")[2] if last.startswith("--") else last
    if not _SIZE_PART.match(before) or not re.search(r"\d", before):
        return False
    joined = f"{before.strip().strip(',')},{token.strip().strip(',')}"
    result.tokens[-1] = f"{option}={joined}" if last.startswith("--") else joined
    result.note(
        "--resolution",
        say("The size came as separate words ({before} {token}); it is read as {joined}.",
            before=before, token=token, joined=joined),
        say('Write --resolution="{joined}": PowerShell and a space after a comma split it.', joined=joined),
    )
    return True
