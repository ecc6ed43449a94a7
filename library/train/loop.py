"""Stage 9: the loop. It alone calls backward, steps the optimizer and counts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch

from library.util.records import Batch, RunEnded, StepResult, UserError

from .objectives import Objective
from .seeds import SeedBatch
from .session import Session


@dataclass(frozen=True)
class Length:
    """How long a run is: ``batches`` an epoch over all processes, ``accumulation`` batches a step and process."""

    epochs: int
    steps: int
    batches: int
    accumulation: int = 1
    processes: int = 1

    @property
    def batches_per_step(self) -> int:
        return self.accumulation * self.processes

    @property
    def steps_per_epoch(self) -> int:
        return self.steps_left_in_epoch(0)

    def steps_left_in_epoch(self, batches_done: int) -> int:
        return -(-(self.batches - batches_done) // self.batches_per_step)


@dataclass
class StepLog:
    """What one optimizer step reports."""

    step: int
    epoch: int
    loss: float
    average: float
    lrs: list[float]
    extra: dict[str, float] = field(default_factory=dict)


class Feed(Protocol):
    """Batches of an epoch for this process, from a position on."""

    def epoch(self, number: int, first_batch: int) -> Iterable[Batch]: ...


class Watcher(Protocol):
    """What happens around steps: saving, sampling, logging, guarding. Called in the order in which they stand."""

    def on_start(self, session: Session) -> None: ...

    def on_epoch_start(self, session: Session, epoch: int) -> None: ...

    def on_step(self, session: Session, log: StepLog) -> None: ...

    def on_epoch_end(self, session: Session, epoch: int) -> None: ...

    def on_end(self, session: Session) -> None: ...

    def close(self) -> None:
        """Let go of files and handlers; called last, however the run ends, even where it never started."""


class StopTraining(Exception):
    """Raised by a watcher to end the run early but in order (early stopping, Ctrl+C)."""


class EpochAverage:
    """Mean loss over the last epoch's steps (kohya's ``avr_loss``): a slot is replaced when its step comes again."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.total = 0.0

    def add(self, epoch: int, slot: int, loss: float) -> None:
        """Take in a step's loss; what is no number is passed over."""
        if not math.isfinite(loss):
            return
        if epoch == 0 or slot >= len(self.losses):
            self.losses.append(loss)
        else:
            self.total -= self.losses[slot]
            self.losses[slot] = loss
        self.total += loss

    @property
    def value(self) -> float:
        return self.total / max(1, len(self.losses))


@dataclass(frozen=True)
class LoopTools:
    """What the loop is handed besides the session."""

    objective: Objective
    seed_batch: SeedBatch
    length: Length
    watchers: tuple[Watcher, ...]
    max_grad_norm: float
    scale_weight_norms: float | None = None


def run_loop(session: Session, feed: Feed, tools: LoopTools) -> None:
    """Train from ``session.progress`` to the end of ``tools.length``. What ends it early is raised as RunEnded."""
    try:
        for watcher in tools.watchers:
            watcher.on_start(session)
        with suppress(StopTraining):
            run_epochs(session, feed, tools)
        for watcher in tools.watchers:
            watcher.on_end(session)
    except UserError as error:
        raise RunEnded(*error.problems) from error
    finally:
        for watcher in tools.watchers:
            watcher.close()


def run_epochs(session: Session, feed: Feed, tools: LoopTools) -> None:
    """The epochs and steps that are left. Raises StopTraining where a watcher ends them early."""
    progress, average, length = session.progress, EpochAverage(), tools.length
    for epoch in range(progress.epoch, length.epochs):
        for watcher in tools.watchers:
            watcher.on_epoch_start(session, epoch)
        session.network.on_epoch_start(session.parts.text_encoders, session.parts.denoiser)
        left = length.steps_left_in_epoch(progress.batch)
        for group in _groups(feed.epoch(epoch, progress.batch), length.accumulation, left):
            if progress.step >= length.steps:
                break
            outcome = take_step(session, group, tools)
            progress.step += 1
            progress.batch = min(length.batches, progress.batch + length.batches_per_step)
            average.add(epoch, (progress.step - 1) % length.steps_per_epoch, outcome.loss)
            log = StepLog(progress.step, epoch + 1, outcome.loss, average.value, _learning_rates(session),
                          outcome.extra)
            for watcher in tools.watchers:
                watcher.on_step(session, log)
        if progress.batch >= length.batches:
            progress.epoch, progress.batch = epoch + 1, 0
        for watcher in tools.watchers:
            watcher.on_epoch_end(session, epoch)
        if progress.step >= length.steps:
            break


