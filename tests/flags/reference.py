"""kohya's flags as recorded, and an argparse parser made from that record alone."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "flags.json").read_text(encoding="utf-8"))
COMMANDS = json.loads((Path(__file__).parents[1] / "data" / "command_lines.json").read_text(encoding="utf-8"))


def number(text: str):
    if text.endswith("%"):
        return float(text[:-1]) / 100.0
    value = float(text)
    return int(text) if value >= 1 and value.is_integer() else value


TYPES = {"str": str, "int": int, "float": float, "int_or_float": number, "Path": Path, None: str}


def recorded(script: str) -> dict[str, dict]:
    """kohya's declarations for one script, by name."""
    return {entry["dest"]: entry for entry in RECORDED if script in entry["scripts"]}


class Refusing(argparse.ArgumentParser):
    def error(self, message):
        raise ValueError(message)


def kohya_parser(script: str) -> argparse.ArgumentParser:
    """A plain argparse parser with kohya's flags of one script."""
    parser = Refusing(allow_abbrev=True)
    for name, entry in recorded(script).items():
        if entry["action"] == "_StoreTrueAction":
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(
                f"--{name}",
                type=TYPES[entry["type"]],
                default=entry["default"],
                choices=entry["choices"],
                nargs=entry["nargs"],
            )
    return parser
