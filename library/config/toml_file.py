"""``--config_file`` and ``--output_config``: settings files read into Flags and written from them.

kohya's rules: ``.toml`` is added where it is missing, tables are flattened and their names mean nothing, a later key
wins, the command line wins over the file and the file over the defaults.
"""

from __future__ import annotations

import difflib
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.config.front_ends import FRONT_KEYS, NETWORK_ARGS_KEYS, TEXT_ENCODER_RATES
from library.config.gui_json import from_gui, is_gui_preset
from library.config.near_key import misspelt
from library.config.toml_text import SettingsText, read_settings
from library.config.understand import UNSET, understand
from library.flags import Flags, collect, flags_of
from library.flags.convert import NotUnderstood
from library.flags.elsewhere import OTHER_SCRIPTS
from library.flags.scripts import NETWORK
from library.flags.table import scripts_with
from library.util.records import Problem, UserError
from library.util.said import say
from library.util.secrets import has_secret, mask

NEVER_WRITTEN = ("config_file", "output_config")


@dataclass
class FileReading:
    """What a settings file gave, and everything noticed on the way."""

    text: SettingsText
    script: str
    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def note(self, where: str, what: str, remedy: str, severity: str = "note") -> None:
        self.notes.append(Problem(where, what, remedy, severity, "settings"))

    def stop(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(Problem(where, what, remedy, check="settings"))


@dataclass(frozen=True)
class Entry:
    """One ``key = value`` of a file with the place where it stands."""

    key: str
    value: Any
    where: str


def read_command(argv: Sequence[str] | None = None, script: str = NETWORK) -> Flags:
    """Stage 1 of a run: the command line and the settings file that it names, as one Flags.

    Writes the settings and raises SystemExit(0) for ``--output_config``. Raises UserError with all problems of the line
    and of the file together.
    """
    flags, problems = collect(argv, script)
    if flags["output_config"]:
        if problems:
            raise UserError(*problems)
        _write_and_exit(flags)
    if flags["config_file"]:
        try:
            flags, found = merge_file(flags, config_path(flags["config_file"]))
            problems = [*problems, *found]
        except UserError as error:
            problems = [*problems, *error.problems]
    if problems:
        raise UserError(*problems)
    return flags


def config_path(typed: str) -> Path:
    """The file that ``--config_file`` names. Raises UserError with near names where there is none."""
    path = Path(typed)
    if path.suffix.lower() not in (".toml", ".json"):
        path = path.with_name(path.name + ".toml")
    if path.is_file():
        return path
    remedy = say("Check the path; a relative one counts from the folder in which the command runs.")
    if not path.parent.is_dir():
        remedy = say("The folder {folder} does not exist either. {remedy}", folder=path.parent, remedy=remedy)
    else:
        names = [one.name for one in path.parent.iterdir() if one.suffix.lower() in (".toml", ".json")]
        hidden = [one for one in path.parent.iterdir() if one.name.lower() == f"{path.name.lower()}.txt"]
        if hidden:
            what = say("There is no file {path}, but {name}: Windows hides the ending .txt.", path=path, name=hidden[0].name)
            raise UserError(Problem("--config_file", what, say("Rename it to {name}.", name=path.name), check="settings"))
        close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
        remedy = say("Near it there is {names}.", names=close) if close else remedy
    raise UserError(Problem("--config_file", say("There is no file {path}.", path=path), remedy, check="settings"))


def merge_file(flags: Flags, path: Path) -> tuple[Flags, list[Problem]]:
    """Flags with the file's values under the command line's, and its problems. Raises UserError if unreadable."""
    text = read_settings(path)
    reading = FileReading(text, flags.script, notes=list(text.notes))
    if is_gui_preset(text.data):
        text = replace(text, data=from_gui(text.data, path.name, reading.notes))
    entries = list(_entries(text, reading))
    front, unknown = [], []
    empty: list[str] = []
    for entry in entries:
        if entry.key in flags_of(flags.script):
            _read_entry(entry, reading, empty)
        elif entry.key in FRONT_KEYS:
            front.append(entry)
        else:
            unknown.append(entry)
    if empty:
        reading.note(path.name, say("Empty values count as not given: {empty}.", empty=empty), "")
    typed = {name: flags[name] for name in flags.origins}
    _mend_front_keys(front, reading, typed)
    _judge_unknown(unknown, reading)
    values = {**flags.values, **reading.values, **typed}
    origins = {**reading.origins, **flags.origins}
    return replace(flags, values=values, origins=origins, notes=(*flags.notes, *reading.notes)), reading.problems


def _entries(text: SettingsText, reading: FileReading) -> list[Entry]:
    """All keys of all tables, flattened; a later one of the same name replaces an earlier one."""
    if "datasets" in text.data or (isinstance(text.data.get("general"), dict) and "subsets" in text.data["general"]):
        reading.stop(
            text.at("datasets"),
            "This file describes data sets.",
            say("Give it with --dataset_config {name}.", name=text.path.name),
        )
        return []
    found: dict[str, Entry] = {}

    def walk(table: dict[str, Any], keys: tuple[str, ...]) -> None:
        for key, value in table.items():
            if isinstance(value, dict) and key not in flags_of(reading.script):
                walk(value, (*keys, key))
            elif key != "config_file":
                found.pop(key, None)
                found[key] = Entry(key, value, text.at(*keys, key))

    walk(text.data, ())
    return list(found.values())


def _read_entry(entry: Entry, reading: FileReading, empty: list[str]) -> None:
    flag = flags_of(reading.script)[entry.key]
    try:
        value, understood = understand(flag, entry.value)
    except NotUnderstood as error:
        what, remedy = error.args
        reading.stop(entry.where, say("{key}: {what}.", key=entry.key, what=what), remedy)
        return
    if value is UNSET:
        if entry.value != flag.default:
            empty.append(entry.key)
        return
    if understood:
        reading.note(entry.where, say("{key}: {understood}.", key=entry.key, understood=understood), "")
    reading.values[entry.key] = value
    reading.origins[entry.key] = entry.where


def _mend_front_keys(entries: list[Entry], reading: FileReading, typed: dict[str, Any]) -> None:
    """Move what plainly means a flag to that flag; explain the rest, one line each."""
    rates = {entry.key: entry for entry in entries if entry.key in TEXT_ENCODER_RATES}
    for entry in entries:
        meaning = FRONT_KEYS[entry.key]
        taken = [name for name in meaning.unless if name in reading.values or name in typed]
        if not meaning.flag:
            reading.note(entry.where, say("{key}: {text}.", key=entry.key, text=say(meaning.text)), "")
        elif entry.key in NETWORK_ARGS_KEYS:
            _into_network_args(entry, reading, typed)
        elif not entry.value or (entry.key in rates and entry.key != next(iter(rates))):
            continue
        elif meaning.flag == "lr_warmup_steps" and _constant_rate(reading, typed):
            reading.note(entry.where, say("{key} is left aside: a constant learning rate has no warm-up.", key=entry.key), "")
        elif taken:
            reading.note(
                entry.where,
                say("{key} is left aside: it {text}; given is {taken}.", key=entry.key, text=say(meaning.text), taken=taken),
                "",
            )
        elif entry.key in rates:
            _move(
                replace(entry, key=" and ".join(rates), value=[one.value for one in rates.values()]),
                meaning.flag,
                reading,
            )
        else:
            _move(entry, meaning.flag, reading)


def _constant_rate(reading: FileReading, typed: dict[str, Any]) -> bool:
    """Whether the schedule that holds is the constant one, the default."""
    return (reading.values | typed).get("lr_scheduler", "constant") == "constant"


def _move(entry: Entry, name: str, reading: FileReading) -> None:
    try:
        value, _ = understand(flags_of(reading.script)[name], entry.value)
    except NotUnderstood as error:
        reading.stop(entry.where, say("{key}: {what}.", key=entry.key, what=error.args[0]), error.args[1])
        return
    reading.note(entry.where, say("{key} is read as {name} = {value}.", key=entry.key, name=name, value=value), "")
    reading.values[name] = value
    reading.origins[name] = entry.where


def _into_network_args(entry: Entry, reading: FileReading, typed: dict[str, Any]) -> None:
    args = [str(arg) for arg in reading.values.get("network_args", [])]
    names = {arg.split("=")[0].strip() for arg in [*args, *typed.get("network_args", [])]}
    if not entry.value or entry.key in names:
        return
    reading.values["network_args"] = [*args, f"{entry.key}={entry.value}"]
    reading.origins.setdefault("network_args", entry.where)
    reading.note(entry.where, say("{key} is read as network_args {key}={value}.", key=entry.key, value=entry.value), "")


def _judge_unknown(entries: list[Entry], reading: FileReading) -> None:
    """A key near exactly one flag's name is a misspelling and stops the run; all others are listed in one line."""
    known = flags_of(reading.script)
    left: list[str] = []
    for entry in entries:
        scripts = scripts_with(entry.key) or ((OTHER_SCRIPTS[entry.key],) if entry.key in OTHER_SCRIPTS else ())
        near = None if scripts else misspelt(entry.key, known)
        if near:
            reading.stop(entry.where, say("There is no setting {key}.", key=entry.key), say("Did you mean {near}?", near=near))
        else:
            left.append(f"{mask(entry.key)} ({', '.join(scripts)})" if scripts else mask(entry.key))
    if left:
        reading.note(
            reading.text.path.name,
            say("Settings that {script} does not have are left aside: {left}.", script=reading.script, left=left),
            "Remove them, or check their names.",
            "warn",
        )


def _write_and_exit(flags: Flags) -> None:
    """``--output_config``: write the settings that differ from the defaults, never over a file, and end."""
    if not flags["config_file"]:
        raise UserError(
            Problem(
                "--output_config", "No file is named to write to.", "Add --config_file=name.toml.", check="settings"
            )
        )
    path = Path(flags["config_file"])
    path = path if path.suffix.lower() == ".toml" else path.with_name(path.name + ".toml")
    if path.exists():
        raise UserError(
            Problem(
                "--output_config",
                say("{path} exists already and is not overwritten.", path=path),
                "Choose another name with --config_file, or remove that file.",
                check="settings",
            )
        )
    write_text(path, to_toml(flags))
    sys.stdout.write(f"The settings were written to {path}.\n")
    raise SystemExit(0)


def to_toml(flags: Flags) -> str:
    """The settings that differ from the defaults as TOML for any reader; keys and tokens are left out."""
    table = flags_of(flags.script)
    lines = [
        f"{name} = {toml_value(value)}"
        for name, value in flags.changed().items()
        if name not in NEVER_WRITTEN and not table[name].secret and not has_secret(str(value))
    ]
    return "\n".join([*lines, ""])


def toml_value(value: Any) -> str:
    """One value in TOML's spelling."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _toml_float(value)
    if isinstance(value, list | tuple):
        return "[ " + ", ".join(toml_value(one) for one in value) + ",]" if value else "[]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    for raw, escaped in (("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"), ("\b", "\\b"), ("\f", "\\f")):
        text = text.replace(raw, escaped)
    return f'"{text}"'


def _toml_float(value: float) -> str:
    """A float that stays one when read: with a point or an exponent."""
    text = repr(value)
    return text if any(mark in text for mark in ".enia") else f"{text}.0"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, UTF-8, through a temporary name in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(name, path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
