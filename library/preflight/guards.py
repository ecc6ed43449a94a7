"""Guards of a running training: each looks at plain numbers after a step and gives a Problem once something is wrong.

They know no torch and change nothing; the training loop feeds them, shows what they return (``library.util.frame``) and
ends the run where the severity is ``stop``. Every guard speaks once for each fault, not at every step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from library.preflight.estimate import shown_bytes
from library.preflight.registry import problem_of
from library.util.records import Problem
from library.util.said import say


@dataclass
class LossGuard:
    """Stops a run after ``limit`` losses in a row that are no numbers."""

    rate: float
    """Learning rate, for the advice."""
    limit: int = 3
    bad: int = 0

    def check(self, step: int, loss: float, first_bad: Callable[[], str] = lambda: "", last_good: str = "") -> Problem | None:
        """Look at a step's loss.

        ``first_bad`` names the first tensor that is not finite (latents, text encoder output, a weight) and is called
        only when it is needed; ``last_good`` is the last file that was saved with finite weights ("" = none).
        """
        if math.isfinite(loss):
            self.bad = 0
            return None
        self.bad += 1
        if self.bad < self.limit:
            return None
        value = "NaN" if math.isnan(loss) else "infinite"
        return problem_of(
            "stop",
            "guard_loss" if last_good else "guard_loss.no_file",
            "--learning_rate",
            value=value,
            count=self.bad,
            step=step,
            first=first_bad() or say("the loss itself; all weights are still numbers"),
            file=last_good,
            rate=f"{self.rate:g}",
        )

    @property
    def must_skip(self) -> bool:
        """True where the last loss was no number: the optimizer must not step on it."""
        return self.bad > 0


def first_bad_name(tensors: Iterable[tuple[str, bool]]) -> str:
    """Name of the first of (name, is finite) pairs that is not finite, "" where all are."""
    return next((name for name, finite in tensors if not finite), "")


@dataclass
class RiseGuard:
    """Warns once when the smoothed loss is ``factor`` times its mean over the first ``first`` steps."""

    first: int = 50
    factor: float = 3.0
    smoothing: float = 0.98
    total: float = 0.0
    seen: int = 0
    ema: float = 0.0
    told: bool = False

    def check(self, step: int, loss: float) -> Problem | None:
        """Look at a step's loss; values that are no numbers are the LossGuard's business."""
        if not math.isfinite(loss):
            return None
        self.seen += 1
        if self.seen <= self.first:
            self.total += loss
            self.ema = self.total / self.seen
            return None
        self.ema = self.smoothing * self.ema + (1 - self.smoothing) * loss
        start = self.total / self.first
        if self.told or start <= 0 or self.ema <= self.factor * start:
            return None
        self.told = True
        return problem_of(
            "warn",
            "guard_rise",
            "--learning_rate",
            now=f"{self.ema:.3g}",
            start=f"{start:.3g}",
            factor=f"{self.ema / start:.1f}",
            step=step,
        )


@dataclass
class ZeroGuard:
    """Stops a run whose adapter is still all zeros after ``steps`` steps: nothing is being learned."""

    rate: float
    steps: int = 20
    done: bool = False

    def check(self, done_steps: int, largest: Callable[[], float]) -> Problem | None:
        """Look once, after ``steps`` steps of this run; ``largest`` gives the largest of the weights that began at 0."""
        if self.done or done_steps < self.steps:
            return None
        self.done = True
        if largest() != 0.0 or self.rate == 0.0:
            return None
        return problem_of("stop", "guard_zero", "--learning_rate", steps=done_steps, rate=f"{self.rate:g}")


@dataclass
class SlowGuard:
    """Warns once when a step takes ``factor`` times the median of the steps before it.

    The first ``ignore`` steps (compilation, first allocation) do not count.
    """

    windows: bool = False
    factor: float = 5.0
    ignore: int = 3
    least: float = 1.0
    """Steps shorter than this many seconds are never called slow."""
    times: deque[float] = field(default_factory=lambda: deque(maxlen=101))
    seen: int = 0
    told: bool = False

    def check(self, step: int, seconds: float) -> Problem | None:
        """Look at a step's duration; time spent on saving, samples and validation must not be in it."""
        self.seen += 1
        if self.seen <= self.ignore:
            return None
        usual = median(self.times) if len(self.times) >= 5 else math.inf
        self.times.append(seconds)
        if self.told or seconds < self.least or seconds < self.factor * usual:
            return None
        self.told = True
        key = "guard_slow.windows" if self.windows else "guard_slow"
        return problem_of(
            "warn",
            key,
            "GPU" if self.windows else "time",
            step=step,
            seconds=f"{seconds:.1f} s",
            usual=f"{usual:.1f} s",
            factor=f"{seconds / usual:.0f}",
        )


@dataclass
class StuckGuard:
    """Warns once when no step has finished for ``limit`` seconds; asked by a watchdog thread or timer."""

    limit: float = 120.0
    last: float = 0.0
    told: bool = False

    def beat(self, now: float) -> None:
        """Note that a step has finished at ``now`` (seconds of any monotonic clock)."""
        self.last, self.told = now, False

    def check(self, now: float, reading: bool = False) -> Problem | None:
        """Ask at ``now``; ``reading`` while the program waits for pictures."""
        if self.told or now - self.last < self.limit:
            return None
        self.told = True
        key = "guard_stuck.pictures" if reading else "guard_stuck"
        return problem_of("warn", key, "pictures" if reading else "time", seconds=round(now - self.last))


@dataclass
class LatentGuard:
    """Decides what happens when the VAE gives invalid numbers: fp32 once and for all, then the picture is to blame."""

    half: bool
    """True while the VAE runs in half precision."""

    def check(self, name: str) -> Problem:
        """Called for each picture whose latents are not finite; a warning means: turn the VAE to fp32 and try again."""
        if self.half:
            self.half = False
            return problem_of("warn", "guard_latents.half", "--no_half_vae")
        return problem_of("stop", "guard_latents", name, name=name)


def out_of_memory(flags: Mapping[str, Any], used: int) -> Problem:
    """The one message after the graphics card ran out of memory: what to turn on, in order.

    ``flags`` are the run's flag values by name, ``used`` the bytes in use when it happened.
    """
    from library.preflight.machine import Machine
    from library.preflight.machine_checks import savers_left
    from library.preflight.registry import Context

    savers = savers_left(Context(flags=flags, machine=Machine.read()))
    key = "guard_memory" if savers else "guard_memory.none"
    return problem_of("stop", key, "GPU", used=shown_bytes(used), savers=", ".join(savers))


def out_of_main_memory() -> Problem:
    """The same for the computer's own memory, on which a run without a graphics card lives."""
    return problem_of("stop", "guard_memory.main", "RAM")


def is_main_memory(error: BaseException) -> bool:
    """Tell whether it is the computer's own memory that is full."""
    return isinstance(error, MemoryError) or "cpuallocator" in str(error).lower()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell an out-of-memory error of any device from other errors, by its type's name and its words."""
    words = str(error).lower()
    return (type(error).__name__ == "OutOfMemoryError" or "out of memory" in words or "cublas_status_alloc_failed" in words
            or is_main_memory(error))  # fmt: skip
