"""What to say about words on the command line that are no flag and no value."""

from __future__ import annotations

import difflib
import os

from library.flags.convert import looks_like_placeholder
from library.flags.elsewhere import ACCELERATE, INSTEAD, OTHER_SCRIPTS
from library.flags.flag import Flag
from library.flags.hidden import shown as visible
from library.flags.table import flags_of, scripts_with
from library.flags.traps import DASHES, MARKS
from library.util.records import Problem
from library.util.said import say
from library.util.secrets import mask


def _stop(where: str, what: str, remedy: str) -> Problem:
    return Problem(where, what, remedy, check="flags")


def nearest(name: str, script: str) -> str:
    """The nearest flags' names as a question, or ''."""
    close = difflib.get_close_matches(name.lower(), flags_of(script), n=3, cutoff=0.6)
    return say("Did you mean {names:or}?", names=[f"--{one}" for one in close]) if close else ""


def about_name(name: str, script: str) -> str:
    """What is known about a name that this script does not take, as a sentence; '' where nothing is."""
    elsewhere = scripts_with(name)
    if elsewhere:
        return say("It belongs to {scripts}; this is {script}.", scripts=elsewhere, script=script)
    if name in INSTEAD:
        return INSTEAD[name]
    if name in OTHER_SCRIPTS:
        return say("It belongs to kohya's {other}; this is {script}.", other=OTHER_SCRIPTS[name], script=script)
    if name in ACCELERATE:
        return say('It belongs to accelerate: write it between "accelerate launch" and {script}.', script=script)
    return nearest(name, script)


def unknown_option(token: str, script: str) -> Problem:
    """A word that looks like a flag and is none."""
    option = token.partition("=")[0]
    shown = mask(option)
    name = option.lstrip("-" + DASHES).replace("-", "_")
    table = flags_of(script)
    if option[:1] in DASHES or option[1:2] in DASHES:
        return _stop(
            shown,
            "The dash in front is a typographic one, copied from a web page.",
            say("Type two plain hyphens: --{name}.", name=name),
        )
    if name in table:
        return _stop(shown, "Flags are written with two hyphens and underscores.", say("Write --{name}.", name=name))
    return _stop(
        shown,
        say("{script} has no such flag.", script=script),
        about_name(name, script) or say('See "python {script} --help" for all flags.', script=script),
    )


def ambiguous(option: str, names: list[str]) -> Problem:
    """An abbreviation of several flags."""
    return _stop(option, say("It may mean {names}.", names=['--' + name for name in names]), "Write the name out.")


def spaced_equals(option: str, word: str) -> Problem:
    """``--flag = value``: the flag took the sign for its value."""
    shown = visible(option, word)
    return _stop(option, say('Blanks stand around "=", so "{shown}" does not reach it.', shown=shown),
                 say("Write {option}={shown} without blanks.", option=option, shown=shown))


def stray(word: str, after: str, flag: Flag | None) -> Problem:
    """A word that belongs to no flag, behind the word or flag ``after``."""
    where = after or "command line"
    shown = visible(after, word)
    if not word.strip():
        return _stop(
            where,
            "There is a blank as a word of its own.",
            "PowerShell continues a line with a backtick (`) as the very last "
            "character: remove the space behind it, or write everything on one line.",
        )
    if word.strip() in MARKS:
        return _stop(
            where,
            say('"{word}" came as a word of its own, and what stands on the lines below was not read.', word=word.strip()),
            continuation(),
        )
    if word.strip("-/?").lower() in ("help", "h", ""):
        return _stop(where, say('"{shown}" is not a flag.', shown=shown), "Write --help to see all flags.")
    if word.startswith("#"):
        return _stop(
            where, say('"{shown}" came as a word of its own.', shown=shown), "A remark cannot stand inside a command; remove it."
        )
    if looks_like_placeholder(word):
        return _stop(
            where,
            say('"{shown}" is not a flag.', shown=shown),
            say("{shown} is a placeholder of a guide: put your own settings there or leave it out.", shown=shown),
        )
    if flag is not None and flag.is_switch:
        return _stop(where, say('"{shown}" follows a switch.', shown=shown),
                     say('{option} takes no value; leave "{shown}" out.', option=flag.option, shown=shown))
    if flag is not None and (flag.path or flag.type is str):
        return _stop(
            where,
            say('"{shown}" does not belong to any flag.', shown=shown),
            say('If the value of {option} contains spaces, put quotes around the whole of it: "...".', option=flag.option),
        )
    return _stop(
        where, say('"{shown}" does not belong to any flag.', shown=shown), "Put quotes around values with spaces, or remove it."
    )


def continuation() -> str:
    """How a command is continued on the next line, the present system's shell first."""
    if os.name == "nt":
        return say("In PowerShell a line is continued with a backtick (`), in the Windows command prompt with ^, not with \\; "
                   "or write everything on one line.")
    return say("In bash a line is continued with \\ as its very last character. In PowerShell it is a backtick (`), in the "
               "Windows command prompt ^. Or write all on one line.")
