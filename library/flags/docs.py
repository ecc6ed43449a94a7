"""Makes docs/flags.md from the declarations: ``python -m library.flags.docs``."""

from __future__ import annotations

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


def markdown() -> str:
    """All flags as tables, one for each group: the flag, its default, what it does, how it is served here."""
    lines = [
        "# Flags",
        "",
        "Made by `python -m library.flags.docs` from the declarations in `library/flags/`; "
        f"`python {NETWORK} --help` shows the same. A flag may be shortened to any unique beginning. Where a script "
        "differs in a default, that stands in the second column. *Accepted* means that the flag concerns speed or "
        "memory alone and is served in another way, with one line of notice; "
        "*not available* means that the run stops with that sentence.",
        "",
    ]
    heading = ""
    for flag in (*KOHYA, *OURS):
        if flag.group != heading:
            heading = flag.group
            lines += ["", f"## {heading}", "", "| flag | default | what it does | here |", "|---|---|---|---|"]
        lines.append(f"| `{_cell(usage(flag))}` | {_default(flag)} | {_cell(_what(flag))} | {_cell(_served(flag))} |")
    return "\n".join([*lines, ""]).replace("\n\n\n", "\n\n")


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
    path = Path(__file__).parents[2] / "docs" / "flags.md"
    path.write_text(markdown(), encoding="utf-8", newline="\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
