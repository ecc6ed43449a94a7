"""Learning-rate schedules by name, with the values of transformers and diffusers, step for step.

A schedule here is a pure function step -> factor of the rate, so that it can be drawn, tested and resumed without
an optimizer. ``steps`` and a warm-up given as a number count the schedule's own steps: one an optimizer step where
the loop steps it itself; optimizer steps x processes where accelerate steps it (kohya's trainer).
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

FLAG = "--lr_scheduler"
TYPE_FLAG = "--lr_scheduler_type"
ARGS_FLAG = "--lr_scheduler_args"

Factor = Callable[[int], float]


def refuse(where: str, what: str, remedy: str) -> UserError:
    return UserError(Problem(where, what, remedy, check="schedule"))


@dataclass(frozen=True)
class ScheduleSettings:
    """What the user asked for, and how long the run is."""

    name: str = "constant"
    """A name of the table, ``adafactor:RATE``, a class of ``torch.optim.lr_scheduler`` or a dotted path."""
    steps: int = 1
    """Scheduler steps of the whole run."""
    warmup: float | int = 0
    """Scheduler steps (int), or a part of them (float)."""
    decay: float | int = 0
    """The same for the decay of ``warmup_stable_decay``."""
    num_cycles: int = 1
    power: float = 1.0
    timescale: int | None = None
    min_lr_ratio: float | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    is_class: bool = False
    """True where the name came from ``--lr_scheduler_type``."""

    @property
    def warmup_steps(self) -> int:
        return _count(self.warmup, self.steps)

    @property
    def decay_steps(self) -> int:
        return _count(self.decay, self.steps)


@dataclass(frozen=True)
class ScheduleSpec:
    """One schedule: its factor, and which of the settings it reads."""

    name: str
    make: Callable[[ScheduleSettings, float], Factor]
    """(settings, base rate) -> factor. The base rate matters where an end rate is given in absolute terms."""
    warms_up: bool = True
    args: tuple[str, ...] = ()
    """Names that ``--lr_scheduler_args`` may give."""


def _count(value: float | int, steps: int) -> int:
    return int(value * steps) if isinstance(value, float) else value


def _ramp(step: int, warmup: int) -> float:
    return step / max(1, warmup)


def _progress(step: int, settings: ScheduleSettings) -> float:
    return (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)


def _warmed(settings: ScheduleSettings, after: Factor) -> Factor:
    """Linear ramp from 0 over the warm-up, then ``after``."""
    warmup = settings.warmup_steps
    return lambda step: _ramp(step, warmup) if step < warmup else after(step)


def _constant(settings: ScheduleSettings, base: float) -> Factor:
    return lambda step: 1.0


def _constant_with_warmup(settings: ScheduleSettings, base: float) -> Factor:
    return _warmed(settings, lambda step: 1.0)


def _linear(settings: ScheduleSettings, base: float) -> Factor:
    return _warmed(settings, lambda step: max(0.0, 1.0 - _progress(step, settings)))


def _wave(progress: float, cycles: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * cycles * 2.0 * progress))


def _cosine(settings: ScheduleSettings, base: float) -> Factor:
    """Half a wave; ``num_cycles`` of the flag plays no part, as in kohya (only the argument of that name does)."""
    cycles = float(settings.args.get("num_cycles", 0.5))
    return _warmed(settings, lambda step: max(0.0, _wave(_progress(step, settings), cycles)))


def _cosine_with_restarts(settings: ScheduleSettings, base: float) -> Factor:
    def after(step: int) -> float:
        progress = _progress(step, settings)
        if progress >= 1.0:
            return 0.0
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((float(settings.num_cycles) * progress) % 1.0))))
    return _warmed(settings, after)


def _polynomial(settings: ScheduleSettings, base: float) -> Factor:
    end = float(settings.args.get("lr_end", 1e-7))
    if not end < base:
        raise refuse(FLAG, say("The schedule polynomial ends at {end:g}, which is not below the learning rate {base:g}.",
                               end=end, base=base),
                     say("Set --learning_rate, or {args_flag} lr_end=0.", args_flag=ARGS_FLAG))

    def after(step: int) -> float:
        if step > settings.steps:
            return end / base
        left = 1 - (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        return ((base - end) * left**settings.power + end) / base
    return _warmed(settings, after)


def _inverse_sqrt(settings: ScheduleSettings, base: float) -> Factor:
    warmup = settings.warmup_steps
    timescale = settings.timescale or warmup or 10_000
    return _warmed(settings, lambda step: 1.0 / math.sqrt((step + timescale - warmup) / timescale))


def _cosine_with_min_lr(settings: ScheduleSettings, base: float) -> Factor:
    args = settings.args
    floor = args["min_lr"] / base if "min_lr" in args else args.get("min_lr_rate", settings.min_lr_ratio)
    if floor is None:
        raise refuse(FLAG, "cosine_with_min_lr needs to know where to end.",
                     say("Set --lr_scheduler_min_lr_ratio 0.1 (a tenth of the learning rate), or {args_flag} min_lr=1e-5.",
                         args_flag=ARGS_FLAG))
    cycles = settings.num_cycles / 2
    return _warmed(settings,
                   lambda step: max(0.0, _wave(_progress(step, settings), cycles) * (1 - floor) + floor))


RISES: dict[str, Callable[[float], float]] = {
    "linear": lambda part: part,
    "cosine": lambda part: 0.5 * (1.0 - math.cos(math.pi * part)),
    "1-sqrt": lambda part: 1.0 - math.sqrt(1.0 - part),
}
FALLS: dict[str, Callable[[float, float], float]] = {
    "linear": lambda part, cycles: 1.0 - part,
    "cosine": _wave,
    "1-sqrt": lambda part, cycles: 1.0 - math.sqrt(part),
}


def _choice(table: Mapping[str, Any], settings: ScheduleSettings, key: str, default: str) -> Any:
    name = settings.args.get(key, default)
    if name not in table:
        raise refuse(ARGS_FLAG, say("{key}={name!r} is none of {table}", key=key, name=name, table=table), near(str(name), table))
    return table[name]


def _warmup_stable_decay(settings: ScheduleSettings, base: float) -> Factor:
    """Rise, stay, fall; the rate stays at the floor afterwards (Hu et al. 2024, MiniCPM)."""
    rise, fall = _choice(RISES, settings, "warmup_type", "linear"), _choice(FALLS, settings, "decay_type", "cosine")
    warmup, decay = settings.warmup_steps, settings.decay_steps
    stable = settings.steps - warmup - decay
    floor, cycles = settings.min_lr_ratio or 0.0, settings.num_cycles / 2

    def factor(step: int) -> float:
        if step < warmup:
            return max(0.0, rise(_ramp(step, warmup)) * (1.0 - floor) + floor)
        if step < warmup + stable:
            return 1.0
        if step < warmup + stable + decay:
            return max(0.0, fall((step - warmup - stable) / max(1, decay), cycles) * (1.0 - floor) + floor)
        return floor
    return factor


def _piecewise_constant(settings: ScheduleSettings, base: float) -> Factor:
    """``step_rules=1:10,0.1:20,0.01``: factor 1 before step 10, 0.1 before step 20, 0.01 afterwards."""
    rules = settings.args.get("step_rules")
    if rules is None:
        raise refuse(FLAG, "piecewise_constant needs its rules.",
                     say('Set {args_flag} "step_rules=1:100,0.1:200,0.01".', args_flag=ARGS_FLAG))
    try:
        *pieces, last = str(rules).split(",")
        until = sorted((int(steps), float(value)) for value, steps in (piece.split(":") for piece in pieces))
        rest = float(last)
    except ValueError as error:
        raise refuse(ARGS_FLAG, say("step_rules={rules} cannot be read.", rules=rules),
                     "Write factor:until_step pairs and a last factor, for example 1:100,0.1:200,0.01.") from error
    return lambda step: next((value for steps, value in until if step < steps), rest)


@dataclass(frozen=True)
class _Cycle:
    """Where a step lies in a schedule of warm restarts."""

    number: int
    part: float
    """0..1 of the cycle after its warm-up."""
    ramp: float | None
    """0..1 of its warm-up, None behind it."""


def _cycle_at(step: int, length: int, warmup: int, multiplier: float) -> _Cycle:
    number = 0
    while step >= length:
        step -= length
        number += 1
        length = max(warmup + 1, round((length - warmup) * multiplier) + warmup)
    if step < warmup:
        return _Cycle(number, 0.0, step / warmup)
    return _Cycle(number, (step - warmup) / (length - warmup), None)


def _warm_restarts(shape: Callable[[float, float], float]) -> Callable[[ScheduleSettings, float], Factor]:
    """Cycles that begin anew at ``gamma`` times the former rate; ``shape`` is (part of cycle, d) -> 1..0."""
    def make(settings: ScheduleSettings, base: float) -> Factor:
        args = settings.args
        warmup = int(args.get("warmup_steps", settings.warmup_steps))
        length = int(args.get("first_cycle_max_steps", max(1, settings.steps // max(1, settings.num_cycles))))
        if warmup >= length:
            raise refuse("--lr_warmup_steps", say("{warmup} steps of warm-up do not fit in a cycle of {length} steps.",
                                                  warmup=warmup, length=length),
                         "Use a shorter warm-up, or fewer cycles (--lr_scheduler_num_cycles).")
        end = float(args.get("min_lr", 1e-6)) / base
        end = end if end < 1.0 else 0.0
        gamma, multiplier, d = (float(args.get(key, value)) for key, value in
                                (("gamma", 1.0), ("cycle_multiplier", 1.0), ("d", 0.9)))

        def factor(step: int) -> float:
            cycle = _cycle_at(step, length, warmup, multiplier)
            top = gamma**cycle.number
            if top <= end:
                return end
            height = shape(cycle.part, d) if cycle.ramp is None else cycle.ramp
            return end + (top - end) * height
        return factor
    return make


def _rex(part: float, d: float) -> float:
    """Reflected exponential decay (Chen et al. 2021, REX)."""
    return (1 - part) / ((1 - d) + d * (1 - part))


RESTART_ARGS = ("gamma", "cycle_multiplier", "first_cycle_max_steps", "min_lr", "warmup_steps", "d")

SPECS: dict[str, ScheduleSpec] = {spec.name.lower(): spec for spec in (
    ScheduleSpec("constant", _constant, warms_up=False),
    ScheduleSpec("constant_with_warmup", _constant_with_warmup),
    ScheduleSpec("linear", _linear),
    ScheduleSpec("cosine", _cosine, args=("num_cycles",)),
    ScheduleSpec("cosine_with_restarts", _cosine_with_restarts),
    ScheduleSpec("polynomial", _polynomial, args=("lr_end",)),
    ScheduleSpec("inverse_sqrt", _inverse_sqrt),
    ScheduleSpec("cosine_with_min_lr", _cosine_with_min_lr, args=("min_lr", "min_lr_rate")),
    ScheduleSpec("warmup_stable_decay", _warmup_stable_decay, args=("warmup_type", "decay_type")),
    ScheduleSpec("piecewise_constant", _piecewise_constant, warms_up=False, args=("step_rules",)),
    ScheduleSpec("RexAnnealingWarmRestarts", _warm_restarts(_rex), args=RESTART_ARGS),
    ScheduleSpec("CosineAnnealingWarmupRestarts", _warm_restarts(lambda part, d: _wave(part, 0.5)), args=RESTART_ARGS),
)}
"""Lower-case name -> record: kohya's names, and two schedules that its front ends ship."""

