"""All values of a run as typed, each with its origin: what ``parse`` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

from library.flags.hidden import HIDDEN
from library.flags.table import flags_of
from library.util.records import Problem

DEFAULT = "default"
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Flags:
    """Every flag of an entry script with its value and where that came from.

    ``flags["network_dim"]`` is the value; ``flags.given("network_dim")`` tells whether anybody asked for it. Values
    have the flag's type; unset is None. Secrets are among the values, but never in ``repr`` or ``shown``.
    """

    script: str
    values: Mapping[str, Any] = field(repr=False)
    origins: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name -> origin for what is not a default: ``command line``, ``a.toml:12``."""
    notes: tuple[Problem, ...] = field(default=(), repr=False)
    """What was understood otherwise than written, mended or left aside."""
    argv: tuple[str, ...] = field(default=(), repr=False)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def given(self, name: str) -> bool:
        """Whether the value was typed or read from a file, even if it equals the default."""
        return name in self.origins

    def maybe(self, name: str) -> Any:
        """The value of a flag that not every script takes; None where this one does not."""
        return self.values.get(name)

    def origin(self, name: str) -> str:
        return self.origins.get(name, DEFAULT)

    def changed(self) -> dict[str, Any]:
        """Values that differ from the script's defaults, in the table's order."""
        return {
            name: self.values[name] for name, flag in flags_of(self.script).items() if self.values[name] != flag.default
        }

    def shown(self, name: str) -> str:
        """The value as it may be shown to anyone."""
        flag = flags_of(self.script)[name]
        return HIDDEN if flag.secret and self.values[name] else repr(self.values[name])

    def adding(self, *notes: Problem) -> Flags:
        """The same flags with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def namespace(self) -> SimpleNamespace:
        """The values as attributes, for modules written for kohya that want ``args``."""
        return SimpleNamespace(**self.values)


def defaults(script: str) -> dict[str, Any]:
    """Values of every flag of a script where nothing is given."""
    return {name: flag.default for name, flag in flags_of(script).items()}
