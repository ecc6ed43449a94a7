"""The registry of start-up checks: what a check is, what it may look at, and how a level of them is run.

A check is one small generator function with a decorator:

    @check("dim_zero", level="words", row="F23")
    def check_dim(context: Context) -> Iterator[Problem]:
        '''A rank of zero trains nothing.'''
        if context.flag("network_dim") == 0:
            yield context.stop("dim_zero", where="--network_dim")

Its texts stand under the same key (or ``dim_zero.variant``) in ``texts.py``, other languages' in the tables of
``library.util.said``. Importing this module costs nothing; ``registered()`` imports the files of checks, none of which
imports torch at its top.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from library.preflight.machine import Machine
from library.preflight.texts import TEXTS
from library.util.records import Problem, Severity
from library.util.said import say

if TYPE_CHECKING:
    from library.config.run_config import RunConfig
    from library.flags.values import Flags

Level = Literal["words", "files", "data", "machine", "network", "probes", "installation"]
LEVELS: tuple[Level, ...] = ("words", "files", "data", "machine", "network", "probes", "installation")
CHEAP: tuple[Level, ...] = ("words", "files", "data")
"""Levels that need no torch; their problems are shown together. ``installation`` is for tools/doctor.py alone."""
STAGES: tuple[tuple[Level, ...], ...] = (CHEAP, ("machine",), ("network",), ("probes",), ("installation",))
"""What is shown together; a stop ends the checks after its stage."""
MODEL = "--pretrained_model_name_or_path"
MODULES = (
    "words",
    "ruled",
    "options",
    "settings",
    "versions",
    "files",
    "model_files",
    "resume",
    "pictures",
    "data",
    "sliders",
    "machine_checks",
    "windows",
    "hub",
    "probes",
    "layers",
)


@dataclass(frozen=True)
class Context:
    """What checks may look at. Parts that are not known yet are None; a check that needs them is left out."""

    flags: Mapping[str, Any]
    """Values of all flags by name, after config files."""
    machine: Machine
    origins: Mapping[str, str] = field(default_factory=dict)
    """Flag name -> where its value came from (``default``, ``command line``, ``a.toml:3``)."""
    script: str = "train_network.py"
    config: RunConfig | None = None
    plan: Any = None
    """The DatasetPlan of ``library.data.scan``."""
    cwd: Path = field(default_factory=Path.cwd)
    facts: dict[str, Any] = field(default_factory=dict)
    """What one check found out and another needs again (a header, a listing); filled by ``remember``."""

    def flag(self, name: str) -> Any:
        """Give a flag's value; None where the script does not have the flag."""
        return self.flags.get(name)

    def given(self, name: str) -> bool:
        """Tell whether the user set the flag himself, on the command line or in a file."""
        return self.origins.get(name, "default") != "default"

    def remember(self, key: str, make: Callable[[], Any]) -> Any:
        """Compute something once for all checks of this context."""
        if key not in self.facts:
            self.facts[key] = make()
        return self.facts[key]

    def problem(self, severity: Severity, key: str, where: str, **values: Any) -> Problem:
        """Make a problem of the text ``key``."""
        return problem_of(severity, key, where, **values)

    def stop(self, key: str, where: str, **values: Any) -> Problem:
        """A problem that ends the run after its stage."""
        return self.problem("stop", key, where, **values)

    def warn(self, key: str, where: str, **values: Any) -> Problem:
        """A problem that is shown while the run goes on."""
        return self.problem("warn", key, where, **values)

    def note(self, key: str, where: str, **values: Any) -> Problem:
        """One line for information."""
        return self.problem("note", key, where, **values)


def problem_of(severity: Severity, key: str, where: str, **values: Any) -> Problem:
    """Make a problem of the text ``key`` filled with values."""
    what, remedy = TEXTS[key]
    return Problem(where, say(what, **values), say(remedy, **values), severity, key)


CheckFunction = Callable[[Context], Iterable[Problem]]


