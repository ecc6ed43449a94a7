"""argparse parsers made from the flag table: a lenient one that collects, and kohya's own kind for importers."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Sequence

from library.flags.flag import Flag, Number, number
from library.flags.scripts import NETWORK
from library.flags.table import flags_of
from library.flags.traps import candidates

METAVARS = {str: "TEXT", int: "N", float: "X", Number: "N|X|P%"}
TYPES = {Number: number}


class FlagParser(argparse.ArgumentParser):
    """argparse with our abbreviation rule (kohya's flags first) and our help page."""

    def __init__(self, script: str, **options):
        super().__init__(prog=script, **options)
        self.script = script
        self.table = flags_of(script)
        self.abbreviations: dict[str, str] = {}
        """Abbreviation as typed -> flag that it was taken for."""
        self.unclear: dict[str, list[str]] = {}

    def _get_option_tuples(self, option_string: str) -> list:
        typed = option_string.partition("=")[0]
        found = super()._get_option_tuples(option_string)
        if not typed.startswith("--"):
            return found
        names = candidates(typed, self.table)
        if len(names) == 1:
            self.abbreviations[typed] = names[0]
        return [entry for entry in found if entry[0].dest in names]

    def format_help(self) -> str:
        return help_text(self.script)


class CollectingParser(FlagParser):
    """Reads any command line without an error: every flag takes any number of words, judged afterwards."""

    def __init__(self, script: str):
        super().__init__(script, add_help=False, argument_default=argparse.SUPPRESS)
        self.add_argument("-h", "--help", dest="help", action="store_true")
        for name, flag in self.table.items():
            self.add_argument(flag.option, dest=name, nargs="*", action="append")

    def _get_option_tuples(self, option_string: str) -> list:
        found = super()._get_option_tuples(option_string)
        if len(found) < 2:
            return found
        typed = option_string.partition("=")[0]
        self.unclear[typed] = [entry[0].dest for entry in found]
        return []

    def read(self, tokens: Sequence[str]) -> tuple[dict[str, list[list[str]]], list[str]]:
        """Words of each flag for each time it was given, and the words that belong to none."""
        space, rest = self.parse_known_args(list(tokens))
        return vars(space), rest


def setup_parser(script: str = NETWORK) -> argparse.ArgumentParser:
    """An ordinary argparse parser of a script's flags, for programs that import kohya's ``setup_parser``."""
    parser = FlagParser(script)
    for flag in parser.table.values():
        if flag.is_switch:
            parser.add_argument(flag.option, action="store_true", help=flag.help)
        elif flag.const is not None:
            parser.add_argument(
                flag.option, nargs="?", const=flag.const, default=flag.default, choices=flag.choices, help=flag.help
            )
        else:
            parser.add_argument(
                flag.option,
                type=TYPES.get(flag.type, flag.type),
                default=flag.default,
                help=flag.help,
                nargs="*" if flag.many else None,
                choices=flag.choices or None,
            )
    return parser


def usage(flag: Flag) -> str:
    """The flag with the words that follow it, as help shows it."""
    if flag.is_switch:
        return flag.option
    choices = [str(choice) for choice in flag.choices if choice is not None]
    word = (
        "|".join(choices)
        if choices and len("|".join(choices)) < 32
        else "PATH"
        if flag.path
        else METAVARS.get(flag.type, "TEXT")
    )
    if flag.const is not None:
        return f"{flag.option} [{word}]"
    return f"{flag.option} {word} ..." if flag.many else f"{flag.option} {word}"


def help_entry(flag: Flag) -> str:
    """The flag's help with its choices, its default and what it does not do here."""
    parts = [flag.help]
    choices = [str(choice) for choice in flag.choices if choice is not None]
    if choices and len("|".join(choices)) >= 32:
        parts.append(f"One of {', '.join(choices)}.")
    if flag.served.kind == "otherwise":
        parts.append(f"Accepted, but {flag.served.text}")
    elif flag.served.kind == "stops":
        parts.append(f"Not available: {flag.served.text}")
    if flag.default not in (None, False, ""):
        parts.append(f"[{flag.default}]")
    return " ".join(part for part in parts if part)


def help_text(script: str) -> str:
    """The whole help page of a script, as wide as the terminal."""
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 120) - 2)
    lines = [
        f"usage: accelerate launch {script} --flag value ...",
        "",
        *textwrap.wrap(
            "Trains a LoRA. Flags may be shortened to any unique beginning; values may stand after a space or after =. "
            "Defaults are in [brackets]. Put settings that you use again into a TOML file and give it with "
            "--config_file; --dry_run shows what a run "
            "would do.",
            width,
        ),
        "",
        "example:",
        f"  accelerate launch {script} --pretrained_model_name_or_path=model.safetensors --train_data_dir=dataset",
        "    --output_dir=lora_out --resolution=512,512 --network_module=networks.lora --network_dim=16",
        "    --network_alpha=8 --learning_rate=1e-4 --max_train_epochs=10 --caption_extension=.txt",
        "    --enable_bucket --mixed_precision=fp16",
    ]
    heading = ""
    for flag in flags_of(script).values():
        if flag.group != heading:
            heading = flag.group
            lines += ["", f"{heading}:"]
        left = f"  {usage(flag)}"
        indent = " " * 34
        text = textwrap.wrap(help_entry(flag), width, initial_indent=indent, subsequent_indent=indent)
        if len(left) < len(indent) - 1 and text:
            text[0] = left.ljust(len(indent)) + text[0].lstrip()
            lines += text
        else:
            lines += [left, *text]
    return "\n".join([*lines, ""])
