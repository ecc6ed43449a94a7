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
from library.util.secrets import mask


def _stop(where: str, what: str, remedy: str) -> Problem:
    return Problem(where, what, remedy, check="flags")


def nearest(name: str, script: str) -> str:
    """The nearest flags' names as a question, or ''."""
    close = difflib.get_close_matches(name.lower(), flags_of(script), n=3, cutoff=0.6)
    return "Did you mean " + " or ".join(f"--{one}" for one in close) + "?" if close else ""


def about_name(name: str, script: str) -> str:
    """What is known about a name that this script does not take, as a sentence; '' where nothing is."""
    elsewhere = scripts_with(name)
    if elsewhere:
        return f"It belongs to {', '.join(elsewhere)}; this is {script}."
    if name in INSTEAD:
        return INSTEAD[name]
    if name in OTHER_SCRIPTS:
        return f"It belongs to kohya's {OTHER_SCRIPTS[name]}; this is {script}."
    if name in ACCELERATE:
        return f'It belongs to accelerate: write it between "accelerate launch" and {script}.'
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
            f"Type two plain hyphens: --{name}.",
        )
    if name in table:
        return _stop(shown, "Flags are written with two hyphens and underscores.", f"Write --{name}.")
    return _stop(
        shown, f"{script} has no such flag.", about_name(name, script) or f'See "python {script} --help" for all flags.'
    )


def ambiguous(option: str, names: list[str]) -> Problem:
    """An abbreviation of several flags."""
    return _stop(option, f"It may mean {', '.join('--' + name for name in names)}.", "Write the name out.")


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
            f'"{word.strip()}" came as a word of its own, and what stands on the lines below was not read.',
            continuation(),
        )
    if word.startswith("#"):
        return _stop(
            where, f'"{shown}" came as a word of its own.', "A remark cannot stand inside a command; remove it."
        )
    if looks_like_placeholder(word):
        return _stop(
            where,
            f'"{shown}" is not a flag.',
            f"{shown} is a placeholder of a guide: put your own settings there or leave it out.",
        )
    if flag is not None and flag.is_switch:
        return _stop(where, f'"{shown}" follows a switch.', f'{flag.option} takes no value; leave "{shown}" out.')
    if flag is not None and (flag.path or flag.type is str):
        return _stop(
            where,
            f'"{shown}" does not belong to any flag.',
            f'If the value of {flag.option} contains spaces, put quotes around the whole of it: "...".',
        )
    return _stop(
        where, f'"{shown}" does not belong to any flag.', "Put quotes around values with spaces, or remove it."
    )


def continuation() -> str:
    """How a command is continued on the next line, the present system's shell first."""
    windows = "In PowerShell a line is continued with a backtick (`), in the Windows command prompt with ^"
    return (
        f"{windows}, not with \\; or write everything on one line."
        if os.name == "nt"
        else f"In bash a line is continued with \\ as its very last character. {windows}. Or write all on one line."
    )