def _groups(batches: Iterable[Batch], size: int, count: int) -> Iterator[list[Batch]]:
    """Cut this process's batches into ``count`` steps of ``size``; the last may hold fewer, even none.

    With several processes the end of an epoch may leave one of them without a batch; it still takes part in the step.
    """
    source = iter(batches)
    for _ in range(count):
        yield list(islice(source, size))


def take_step(session: Session, group: list[Batch], tools: LoopTools) -> StepOutcome:
    """One optimizer step over the batches of ``group``: gradients of their mean, clipped, applied.

    A step whose loss or gradients are no numbers changes nothing (with fp16, the gradient scaler looks after gradients).
    """
    accelerator, network, length = session.accelerator, session.network, tools.length
    network.on_step_start()
    results: list[StepResult] = []
    first = session.progress.epoch * length.batches + session.progress.batch
    for position, batch in enumerate(group):
        tools.seed_batch(first + position * length.processes + accelerator.process_index)
        for result in tools.objective(session, batch):
            accelerator.backward(result.loss / length.accumulation)
            results.append(result)
    synchronise_gradients(session, length.processes)
    norm = None
    if tools.max_grad_norm:
        norm = accelerator.clip_grad_norm_(list(network.get_trainable_params()), tools.max_grad_norm)
    loss, usable = _judge(session, results, norm)
    if usable:
        session.optimizer.step()
        if not session.optimizer.step_was_skipped:
            session.lr_schedule.step()
    session.optimizer.zero_grad(set_to_none=True)
    extra = _merge_extras(results)
    if tools.scale_weight_norms:
        scaled, mean, largest = network.apply_max_norm_regularization(tools.scale_weight_norms, session.device)
        extra |= {"max_norm/keys_scaled": scaled, "max_norm/average_key_norm": mean, "max_norm/max_key_norm": largest}
    if session.averages is not None:
        session.averages.update()
    return StepOutcome(loss, extra)


@dataclass(frozen=True)
class StepOutcome:
    """Mean loss of a step over all its batches and processes, and further figures."""

    loss: float
    extra: dict[str, float]


def _judge(session: Session, results: list[StepResult], norm: Any) -> tuple[float, bool]:
    """(mean loss, whether the step may be applied); waits for the device once.

    With fp16 the gradient scaler must be asked in every step: it skips what is not finite and lowers its scale.
    """
    losses = [result.per_item_B.float().mean() for result in results]
    total = torch.stack(losses).sum() if losses else torch.zeros((), device=session.device)
    figures = torch.stack([total, torch.full_like(total, len(losses))])
    if session.accelerator.num_processes > 1:
        figures = session.accelerator.reduce(figures, reduction="sum")
    scaled = session.accelerator.scaler is not None
    if norm is not None and not scaled:
        figures = torch.cat([figures, norm.detach().float().reshape(1)])
    total, count, *rest = figures.tolist()
    return total / count, scaled or all(math.isfinite(value) for value in (total, *rest))


def synchronise_gradients(session: Session, processes: int) -> None:
    """Average the adapter's gradients over all processes, in one message.

    The adapter's forward never runs through DistributedDataParallel (it is called from inside the frozen model), so
    its hooks would not fire. A process whose batch gave some parameter no gradient contributes zeros.
    """
    if processes == 1:
        return
    parameters = [p for p in session.network.get_trainable_params() if p.requires_grad]
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
    flat = session.accelerator.reduce(flat, reduction="mean")
    for parameter, piece in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter).clone()


def _learning_rates(session: Session) -> list[float]:
    return [group["lr"] for group in session.optimizer.param_groups]


def _merge_extras(results: list[StepResult]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for result in results:
        merged |= result.extra
    return merged