FRONT_END_CLASSES = {"RexAnnealingWarmRestarts": "RexAnnealingWarmRestarts",
                     "CosineAnnealingWarmRestarts": "CosineAnnealingWarmupRestarts"}
"""Class name behind ``LoraEasyCustomOptimizer.`` -> schedule of the table."""


def names() -> list[str]:
    return [spec.name for spec in SPECS.values()]


def _alias(settings: ScheduleSettings) -> str:
    """The table's name for a front end's class path; else the name as it is."""
    first, last = settings.name.split(".")[0], settings.name.rpartition(".")[2]
    if first == "LoraEasyCustomOptimizer" and last in FRONT_END_CLASSES:
        return FRONT_END_CLASSES[last]
    return settings.name


def _spec(settings: ScheduleSettings) -> ScheduleSpec | None:
    """The table's record; None where the name is a class to be imported or Adafactor's own schedule."""
    name = _alias(settings)
    spec = SPECS.get(name.lower())
    if spec is not None and (not settings.is_class or name[0].isupper()):
        return spec
    if settings.is_class or "." in name or name.startswith("adafactor"):
        return None
    raise refuse(FLAG, say('There is no schedule "{name}".', name=settings.name), near(settings.name, names()))


def problems(settings: ScheduleSettings, base_lr: float = 1.0) -> list[Problem]:
    """What can be said of a schedule before anything is imported: its name, its arguments, a warm-up it cannot have."""
    try:
        spec = _spec(settings)
        if spec is None:
            return []
        found = _warmup_problems(settings, spec.warms_up) + [
            Problem(ARGS_FLAG, say("{name} has no argument {argument!r}.", name=spec.name, argument=name),
                    near(name, spec.args) if spec.args else "It takes none.", check="schedule")
            for name in settings.args if name not in spec.args]
        spec.make(settings, base_lr)
        return found
    except UserError as error:
        return error.problems


