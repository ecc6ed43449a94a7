"""Loss on pictures that are not trained on, at fixed timesteps and with fixed noise, so that figures compare."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from library.config.run_config import ValidationConfig
from library.sample.undisturbed import random_states_kept
from library.util.records import Batch

from .loop import StepLog, StopTraining
from .seeds import derive, seed_everything
from .watchers import Idle

if TYPE_CHECKING:
    from .objectives import Objective
    from .saving import Saving
    from .session import Session

logger = logging.getLogger(__name__)
TIMESTEPS = 4
"""How many timesteps every picture is measured at (kohya's number)."""


def fixed_timesteps(first: int, last: int) -> list[int]:
    """``TIMESTEPS`` whole numbers evenly inside the range, its ends left out."""
    gap = (last - first) / (TIMESTEPS + 1)
    return [int(first + gap * (i + 1)) for i in range(TIMESTEPS)]


def validate(session: Session, batches: Iterable[Batch], objective: Objective, seed: int) -> float:
    """Mean loss over ``batches`` at fixed timesteps; gradients are not computed, nothing of the run is disturbed."""
    import torch

    schedule, losses = session.schedule, []
    try:
        with torch.no_grad(), random_states_kept():
            for number, batch in enumerate(batches):
                for timestep in fixed_timesteps(schedule.first, schedule.last):
                    seed_everything(derive(seed, "validation", number, timestep))
                    session.schedule = replace(schedule, first=timestep, last=timestep)
                    losses += [result.loss.item() for result in objective(session, batch)]
    finally:
        session.schedule = schedule
    return sum(losses) / len(losses)


@dataclass
class Validation(Idle):
    """Measures every n steps or epochs and tells ``report(values, step)``."""

    config: ValidationConfig
    batches: Callable[[], Iterable[Batch]]
    objective: Objective
    seed: int
    report: Callable[[dict[str, float], int], Any]
    last: float | None = None
    average: float | None = None
    best: float | None = None
    without_gain: int = 0
    """Measurements since the best one."""

    def on_step(self, session: Session, log: StepLog) -> None:
        self.average = log.average
        every = self.config.every_n_steps
        if every and log.step % every == 0:
            self.measure(session, "step")

    def on_epoch_end(self, session: Session, epoch: int) -> None:
        every = self.config.every_n_epochs or (None if self.config.every_n_steps else 1)
        if every and (epoch + 1) % every == 0:
            self.measure(session, "epoch")

    def measure(self, session: Session, occasion: str) -> None:
        batches: Iterable[Batch] = self.batches()
        if self.config.max_steps:
            batches = islice(batches, self.config.max_steps)
        with session.at_rest(), session.without_dropout():
            self.last = validate(session, batches, self.objective, self.seed)
        better = self.best is None or self.last < self.best
        self.best, self.without_gain = (self.last, 0) if better else (self.best, self.without_gain + 1)
        values = {f"loss/validation/{occasion}_average": self.last}
        if self.average is not None:
            values[f"loss/validation/{occasion}_divergence"] = self.last - self.average
        self.report(values, session.progress.step)


@dataclass
class EarlyStopping(Idle):
    """Keeps the file of the lowest validation loss and ends the run after ``patience`` measurements without a lower one."""

    validation: Validation
    saving: Saving
    patience: int
    kept: float | None = None

    def on_step(self, session: Session, log: StepLog) -> None:
        self.judge(session)

    def on_epoch_end(self, session: Session, epoch: int) -> None:
        self.judge(session)

    def judge(self, session: Session) -> None:
        """Look at the last measurement; StopTraining where it is enough."""
        found = self.validation
        if found.best is not None and found.best != self.kept:
            self.kept = found.best
            self.saving.keep_best(session)
        if found.without_gain >= self.patience:
            logger.info("early stopping: the validation loss has not fallen below %.5f in %d measurements; %s holds the best",
                        found.best, found.without_gain, self.saving.names.best())
            self.saving.ends_here = True
            raise StopTraining
