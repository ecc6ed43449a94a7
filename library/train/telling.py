"""What a run tells while it goes on and when it is over: trackers, and the record that report and last words use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.optim.rates import logged_rates
from library.report import before_after, curves, page, trackers
from library.report.record import BEFORE_AND_AFTER, LOSS_PLOT, FileLine, RunReport, SampleLine
from library.util.records import SavedFile

from .calibration import STRENGTHS, in_words
from .loop import Length, StepLog
from .sampling import Sampling
from .saving import Saving
from .watchers import Idle

if TYPE_CHECKING:
    from .session import Session


@dataclass
class Telling(Idle):
    """Feeds trackers and the report step by step; at the end writes the loss plot, the picture strip and the page."""

    report: RunReport
    tracker: trackers.Tracker
    saving: Saving
    sampling: Sampling | None
    length: Length
    folder: Path
    """Where the report's files go."""
    loads_in: Sequence[str] = ()
    started: float = 0.0
    told_samples: int = 0

    def on_start(self, session: Session) -> None:
        self.started = time.time()
        if session.trains_text:
            ignorers = [program for slot in session.family.SPEC.text_slots for program in slot.ignored_by]
            self.report.text_ignored_by = list(dict.fromkeys(ignorers))

    def on_step(self, session: Session, log: StepLog) -> None:
        report, rates = self.report, logged_rates(session.optimizer, session.group_names)
        report.step_numbers.append(log.step)
        report.losses.append(log.loss)
        report.averages.append(log.average)
        for name, rate in rates.items():
            report.rates.setdefault(name.removeprefix("lr/"), []).append(rate)
        self.tracker.figures(trackers.step_figures(log.loss, log.average, rates, log.extra), log.step)
        self.tell_samples()

    def on_epoch_end(self, session: Session, epoch: int) -> None:
        if self.report.averages:
            axes = {"epoch": epoch + 1, "global_step": session.progress.step}
            self.tracker.figures(trackers.epoch_figures(self.report.averages[-1]), epoch + 1, axes)
        self.tell_samples()

    def tell_samples(self) -> None:
        """Show the trackers what was drawn since."""
        for drawn in (self.sampling.drawn if self.sampling else [])[self.told_samples:]:
            self.tracker.picture(f"sample_{drawn.line.index}", drawn.path, drawn.line.prompt, drawn.step)
            self.told_samples += 1

    def validated(self, values: dict[str, float], step: int) -> None:
        """Take in a validation's figures."""
        self.report.validation += [(step, value) for name, value in values.items() if name.endswith("_average")]
        self.tracker.figures(values, step, {"val_step": step})

    def on_end(self, session: Session) -> None:
        self.tell_samples()
        self.tracker.close()
        report, progress = self.report, session.progress
        report.steps, report.epochs, report.seconds = progress.step, self.length.epochs, time.time() - self.started
        if progress.step < self.length.steps:
            report.stopped = f"{self.length.steps - progress.step} steps before its end"
        report.files = [FileLine(Path(file.path), Path(file.path).stat().st_size, file.sha256, _count(file, "ss_epoch"),
                                 _count(file, "ss_steps"), tuple(self.loads_in)) for file in self.saving.files]
        report.states = list(self.saving.states)
        if self.saving.response is not None:
            report.slider = list(zip(STRENGTHS, self.saving.response.projections, strict=True))
            report.slider_words = list(in_words(self.saving.response))
        report.samples = self._sample_lines()
        if session.accelerator.is_main_process:
            self._write()

    def _sample_lines(self) -> list[SampleLine]:
        if self.sampling is None:
            return []
        count = len(self.sampling.lines)
        return [SampleLine(drawn.path, drawn.line.prompt, number % count, drawn.step, drawn.epoch,
                           drawn.line.adapter_strength) for number, drawn in enumerate(self.sampling.drawn)]

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.report.losses:
            self.report.pictures[LOSS_PLOT] = curves.plot(self.report, self.folder / "loss.png")
        pair = before_after.before_after(self.report.samples, self.folder / "before_after.png", self.report.name)
        if pair is not None:
            self.report.pictures[BEFORE_AND_AFTER] = pair
        self.report.pictures["Report"] = page.write_page(self.report, self.folder / "report.html")


def _count(file: SavedFile, key: str) -> int | None:
    """An epoch or step from a file's metadata; None where the user wanted none in it."""
    return int(file.metadata[key]) if key in file.metadata else None
