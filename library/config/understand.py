"""One value of a settings file -> a flag's value, with the tolerance that real files need and a note of it."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path
from typing import Any

from library.flags.convert import NotUnderstood, convert
from library.flags.flag import Flag, Number, boolean
from library.util.said import say
from library.util.secrets import mask

UNSET = object()
"""What an empty value means: as if the line were not there."""


def understand(flag: Flag, value: Any) -> tuple[Any, str]:
    """The flag's value and what was understood, "" where nothing had to be.

    ``value`` is anything TOML or JSON holds. Gives UNSET for an empty value. Raises NotUnderstood.
    """
    if value is None or value == "":
        return UNSET, ""
    if flag.many:
        return _many(flag, value)
    if isinstance(value, list):
        return _single(flag, value)
    if isinstance(value, dict):
        raise NotUnderstood("A table stands where one value is expected.", say("Write {name} = value.", name=flag.name))
    if flag.is_switch:
        return _switch(value)
    return _scalar(flag, value)


def _shown(flag: Flag, value: Any) -> str:
    return "(hidden)" if flag.secret else mask(str(value))


def _switch(value: Any) -> tuple[bool, str]:
    if isinstance(value, bool):
        return value, ""
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value), _read(value, str(bool(value)).lower())
    try:
        found = boolean(str(value))
    except ValueError:
        raise NotUnderstood(say('"{value}" is neither true nor false.', value=value), "Write true or false.") from None
    return found, _read(f'"{value}"', str(found).lower())


def _scalar(flag: Flag, value: Any) -> tuple[Any, str]:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, bool) and flag.type in (int, float, Number):
        raise NotUnderstood(say("{text} stands where a number is expected.", text=text), "Write a number.")
    found = convert(flag, text)
    as_typed = flag.type in (str, Path) and str(found) == text
    if as_typed or (
        isinstance(value, int | float) and found == value and not (flag.type is int and isinstance(value, float))
    ):
        return found, ""
    chosen = found != flag.default or text == str(found) or isinstance(value, float)
    return found, _read(_quoted(value), _shown(flag, found) if chosen else say("the default"))


def _quoted(value: Any) -> str:
    return f'"{mask(value)}"' if isinstance(value, str) else str(value)


def _read(value: Any, meaning: str) -> str:
    return say("{value} is read as {meaning}", value=value, meaning=meaning)


def _single(flag: Flag, values: list[Any]) -> tuple[Any, str]:
    """A list for a flag that takes one value: fine for sizes and ranges, and for a list of one."""
    if flag.name in ("resolution", "face_crop_aug_range") and values:
        text = ",".join(str(value) for value in values)
        return text, _read(str(values), f'"{text}"')
    if len(values) == 1:
        found, _ = understand(flag, values[0])
        return found, say("a list of one is read as {meaning}", meaning=_shown(flag, found))
    if not values:
        return UNSET, ""
    raise NotUnderstood(say("A list of {count} values stands where one value is expected.", count=len(values)),
                        say("Write {name} = value.", name=flag.name))


def _many(flag: Flag, value: Any) -> tuple[Any, str]:
    note = ""
    if isinstance(value, dict):
        value = [f"{name}={setting}" for name, setting in value.items()]
        note = say("a table is read as {value}", value=str(value))
    elif isinstance(value, str):
        value = _listed(value)
        note = say("one text is read as the list {value}", value=str(value))
    elif not isinstance(value, list):
        value = [value]
        note = say("a single value is read as the list {value}", value=str(value))
    return [convert(flag, str(part)) for part in value if part is not None and str(part) != ""], note


def _listed(text: str) -> list[Any]:
    """A list written as one text: ``["a=1", "b=2"]`` or ``a=1 b=2``."""
    if text.strip().startswith("["):
        try:
            found = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError):
            raise NotUnderstood(
                say("This cannot be read as a list: {text}", text=text), 'Write ["name=value", "name=value"].'
            ) from None
        return list(found)
    if "=" not in text:
        return text.replace(",", " ").split()
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.escape = ""
    return list(lexer)
