"""How many steps pictures make, in words: pictures x repeats x epochs / batch, and what doubles it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from library.util.said import say

from .loading import StepPlan
from .order import balances
from .plan import DatasetPlan


@dataclass(frozen=True)
class FolderCount:
    """A folder before its pictures are looked at."""

    images: int
    repeats: int


@dataclass(frozen=True)
class Arithmetic:
    """The figures behind a run's number of steps."""

    images: int
    """Training pictures."""
    repeated: int
    """The same, each as often as its folder repeats it."""
    reg: int
    """Regularisation pictures that an epoch takes beside them."""
    batch: int
    """Pictures of one step: batch size x accumulation x processes."""
    per_epoch: int
    """Steps of an epoch."""
    epochs: int
    steps: int
    reason: str = field(default="", compare=False)
    """Why the division does not come out even, beside rounding."""

    @property
    def share(self) -> float:
        """By how much regularisation lengthens an epoch: 2 where each training picture has one beside it."""
        return (self.repeated + self.reg) / self.repeated if self.repeated else 1.0


def of_counts(folders: Sequence[FolderCount], batch: int, epochs: int, regularised: bool = False) -> Arithmetic:
    """Plan by counts alone, all pictures in one bucket; regularisation pictures come as often as training pictures.

    >>> of_counts([FolderCount(20, 5)], batch=4, epochs=10).steps
    250
    """
    repeated = sum(one.images * one.repeats for one in folders)
    reg = repeated if regularised else 0
    per_epoch = math.ceil((repeated + reg) / batch)
    return Arithmetic(sum(one.images for one in folders), repeated, reg, batch, per_epoch, epochs, per_epoch * epochs)


def of_plan(plan: DatasetPlan, steps: StepPlan) -> Arithmetic:
    """The same of a scanned data set, with the steps as the loader makes them (each bucket fills its own batches)."""
    batch = max((part.batch_size for part in plan.parts), default=1) * steps.accumulation * steps.processes
    return Arithmetic(plan.pictures(), plan.images(), plan.images(reg=True), batch, steps.steps_per_epoch, steps.epochs,
                      steps.steps, _reason(plan))


def _reason(plan: DatasetPlan) -> str:
    if plan.partners:
        return say("both pictures of a pair share a batch")
    if balances(plan) and plan.has_strengths:
        return say("each strength fills its own batches, and the side with fewer comes again")
    if plan.has_strengths:
        return say("each strength fills its own batches")
    return say("buckets fill their own batches")


def in_words(figures: Arithmetic) -> list[str]:
    """The sum as a person would write it down; a second line where regularisation pictures lengthen the run."""
    whole = figures.repeated + figures.reg
    pictures = say("{images} pictures, {repeated} with repeats", images=figures.images, repeated=figures.repeated)
    if figures.reg:
        pictures = say("{pictures}, {whole} with as many regularisation pictures", pictures=pictures, whole=whole)
    exact = math.ceil(whole / figures.batch) if figures.batch else 0
    rounded = "" if figures.per_epoch == exact else f" ({figures.reason})"
    length = say("x {epochs} epochs = {steps} steps", epochs=figures.epochs, steps=figures.steps)
    if figures.steps != figures.per_epoch * figures.epochs:
        length = say("stopped after {steps} steps, in epoch {epochs}", epochs=figures.epochs, steps=figures.steps)
    lines: list[str] = [say("{pictures} / batch {batch} = {per_epoch} steps an epoch{rounded}, {length}", pictures=pictures,
                            batch=figures.batch, per_epoch=figures.per_epoch, rounded=rounded, length=length)]
    if figures.reg:
        lines.append(say("the regularisation pictures make an epoch {share:.3g} times as long: "
                         "beside each training picture comes one of them", share=figures.share))
    return lines
