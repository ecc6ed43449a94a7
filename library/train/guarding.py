"""The guards of ``preflight`` on a running training: each fault is told once, in a frame; some end the run."""

from __future__ import annotations

import sys
import threading
import time
from typing import TYPE_CHECKING

import torch

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

    def __init__(self, rate: float, saving: Saving):
        self.saving = saving
        self.loss, self.rise, self.zero = LossGuard(rate), RiseGuard(), ZeroGuard(rate)
        self.slow = SlowGuard(windows=sys.platform == "win32")
        self.first_step = 0
        self.since = 0.0
        self.told: list[Problem] = []

    def on_start(self, session: Session) -> None:
        self.first_step, self.since = session.progress.step, time.monotonic()

    def on_step(self, session: Session, log: StepLog) -> None:
        seconds = time.monotonic() - self.since
        saved = self.saving.files[-1].path if self.saving.files else ""
        self.tell(session, self.loss.check(log.step, log.loss, lambda: first_bad(session), saved))
        self.tell(session, self.rise.check(log.step, log.loss))
        self.tell(session, self.zero.check(log.step - self.first_step, lambda: largest_change(session)))
        self.tell(session, self.slow.check(log.step, seconds))

    def tell(self, session: Session, problem: Problem | None) -> None:
        """Show a warning and go on; raise a stop, after keeping the last finite weights where a NaN is the cause."""
        if problem is None:
            return
        if problem.severity == "stop":
            raise UserError(problem)
        self.told.append(problem)
        if session.accelerator.is_main_process:
            frame.show([problem])


class Watchdog(Idle):
    """A thread that says so, once, when no step has finished for two minutes: a hang is hard to tell from slowness."""

    def __init__(self) -> None:
        self.guard = StuckGuard()
        self.over = threading.Event()

    def on_start(self, session: Session) -> None:
        if session.accelerator.is_main_process:
            self.guard.beat(time.monotonic())
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        while not self.over.wait(10):
            problem = self.guard.check(time.monotonic(), "the step under way")
            if problem is not None:
                frame.show([problem])

    def on_step(self, session: Session, log: StepLog) -> None:
        self.guard.beat(time.monotonic())

    def on_end(self, session: Session) -> None:
        self.over.set()


class PaceMark(Idle):
    """Stands last among the watchers: the time they took is not a step's."""

    def __init__(self, guarding: Guarding):
        self.guarding = guarding

    def on_step(self, session: Session, log: StepLog) -> None:
        self.guarding.since = time.monotonic()

    def on_epoch_start(self, session: Session, epoch: int) -> None:
        self.guarding.since = time.monotonic()


def first_bad(session: Session) -> str:
    """Name of the first weight that is not finite: of the adapter, then of the model."""
    parts = session.parts
    models = [("", session.network), ("unet.", parts.denoiser), *(("text encoder.", one) for one in parts.text_encoders)]
    return first_bad_name((prefix + name, bool(torch.isfinite(tensor).all()))
                          for prefix, model in models for name, tensor in model.named_parameters())


def largest_change(session: Session) -> float:
    """Largest magnitude among the adapter's weights that begin at zero (the ``up`` half of a LoRA)."""
    with torch.no_grad():
        return max(float(adapter.norm()) for adapter in session.network.adapters)
