"""Batches of a slider that is learned from texts alone: there is nothing to read, so a batch is a turn to draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from library.config.run_config import LoopConfig
from library.util.records import PromptBatch

from .loading import StepPlan


@dataclass(frozen=True)
class PromptFeed:
    """The turns of a run for one process; what is drawn in each follows from its number."""

    batches: int
    rank: int = 0
    processes: int = 1

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[PromptBatch]:
        """The one epoch that such a run has, from the ``first_batch``-th turn of all processes on."""
        return (PromptBatch() for _ in range(first_batch + self.rank, self.batches, self.processes))


def prompt_steps(loop: LoopConfig, processes: int = 1) -> StepPlan:
    """The whole run as one epoch."""
    accumulation = loop.gradient_accumulation_steps
    batches = loop.max_train_steps * accumulation * processes
    return StepPlan(epochs=1, steps=loop.max_train_steps, batches=batches, steps_per_epoch=loop.max_train_steps,
                    accumulation=accumulation, processes=processes)
