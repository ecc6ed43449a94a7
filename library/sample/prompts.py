"""Prompt files: what sample pictures show, in kohya's three forms and in the JSON of slider guides.

- ``.txt``: a prompt a line, options behind ``--`` (``a cat --n blurry --w 768 --d 42``), ``#`` comments.
- ``.toml``: a ``[prompt]`` table of defaults with ``[[prompt.subset]]`` tables of long names.
- ``.json``: a list of lines or of tables with the long names; or name -> prompt or table (``{"young": {"prompt":
  "a face", "adapter_strength": -1}}``).
"""

from __future__ import annotations

import json
import logging
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say

FLAG = "--sample_prompts"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromptLine:
    """One picture to draw. None means that the family's or the program's default holds."""

    prompt: str
    negative_prompt: str | None = None
    width: int | None = None
    """Pixels."""
    height: int | None = None
    seed: int | None = None
    """None draws anew each time."""
    steps: int | None = None
    scale: float | None = None
    """Classifier-free guidance with the negative prompt; 1 or less turns it off."""
    guidance_scale: float | None = None
    """Guidance that a distilled model takes as an input."""
    sampler: str | None = None
    controlnet_image: Path | None = None
    cfg_trunc_ratio: float | None = None
    renorm_cfg: float | None = None
    flow_shift: float | None = None
    adapter_strength: float | None = None
    index: int = 0
    """Its place in the file, from 0; file names carry it."""
    name: str = ""
    """What the file calls it, where it does."""


@dataclass(frozen=True)
class _Option:
    field: str
    read: Callable[[str], Any]
    example: str


def _steps(text: str) -> int:
    return max(1, min(1000, int(text)))


def _text(text: str) -> str:
    return text.strip()


OPTIONS: dict[str, _Option] = {
    "n": _Option("negative_prompt", _text, "--n blurry, low quality"),
    "w": _Option("width", int, "--w 512"),
    "h": _Option("height", int, "--h 512"),
    "d": _Option("seed", int, "--d 42"),
    "s": _Option("steps", _steps, "--s 28"),
    "l": _Option("scale", float, "--l 7.5"),
    "g": _Option("guidance_scale", float, "--g 3.5"),
    "ss": _Option("sampler", _text, "--ss euler_a"),
    "cn": _Option("controlnet_image", lambda text: Path(text.strip()), "--cn pose.png"),
    "ctr": _Option("cfg_trunc_ratio", float, "--ctr 0.25"),
    "rcfg": _Option("renorm_cfg", float, "--rcfg 1.0"),
    "fs": _Option("flow_shift", float, "--fs 3.0"),
    "am": _Option("adapter_strength", float, "--am -0.5"),
}
"""Option of a prompt line (any case) -> field, reader, an example for messages."""

LONG_NAMES = {"sample_steps": "steps", "sample_sampler": "sampler", "enum": "index"} | {
    name: name for name in ("prompt", "negative_prompt", "width", "height", "seed", "scale", "guidance_scale",
                            "controlnet_image", "cfg_trunc_ratio", "renorm_cfg", "flow_shift", "adapter_strength")}
"""Key of a table -> field."""

OPTION_START = re.compile(r"\s--(?=[A-Za-z])")


def _complain(where: str, what: str, remedy: str) -> Problem:
    return Problem(where, what, remedy, check="sample_prompts")


def parse_line(text: str, where: str = FLAG) -> PromptLine:
    """Read one prompt line; UserError for a value that an option cannot have.

    Options that are not known are reported and left out, as their file may be meant for other programs too.
    """
    prompt, *parts = OPTION_START.split(" " + text.strip())
    values: dict[str, Any] = {}
    problems = []
    for part in parts:
        name, _, value = part.partition(" ")
        option = OPTIONS.get(name.lower())
        if option is None:
            log.warning('%s: the option "--%s" is not known and was left out. %s', where, name,
                        near(name, OPTIONS, 1).replace("Did you mean ", "Did you mean --"))
            continue
        try:
            values[option.field] = option.read(value.strip())
        except ValueError:
            problems.append(_complain(where, say('--{name} cannot be "{value}".', name=name, value=value.strip()),
                                      say("Write for example {example}.", example=option.example)))
    if problems:
        raise UserError(*problems)
    return PromptLine(prompt.strip(), **values)


