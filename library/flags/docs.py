"""Makes docs/flags.md from the declarations: ``python -m library.flags.docs``."""

from __future__ import annotations

import runpy
from collections.abc import Mapping
from pathlib import Path

from library.flags.flag import Flag
from library.flags.parser import usage
from library.flags.scripts import NETWORK
from library.flags.table import KOHYA, OURS

WORDS = {
    "works": "works",
    "otherwise": "accepted: ",
    "stops": "not available: ",
    "family": "works where the architecture has it",
}


def markdown(shown_by: Mapping[str, str]) -> str:
    """All flags as tables by group: the flag, its default, what it does, how it is served here, the test that shows it.

    ``shown_by``: flag -> test.
    """
    lines = [
        "# Flags",
        "",
        "Made by `python -m library.flags.docs` from the declarations in `library/flags/`; "
        f"`python {NETWORK} --help` shows the same. A flag may be shortened to any unique beginning. Where a script "
        "differs in a default, that stands in the second column. *Accepted* means that the flag concerns speed or "
        "memory alone and is served in another way, with one line of notice; "
        "*not available* means that the run stops with that sentence. The last column names the test that shows it.",
        "",
    ]
    heading = ""
    for flag in (*KOHYA, *OURS):
        if flag.group != heading:
            heading = flag.group
            lines += ["", f"## {heading}", "", "| flag | default | what it does | here | shown by |", "|---|---|---|---|---|"]
        cells = [f"`{_cell(usage(flag))}`", _default(flag), _cell(_what(flag)), _cell(_served(flag)),
                 _test(shown_by.get(flag.name))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""]).replace("\n\n\n", "\n\n")


def _test(node: str | None) -> str:
    """A link to the test's file with the test's name."""
    if node is None:
        return ""
    file, name = node.split("::")
    return f"[{name.removeprefix('test_').replace('_', ' ')}](../{file})"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(flag: Flag) -> str:
    first = "off" if flag.is_switch else "" if flag.default in (None, "") else f"`{flag.default}`"
    others = [f"`{columns['default']}` ({script})" for script, columns in flag.columns.items() if "default" in columns]
    return ", ".join(part for part in (first, *others) if part)


def _what(flag: Flag) -> str:
    choices = [str(choice) for choice in flag.choices if choice is not None]
    scripts = f" Only {', '.join(flag.scripts)}." if flag.scripts else ""
    return (
        flag.help
        + (f" One of {', '.join(choices)}." if choices and "|".join(choices) not in usage(flag) else "")
        + scripts
    )


def _served(flag: Flag) -> str:
    word = WORDS[flag.served.kind]
    return word + flag.served.text if word.endswith(": ") else word


def main() -> None:
    root = Path(__file__).parents[2]
    path = root / "docs" / "flags.md"
    table = runpy.run_path(str(root / "tests" / "flag_tests.py"))
    path.write_text(markdown(table["SHOWN_BY"]), encoding="utf-8", newline="\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
