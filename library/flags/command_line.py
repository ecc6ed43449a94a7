"""argv -> Flags: stage 1 of a run, without the settings file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from library.flags.blanks import put_together
from library.flags.convert import NotUnderstood, convert, problem
from library.flags.flag import Flag, boolean
from library.flags.hidden import shown
from library.flags.parser import CollectingParser, help_text
from library.flags.scripts import NETWORK
from library.flags.table import flags_of
from library.flags.traps import DASHES, MARKS, mend
from library.flags.unknown import ambiguous, spaced_equals, stray, unknown_option
from library.flags.values import COMMAND_LINE, Flags, defaults
from library.util.records import Problem, UserError
from library.util.said import say


@dataclass
class Reading:
    """What has been read so far, and everything noticed on the way."""

    script: str
    values: dict[str, Any] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note(self, where: str, what: str, remedy: str, severity: str = "note") -> None:
        self.notes.append(Problem(where, what, remedy, severity, "flags"))


def parse(argv: Sequence[str] | None = None, script: str = NETWORK) -> Flags:
    """Read a command line as ``script`` reads it.

    ``argv`` is what follows the script's name (None = the process's own). Prints the help page and raises SystemExit
    for ``--help``. Raises UserError with every problem of the line at once. A settings file named by ``--config_file``
    is not read here: ``library.config.toml_file.read_command`` does both.
    """
    flags, problems = collect(argv, script)
    if problems:
        raise UserError(*problems)
    return flags


def collect(argv: Sequence[str] | None = None, script: str = NETWORK) -> tuple[Flags, list[Problem]]:
    """``parse`` that returns the problems instead of raising them."""
    argv = tuple(sys.argv[1:] if argv is None else argv)
    table = flags_of(script)
    mended = mend(argv, table)
    reading = Reading(script, notes=mended.notes, problems=mended.problems)
    parser = CollectingParser(script)
    whole = put_together(mended.tokens, table, script)
    reading.problems += whole.problems
    given, rest = parser.read(whole.tokens)
    if given.pop("help", False):
        sys.stdout.write(help_text(script))
        raise SystemExit(0)
    for typed, name in parser.abbreviations.items():
        if name in table:
            reading.note(typed, say("Short for --{name}.", name=name), "")
    for name, times in given.items():
        _read_flag(table[name], times, reading)
    _judge_rest(rest, parser, whole.tokens, reading)
    values = defaults(script) | reading.values
    origins = dict.fromkeys(reading.values, COMMAND_LINE)
    return Flags(script, values, origins, tuple(reading.notes), argv), reading.problems


def _read_flag(flag: Flag, times: list[list[str]], reading: Reading) -> None:
    """Judge the words of one flag; the last time it was given counts."""
    words = times[-1]
    if len(times) > 1 and any(other != words for other in times):
        last = shown(flag.name, " ".join(words)) or "no value"
        reading.note(flag.option, say("Given {count} times; the last holds: {last}.", count=len(times), last=last),
                     "Keep one of them.", "warn")
    if len(words) > 1 and words[0] == "=":
        reading.problems.append(spaced_equals(flag.option, " ".join(words[1:])))
        return
    kept = [word for word in words if word.strip() not in MARKS]
    limit = len(kept) if flag.many else 1
    strays = [word for word in words if word.strip() in MARKS] + kept[limit:]
    if flag.is_switch:
        reading.values[flag.name] = _read_switch(flag, kept, strays, reading)
    elif flag.many:
        _read_many(flag, kept, reading)
    elif kept or flag.const is not None:
        _keep(flag, kept[0] if kept else flag.const, reading)
    else:
        reading.problems.append(
            Problem(
                flag.option,
                "It needs a value, and none follows.",
                say("Write {option}=value; a value that begins with a hyphen needs the =.", option=flag.option),
                check="flags",
            )
        )
    for word in strays:
        reading.problems.append(_judge_word(word, flag.option, flag, reading.script))


def _read_switch(flag: Flag, words: list[str], strays: list[str], reading: Reading) -> bool:
    """A switch is on by being there; true and false are understood though kohya refuses them."""
    if not words:
        return True
    try:
        value = boolean(words[0])
    except ValueError:
        strays.insert(0, words[0])
        return True
    reading.note(
        flag.option,
        say('"{words}" stands behind a switch; it is read as {value}.', words=words[0], value="on" if value else "off"),
        say("Write {option} alone, or leave it out.", option=flag.option),
    )
    return value


def _read_many(flag: Flag, words: list[str], reading: Reading) -> None:
    if flag.type is float:
        words = [part for word in words for part in word.split(",") if part.strip()]
    found = []
    for word in words:
        try:
            found.append(convert(flag, word))
        except NotUnderstood as error:
            reading.problems.append(problem(flag, flag.option, error))
    reading.values[flag.name] = found


def _keep(flag: Flag, word: str, reading: Reading) -> None:
    try:
        reading.values[flag.name] = convert(flag, word)
    except NotUnderstood as error:
        reading.problems.append(problem(flag, flag.option, error))


def _judge_word(word: str, after: str, flag: Flag | None, script: str) -> Problem:
    if (word[:1] == "-" and len(word) > 1) or (word[:1] and word[0] in DASHES):
        return unknown_option(word, script)
    return stray(word, after, flag)


def _judge_rest(rest: list[str], parser: CollectingParser, tokens: list[str], reading: Reading) -> None:
    """Problems for the words that no flag took: unknown flags with their values, unclear abbreviations, strays."""
    table = parser.table
    unknown = False
    for word in rest:
        option = word.partition("=")[0]
        if option in parser.unclear:
            reading.problems.append(ambiguous(option, parser.unclear[option]))
            unknown = True
        elif (word[:1] == "-" and len(word) > 1) or (word[:1] and word[0] in DASHES):
            reading.problems.append(unknown_option(word, reading.script))
            unknown = "=" not in word
        elif unknown and word.strip() not in MARKS:
            continue
        else:
            earlier = tokens[: tokens.index(word)]
            before = next((token.partition("=")[0] for token in reversed(earlier) if token.startswith("--")), "")
            name = before.removeprefix("--")
            name = parser.abbreviations.get(before, name)
            reading.problems.append(stray(word, before, table.get(name)))