READERS: dict[str, Callable[[Any], Any]] = {
    option.field: option.read for option in OPTIONS.values()} | {"prompt": str, "index": int}


def _from_table(table: Mapping[str, Any], where: str) -> PromptLine:
    values: dict[str, Any] = {}
    problems = []
    for key, value in table.items():
        field = LONG_NAMES.get(key)
        if field is None:
            problems.append(_complain(where, say('There is no prompt setting "{key}".', key=key), near(key, LONG_NAMES)))
        elif value is not None and value != "" and field != "index":
            try:
                values[field] = READERS[field](str(value))
            except ValueError:
                problems.append(
                    _complain(where, say("{key} cannot be {value!r}.", key=key, value=value), "Write a number without quotes.")
                )
    if problems:
        raise UserError(*problems)
    return PromptLine(**({"prompt": ""} | values))


def _from_entry(entry: Any, where: str) -> PromptLine:
    if isinstance(entry, str):
        return parse_line(entry, where)
    if isinstance(entry, Mapping):
        return _from_table(entry, where)
    raise UserError(_complain(where, say("A prompt is a line of text or a table, not {entry!r}.", entry=entry),
                              'Write for example {"prompt": "a cat", "seed": 42}.'))


Entry = tuple[str, str, Any]
"""(where it stands, its name, line or table)."""


def _entries_txt(text: str, path: Path) -> list[Entry]:
    return [(f"{path.name}:{number}", "", line.strip()) for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and not line.lstrip().startswith("#")]


def _entries_toml(text: str, path: Path) -> list[Entry]:
    data = tomllib.loads(text)
    prompts = data.get("prompt", data.get("prompts", []))
    if isinstance(prompts, Mapping):
        defaults = {key: value for key, value in prompts.items() if key != "subset"}
        prompts = [defaults | subset for subset in prompts.get("subset", [{}])]
    if not isinstance(prompts, list):
        prompts = [prompts]
    return [(f"{path.name}, prompt {number}", "", entry) for number, entry in enumerate(prompts, 1)]


def _entries_json(text: str, path: Path) -> list[Entry]:
    data = json.loads(text)
    if isinstance(data, Mapping) and "prompt" in data:
        data = [data]
    if isinstance(data, Mapping):
        return [(f"{path.name}, {name}", name, entry) for name, entry in data.items()]
    if not isinstance(data, list):
        data = [data]
    return [(f"{path.name}, prompt {number}", "", entry) for number, entry in enumerate(data, 1)]


ENTRIES: dict[str, Callable[[str, Path], list[Entry]]] = {
    ".txt": _entries_txt, ".toml": _entries_toml, ".json": _entries_json}


def read_prompts(path: Path | str) -> tuple[PromptLine, ...]:
    """Read a prompt file; UserError that names file and line for all that is wrong in it."""
    path = Path(path)
    split = ENTRIES.get(path.suffix.lower())
    if split is None:
        raise UserError(_complain(FLAG, say("{path} is no .txt, .toml or .json file.", path=path),
                                  "Write one prompt a line in a .txt file."))
    try:
        entries = split(path.read_text(encoding="utf-8-sig"), path)
    except OSError as error:
        raise UserError(
            _complain(FLAG, say("Cannot read {path} ({reason}).", path=path, reason=error.strerror), "Check the path.")
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(_complain(FLAG, say("{path} is not written in UTF-8.", path=path),
                                  "Save it as UTF-8 in your editor.")) from error
    except ValueError as error:
        raise UserError(
            _complain(FLAG, say("{path} cannot be read: {error}", path=path, error=error), "Mend the file at that place.")
        ) from error
    lines, problems = [], []
    for index, (where, name, entry) in enumerate(entries):
        try:
            lines.append(replace(_from_entry(entry, where), index=index, name=name))
        except UserError as error:
            problems += error.problems
    if not entries:
        problems.append(_complain(FLAG, say("{path} holds no prompt.", path=path), "Write one prompt a line."))
    if problems:
        raise UserError(*problems)
    return tuple(lines)


def with_defaults(line: PromptLine, defaults: Mapping[str, Any]) -> PromptLine:
    """Fill what the line leaves open from ``defaults`` (field name -> value)."""
    known = {field.name for field in fields(PromptLine)}
    open_values = {name: value for name, value in defaults.items()
                   if name in known and getattr(line, name) is None}
    return replace(line, **open_values)