def _warmup_problems(settings: ScheduleSettings, warms_up: bool) -> list[Problem]:
    if warms_up and settings.warmup_steps > settings.steps:
        return [Problem("--lr_warmup_steps", say("{warmup_steps} steps of warm-up in a run of {steps} steps: the learning "
                                                 "rate would never be reached.",
                                                 warmup_steps=settings.warmup_steps, steps=settings.steps),
                        "Use a shorter warm-up, for example 5%.",
                        "warn", "schedule")]
    if warms_up or not settings.warmup_steps:
        return []
    return [Problem("--lr_warmup_steps", say("A warm-up ({warmup}) does not go with {flag}={name}.",
                                             warmup=settings.warmup, flag=FLAG, name=settings.name),
                    say("Use {flag} constant_with_warmup, or set --lr_warmup_steps 0.", flag=FLAG), check="schedule")]


def factor(settings: ScheduleSettings, base_lr: float = 1.0) -> Factor:
    """step -> factor of the learning rate, for schedules of the table; UserError for settings it cannot have."""
    spec = _spec(settings)
    assert spec is not None, "only schedules of the table have a factor"
    stops = [problem for problem in problems(settings, base_lr) if problem.severity == "stop"]
    if stops:
        raise UserError(*stops)
    return spec.make(settings, base_lr)