@dataclass(frozen=True)
class Check:
    """One registered check."""

    name: str
    level: Level
    row: str
    """Number in the catalogue of failures (``F01`` ...), or "" for a check of our own."""
    needs: tuple[str, ...]
    """Parts of the context without which it is left out: ``config``, ``plan``."""
    function: CheckFunction
    about: str
    """First sentence of the function's docstring."""


_CHECKS: dict[str, Check] = {}


def check(name: str, level: Level, row: str = "", needs: tuple[str, ...] = ()) -> Callable[[CheckFunction], CheckFunction]:
    """Register a generator function as a check."""

    def register(function: CheckFunction) -> CheckFunction:
        assert name not in _CHECKS or _CHECKS[name].function.__module__ == function.__module__, f"two checks are named {name}"
        assert function.__doc__, f"check {name} has no docstring"
        about = " ".join(function.__doc__.split("\n\n")[0].split())
        _CHECKS[name] = Check(name, level, row, needs, function, about)
        return function

    return register


def registered() -> list[Check]:
    """All checks, in the order of their levels and, inside a level, of their files."""
    for module in MODULES:
        importlib.import_module(f"library.preflight.{module}")

    def place(one: Check) -> tuple[int, int]:
        module = one.function.__module__.rsplit(".", 1)[-1]
        return LEVELS.index(one.level), MODULES.index(module) if module in MODULES else len(MODULES)

    return sorted(_CHECKS.values(), key=place)


def run_check(one: Check, context: Context) -> list[Problem]:
    """Run one check; a fault inside it becomes a note that names it, never the end of the run."""
    parts = {"config": context.config, "plan": context.plan}
    if any(parts[need] is None for need in one.needs):
        return []
    found: list[Problem] = []
    try:
        for problem in one.function(context):
            found.append(problem if problem.check else replace(problem, check=one.name))
    except Exception as fault:  # a check must not cost a user the run that it was meant to save
        found.append(context.note("check_failed", where=one.name, fault=f"{type(fault).__name__}: {fault}"))
    return found


def run_level(level: Level, context: Context) -> list[Problem]:
    """Run all checks of one level."""
    return [p for one in registered() if one.level == level for p in run_check(one, context)]


def run(context: Context, levels: Iterable[Level] = LEVELS) -> list[Problem]:
    """Run levels in order; after a stage (see ``STAGES``) that found a stop, the later ones are left out."""
    wanted = set(levels)
    found: list[Problem] = []
    for stage in STAGES:
        for level in stage:
            if level in wanted:
                found.extend(run_level(level, context))
        if any(p.severity == "stop" for p in found):
            break
    return unique(found)


def unique(problems: Iterable[Problem]) -> list[Problem]:
    """Drop what two stages found alike: the same words, or a weaker problem of the same check at the same place."""
    order = {"stop": 0, "warn": 1, "note": 2}
    kept: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        key = (problem.where, problem.what)
        if key not in kept or order[problem.severity] < order[kept[key].severity]:
            kept[key] = problem
    return list(kept.values())


def merge(ours: Iterable[Problem], theirs: Iterable[Problem]) -> list[Problem]:
    """Add what another room found (parse, resolve, scan) to what the checks found, each fault once.

    What the other rooms say of the base model's files is left out where a check has said it with the same weight or more.
    """
    kept = list(ours)
    order = {"stop": 0, "warn": 1, "note": 2}
    spoken = min((order[p.severity] for p in kept if p.where == MODEL), default=len(order))
    return unique(kept + [p for p in theirs if p.where != MODEL or order[p.severity] < spoken])


def context_of(flags: Flags, machine: Machine | None = None, config: RunConfig | None = None, plan: Any = None) -> Context:
    """The context of a real run: its flags with their origins, the machine, and what has been resolved so far."""
    return Context(
        flags=flags.values,
        machine=machine or Machine.read(),
        origins=flags.origins,
        script=flags.script,
        config=config,
        plan=plan,
    )


def later(context: Context, config: RunConfig | None, plan: Any) -> Context:
    """The same context once more is known; what checks have remembered is kept."""
    return replace(context, config=config, plan=plan)
