"""The guards of ``preflight`` on a running training: each fault is told once, in a frame; some end the run."""

from __future__ import annotations

import math
import sys
import threading
import time
from types import FrameType
from typing import TYPE_CHECKING

import torch

from library.data import loading
from library.preflight.guards import LossGuard, RiseGuard, SlowGuard, StuckGuard, ZeroGuard, first_bad_name
from library.util import frame
from library.util.records import Problem, UserError

from .loop import StepLog
from .saving import Saving
from .watchers import Idle

if TYPE_CHECKING:
    from .session import Session


class Guarding(Idle):
    """Watches loss, weights and pace. Stands first among the watchers: nothing is saved of a step that it stops at."""

    def __init__(self, rate: float, saving: Saving, warnings: list[str]):
        self.saving, self.warnings = saving, warnings
        self.loss, self.rise, self.zero = LossGuard(rate), RiseGuard(), ZeroGuard(rate)
        self.slow = SlowGuard(windows=sys.platform == "win32")
        self.first_step = 0
        self.since = 0.0

    def on_start(self, session: Session) -> None:
        self.first_step, self.since = session.progress.step, time.monotonic()

    def on_step(self, session: Session, log: StepLog) -> None:
        seconds = time.monotonic() - self.since
        ends = not math.isfinite(log.loss) and self.loss.bad + 1 >= self.loss.limit
        kept = self.saving.keep_last_good(session) if ends else ""
        self.tell(session, self.loss.check(log.step, log.loss, lambda: first_bad(session), kept))
        self.tell(session, self.rise.check(log.step, log.loss))
        self.tell(session, self.zero.check(log.step - self.first_step, session.network.largest_change))
        self.tell(session, self.slow.check(log.step, seconds))

    def tell(self, session: Session, problem: Problem | None) -> None:
        """Show a warning, note it for the report and go on; raise a stop."""
        if problem is None:
            return
        if problem.severity == "stop":
            raise UserError(problem)
        self.warnings.append(f"{problem.where}: {problem.what}")
        if session.accelerator.is_main_process:
            frame.show([problem], begun=True)


class Watchdog(Idle):
    """A thread that says so, once, when a step has been under way for two minutes: a hang is hard to tell from slowness.

    Stands before the other watchers and sleeps while they save, draw and measure; ``PaceMark`` wakes it.
    """

    def __init__(self) -> None:
        self.guard = StuckGuard()
        self.over, self.awake = threading.Event(), threading.Event()

    def on_start(self, session: Session) -> None:
        if session.accelerator.is_main_process:
            threading.Thread(target=self._watch, args=(threading.get_ident(),), name="watchdog", daemon=True).start()

    def _watch(self, trainer: int) -> None:
        while not self.over.wait(10):
            if not self.awake.is_set():
                continue
            problem = self.guard.check(time.monotonic(), reading(sys._current_frames().get(trainer)))
            if problem is not None:
                frame.show([problem], begun=True)

    def wake(self) -> None:
        """A step begins."""
        self.guard.beat(time.monotonic())
        self.awake.set()

    def on_step(self, session: Session, log: StepLog) -> None:
        self.awake.clear()

    def on_epoch_end(self, session: Session, epoch: int) -> None:
        self.awake.clear()

    def on_end(self, session: Session) -> None:
        self.awake.clear()

    def close(self) -> None:
        self.over.set()


def reading(at: FrameType | None) -> bool:
    """Whether a thread that stands at ``at`` waits for pictures: one of its callers is the module that loads them."""
    while at is not None:
        if at.f_globals.get("__name__") == loading.__name__:
            return True
        at = at.f_back
    return False


class PaceMark(Idle):
    """Stands last among the watchers: the time they took is not a step's."""

    def __init__(self, guarding: Guarding, watchdog: Watchdog):
        self.guarding, self.watchdog = guarding, watchdog

    def on_step(self, session: Session, log: StepLog) -> None:
        self.mark()

    def on_epoch_start(self, session: Session, epoch: int) -> None:
        self.mark()

    def mark(self) -> None:
        self.guarding.since = time.monotonic()
        self.watchdog.wake()


def first_bad(session: Session) -> str:
    """Name of the first weight that is not finite: of the adapter, then of the model."""
    parts = session.parts
    models = [("", session.network), ("unet.", parts.denoiser), *(("text encoder.", one) for one in parts.text_encoders)]
    return first_bad_name((prefix + name, bool(torch.isfinite(tensor).all()))
                          for prefix, model in models for name, tensor in model.named_parameters())