def create(settings: ScheduleSettings, optimizer: torch.optim.Optimizer,
           schedule_free: bool = False) -> torch.optim.lr_scheduler.LRScheduler:
    """Make the schedule over ``optimizer`` (the bare one, before accelerate prepares it).

    A schedule-free optimizer keeps its rate constant whatever was asked, as in kohya. UserError as ``factor``, and
    where a class cannot be found or made.
    """
    from torch.optim.lr_scheduler import LambdaLR

    if schedule_free:
        return LambdaLR(optimizer, lambda step: 1.0)
    if _spec(settings) is not None:
        return LambdaLR(optimizer, factor(settings, _base_rate(optimizer)))
    stops = _warmup_problems(settings, False)
    if stops:
        raise UserError(*stops)
    if settings.name.startswith("adafactor") and not settings.is_class:
        return _adafactor(settings, optimizer)
    return _foreign(settings, optimizer)


def _base_rate(optimizer: torch.optim.Optimizer) -> float:
    """The rate that absolute end rates refer to: the optimizer's own, or its groups' largest where that is 0."""
    return optimizer.defaults["lr"] or max(group["lr"] for group in optimizer.param_groups)


def _adafactor(settings: ScheduleSettings, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """transformers' proxy that shows the rate which Adafactor chose for itself."""
    if type(optimizer).__name__ != "Adafactor" or not optimizer.defaults.get("relative_step", False):
        raise refuse(FLAG, say("{name} goes with --optimizer_type Adafactor and relative_step=True only.", name=settings.name),
                     say("Use {flag} constant_with_warmup.", flag=FLAG))
    from transformers.optimization import AdafactorSchedule

    _, _, rate = settings.name.partition(":")
    return AdafactorSchedule(optimizer, float(rate or 0.0))


def _foreign(settings: ScheduleSettings, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    """A class of ``torch.optim.lr_scheduler`` or of another package, made with the user's arguments alone."""
    path = settings.name if "." in settings.name else f"torch.optim.lr_scheduler.{settings.name}"
    module_path, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_path)
    except ImportError as error:
        raise refuse(TYPE_FLAG, say("{name}: {module_path} cannot be imported ({error}).",
                                    name=settings.name, module_path=module_path, error=error),
                     say("Install the package that has it, or choose {names} with {flag}.", names=names(), flag=FLAG)) from error
    classes = {name: value for name, value in vars(module).items() if inspect.isclass(value)}
    if class_name not in classes:
        raise refuse(TYPE_FLAG, say('{module_path} has no class "{class_name}".',
                                    module_path=module_path, class_name=class_name), near(class_name, classes))
    try:
        return classes[class_name](optimizer, **settings.args)
    except (TypeError, ValueError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in settings.args.items()) or "none"
        raise refuse(ARGS_FLAG, say("{name} refuses its arguments ({shown}): {error}",
                                    name=settings.name, shown=shown, error=error),
                     "See the class's own documentation for the arguments that it needs.") from error
