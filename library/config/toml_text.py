"""A TOML or JSON file as written by people: decoded, mended where a Windows path needs it, with line numbers.

tomllib tells no lines, and users want ``a.toml:12`` in every message; so the text is looked through once for the line
of each key. What TOML does not allow but people write is answered with the line and the right spelling.
"""

from __future__ import annotations

import json
import locale
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from library.flags.hidden import shown
from library.flags.table import BY_NAME
from library.util.records import Problem, UserError
from library.util.said import say

KeyPath = tuple[str | int, ...]
PATH_KEYS = frozenset(
    {flag.name for flag in BY_NAME.values() if flag.path} | {"image_dir", "metadata_file", "conditioning_data_dir"}
)

_KEY = re.compile(r"^\s*[\"']?([\w\-.]+)[\"']?\s*=\s*(.*?)\s*$")
_TABLE = re.compile(r"^\s*(\[\[?)\s*([\w\-. \"']+?)\s*\]\]?\s*(?:#.*)?$")
_QUOTED_PATH = re.compile(r"\"([A-Za-z]:\\[^\"\n]*|\\\\[^\"\n\\]+\\[^\"\n]*)\"")
_WHOLE_VALUE = re.compile(r"^(\s*[\"']?([\w\-.]+)[\"']?\s*=\s*)\"([^\"\n]*\\[^\"\n]*)\"(\s*(?:#.*)?)$")
_WORDS = {
    "True": "true",
    "False": "false",
    "TRUE": "true",
    "FALSE": "false",
    "None": '"" (or leave the line out)',
    "none": '"" (or leave the line out)',
    "null": '"" (or leave the line out)',
}


@dataclass(frozen=True)
class SettingsText:
    """A file's content with the line of each key."""

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)
    notes: tuple[Problem, ...] = ()

    def at(self, *keys: str | int) -> str:
        """Where a key stands: ``a.toml:12``, or its path in the file where the line is not known."""
        if keys in self.lines:
            return f"{self.path.name}:{self.lines[keys]}"
        words = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
        return f"{self.path.name}: {words}" if words else self.path.name


def read_settings(path: Path) -> SettingsText:
    """Read a .toml or .json file. Raises UserError with the line and the right spelling where it cannot be read."""
    text, notes = decode(path)
    if path.suffix.lower() == ".json":
        return SettingsText(path, _load_json(path, text), {}, tuple(notes))
    text, mended = _mend_paths(path, text)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(*diagnose(path, text, str(error))) from None
    lines = line_map(text)
    found = SettingsText(path, data, lines, (*notes, *mended))
    bad = list(_control_characters(found, data))
    if bad:
        raise UserError(*bad)
    return found


def decode(path: Path) -> tuple[str, list[Problem]]:
    """The file's text: UTF-8 with or without a mark, UTF-16 by its mark, else the system's code page with a note."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(
            Problem(
                str(path),
                say("It cannot be read: {strerror}.", strerror=error.strerror),
                "Check the path and the permissions.",
                check="settings",
            )
        ) from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16").lstrip("\ufeff"), [_read_as(path, "UTF-16")]
    for encoding, zeros in (("utf-16-le", raw[1::2]), ("utf-16-be", raw[::2])):
        if len(raw) > 3 and zeros.count(0) > 0.8 * len(zeros):  # UTF-16 without its mark: every second byte is 0
            return raw.decode(encoding, errors="replace"), [_read_as(path, "UTF-16")]
    try:
        return raw.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        pass
    for encoding in dict.fromkeys((locale.getpreferredencoding(False), "cp932", "cp1252")):
        try:
            text = raw.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
        return text, [_read_as(path, encoding)]
    raise UserError(
        Problem(path.name, "It is not text in any encoding known here.", "Save it as UTF-8.", check="settings")
    )


def _read_as(path: Path, encoding: str) -> Problem:
    return Problem(path.name, say("It is not UTF-8 and was read as {encoding}.", encoding=encoding),
                   "Save it as UTF-8 to be safe (in Notepad: Save as, Encoding: UTF-8).", "warn", "settings")


def _load_json(path: Path, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            Problem(
                f"{path.name}:{error.lineno}",
                say("It is not valid JSON: {msg}.", msg=error.msg),
                "Write paths with / or double every backslash; the last entry has no comma.",
                check="settings",
            )
        ) from None
    if not isinstance(data, dict):
        raise UserError(
            Problem(
                path.name,
                say("It holds a {name}, not settings by name.", name=type(data).__name__),
                "A settings file is one { ... }.",
                check="settings",
            )
        )
    return data


def _mend_paths(path: Path, text: str) -> tuple[str, list[Problem]]:
    """Windows paths in double quotes: their single backslashes become slashes, with a note."""
    notes: list[Problem] = []
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if "\\" not in line or '"' not in line or line.lstrip().startswith("#") or "'''" in line or '"""' in line:
            continue
        mended = _QUOTED_PATH.sub(lambda match: _slashed(match.group(1)) or match.group(0), line)
        whole = _WHOLE_VALUE.match(mended)
        if whole and whole.group(2) in PATH_KEYS and (slashed := _slashed(whole.group(3))):
            mended = f"{whole.group(1)}{slashed}{whole.group(4)}"
        if mended != line:
            lines[index] = mended
            notes.append(
                Problem(
                    f"{path.name}:{index + 1}",
                    say("Backslashes in double quotes mean something else in TOML; this is read as {mended}",
                        mended=mended.strip()),
                    "Write / or single quotes.",
                    "warn",
                    "settings",
                )
            )
    return "\n".join(lines), notes


