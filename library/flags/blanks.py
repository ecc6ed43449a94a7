"""Values with blanks that were typed without quotes: the words belong together, and the command line that works is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from library.flags.convert import looks_like_placeholder
from library.flags.flag import Flag
from library.flags.hidden import shown_words
from library.flags.traps import DASHES, MARKS, candidates
from library.util.records import Problem
from library.util.said import say

FREE_TEXT = frozenset({"output_name", "training_comment"})
"""Flags beside those of paths whose values are often of several words."""


@dataclass
class Whole:
    """A command line whose fallen values are put together again."""

    tokens: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def put_together(tokens: Sequence[str], table: dict[str, Flag], script: str) -> Whole:
    """Join the words of each path behind its flag; every join is a problem, the last of which shows the whole line."""
    whole, values = Whole(), []
    position = 0
    while position < len(tokens):
        token = tokens[position]
        option, sign, value = token.partition("=")
        words = [value] if sign else []
        behind = position + 1
        if _takes_blanks(option, table):
            while behind < len(tokens) and _is_part(tokens[behind]):
                words.append(tokens[behind])
                behind += 1
        if len(words) > 1:
            joined = " ".join(words)
            values.append((option, joined))
            whole.tokens.append(f"{option}={joined}")
            position = behind
        else:
            whole.tokens.append(token)
            position += 1
    line = " ".join(map(_quoted, ["accelerate", "launch", script, *shown_words(whole.tokens)]))
    for option, joined in values:
        whole.problems.append(Problem(option, say('"{joined}" came without quotes and fell apart at its blanks.', joined=joined),
                                      say('Write {option}="{joined}".', option=option, joined=joined), check="flags",
                                      command=line if (option, joined) == values[-1] else ""))
    return whole


def _takes_blanks(option: str, table: dict[str, Flag]) -> bool:
    names = candidates(option, table) if option.startswith("--") and len(option) > 2 else []
    if len(names) != 1 or names[0] not in table:
        return False
    flag = table[names[0]]
    return not flag.many and not flag.is_switch and not flag.secret and (flag.path or flag.name in FREE_TEXT)


def _is_part(word: str) -> bool:
    """Whether a word behind a path may be a part of it, and is neither a flag, a remark nor a mark of a shell."""
    plain = word.strip()
    if not plain or plain in MARKS or "=" in plain or looks_like_placeholder(word):
        return False
    return plain[0] not in "-/#" + DASHES


def _quoted(word: str) -> str:
    option, sign, value = word.partition("=")
    if " " not in word:
        return word
    return f'{option}="{value}"' if sign and word.startswith("--") else f'"{word}"'