def _slashed(raw: str) -> str | None:
    """The string with slashes, quoted; None where every backslash is doubled, as TOML wants it."""
    if "\\" not in raw.replace("\\\\", ""):
        return None
    server = "/" if raw.startswith("\\\\") else ""
    return f'"{server}{raw.replace(chr(92) * 2, "/").replace(chr(92), "/")}"'


def line_map(text: str) -> dict[KeyPath, int]:
    """Line of every ``key = value`` and table header; repeated keys keep the last line."""
    found: dict[KeyPath, int] = {}
    table: KeyPath = ()
    counts: dict[KeyPath, int] = {}
    open_quote = ""
    for number, line in enumerate(text.splitlines(), 1):
        if open_quote:
            open_quote = "" if open_quote in line else open_quote
            continue
        header, key = _TABLE.match(line), _KEY.match(line)
        if key:
            found[(*table, *key.group(1).split("."))] = number
            open_quote = next((mark for mark in ('"""', "'''") if line.count(mark) == 1), "")
        elif header:
            table = _table_path(header.group(2), header.group(1) == "[[", counts)
            found.setdefault(table, number)
    return found


def _table_path(name: str, repeated: bool, counts: dict[KeyPath, int]) -> KeyPath:
    """``datasets.subsets`` -> ("datasets", 0, "subsets", 2): the last of each repeated table above it."""
    parts = [part.strip(" \"'") for part in name.split(".")]
    path: KeyPath = ()
    for depth, part in enumerate(parts):
        path = (*path, part)
        last = depth == len(parts) - 1
        if last and repeated:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def diagnose(path: Path, text: str, message: str) -> list[Problem]:
    """What is wrong with a text that is no TOML, line by line; tomllib's own words where nothing is recognised."""
    found = [
        Problem(f"{path.name}:{number}", what, remedy, check="settings") for number, what, remedy in _suspects(text)
    ]
    if found:
        return found
    at = re.search(r"line (\d+)", message)
    line = text.splitlines()[int(at.group(1)) - 1].strip() if at and int(at.group(1)) <= len(text.splitlines()) else ""
    where = f"{path.name}:{at.group(1)}" if at else path.name
    return [
        Problem(
            where,
            say("It is not valid TOML: {message} in: {line}.", message=message, line=line)
            if line
            else say("It is not valid TOML: {message}.", message=message),
            "One setting a line: name = value; text in quotes, true and false in small letters.",
            check="settings",
        )
    ]


_ODD_SIGNS = re.compile("^\\s*([\\w.\\-]+)(?:[\\s=]*[\uff1d\u3000]|\\s*=\\s*[\u201c\u201d\u201e\u2018\u2019\u300c\uff02])")
"""A setting with a full-width = or blank, or whose value begins with a typographic quote."""


def _suspects(text: str) -> Iterator[tuple[int, str, str]]:
    """(line, what is wrong, remedy) for each line that holds a usual mistake."""
    seen: dict[tuple[str, str], int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        header, match = _TABLE.match(line), _KEY.match(line)
        if odd := _ODD_SIGNS.match(line):
            yield number, say("Typographic or full-width signs stand in: {line}", line=shown(odd.group(1), line.strip())), (
                "Type the quotes, blanks and the = sign anew, plain and with Japanese input switched off."
            )
            continue
        if header and not match:
            table = f"{header.group(2)}#{number}" if header.group(1) == "[[" else header.group(2)
        if not match:
            continue
        key, value = match.group(1), re.sub(r"\s+#.*$", "", match.group(2))
        seen_value = shown(key, value)
        if (table, key) in seen:
            yield (
                number,
                say("{key} stands here a second time (first in line {line}).", key=key, line=seen[table, key]),
                "Keep one of the two lines.",
            )
        seen[table, key] = number
        if value in _WORDS:
            yield number, say("{key} = {value} is not TOML", key=key, value=value), _write(key, _WORDS[value])
        elif value.startswith('"') and (value.count('"') == 1 or value.endswith('\\"')) and not value.startswith('"""'):
            yield (
                number,
                say("The quotes of {key} do not close: {value}", key=key, value=seen_value),
                say("Write {key} = '...' in single quotes, without a backslash at the end.", key=key),
            )
        elif re.match(r"^[A-Za-z_./\\~<$%]", value) and value not in ("true", "false", "inf", "nan"):
            yield number, say("{key} = {value} has no quotes.", key=key, value=seen_value), _write(key, f"'{seen_value}'")
        elif re.match(r"^\d+(\.\d+)?\s*[,%x]\s*\d*$", value):
            yield number, say("{key} = {value} has no quotes.", key=key, value=value), _write(key, f'"{value}"')
        elif not value:
            yield number, say("{key} has no value", key=key), "Give it one, or leave the line out."


def _write(key: str, value: str) -> str:
    return say("Write {key} = {value}.", key=key, value=value)


def _control_characters(found: SettingsText, table: Any, keys: KeyPath = ()) -> Iterator[Problem]:
    """Paths into which TOML put line breaks or tabs."""
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, value in items:
        if isinstance(value, dict | list):
            yield from _control_characters(found, value, (*keys, key))
        elif (
            isinstance(value, str)
            and (key in PATH_KEYS or (keys and keys[-1] in PATH_KEYS))
            and re.search(r"[\x00-\x1f]", value)
        ):
            yield Problem(
                found.at(*keys, key),
                say("The path {value!r} contains control characters: a backslash in double quotes was taken for a line "
                    "break or a tab.", value=value),
                "Write it with / or in single quotes.",
                check="settings",
            )
