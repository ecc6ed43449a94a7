"""When files and state folders are written, under which names, and which old ones go. The bytes are ``save``'s work."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from library.config.run_config import RunConfig, SaveConfig
from library.save import metadata, names, weights
from library.save.record import Moment, RunFacts
from library.util.records import SavedFile
from library.util.said import say

from .calibration import Response, in_words
from .loop import Length, StepLog
from .state import Fingerprint, save_state
from .watchers import Idle

if TYPE_CHECKING:
    from library.save.hub import Uploader

    from .session import Session

log = logging.getLogger(__name__)


@dataclass
class Saving(Idle):
    """Writes the adapter and, where asked for, the state: every n steps, every n epochs, at the end."""

    config: RunConfig
    facts: RunFacts
    fingerprint: Fingerprint
    length: Length
    uploader: Uploader | None = None
    files: list[SavedFile] = field(default_factory=list)
    states: list[Path] = field(default_factory=list)
    calibrate: Callable[[Session], Response | None] | None = None
    """Measures a finished slider, for the last file; None for other runs."""
    response: Response | None = None
    """What it found."""
    ends_here: bool = False
    """The run ends before its last step, and is complete all the same."""

    def __post_init__(self) -> None:
        self.save: SaveConfig = self.config.save
        self.names = names.FileNames.of(self.save)
        self.every_epochs = names.epochs_between_saves(self.save, self.length.epochs)

    def on_step(self, session: Session, log: StepLog) -> None:
        every = self.save.every_n_steps
        if every and log.step % every == 0:
            self.write(session, self.names.step(log.step), self.names.step_state(log.step) if self.save.state else None)
            self.clear(session, names.outdated_by_step(self.save, log.step))

    def on_epoch_end(self, session: Session, epoch: int) -> None:
        number = epoch + 1
        if self.every_epochs and number % self.every_epochs == 0 and number < self.length.epochs:
            self.write(session, self.names.epoch(number), self.names.epoch_state(number) if self.save.state else None)
            self.clear(session, names.outdated_by_epoch(self.save, number, self.every_epochs))

    def on_end(self, session: Session) -> None:
        step = session.progress.step
        if step < self.length.steps and not self.ends_here:
            self.write(session, self.names.step(step), self.names.step_state(step))
        else:
            if self.save.number_last:
                self.write(session, self.names.epoch(self._epoch(session)), None)
            keep_state = self.save.state or self.save.state_on_train_end
            if self.calibrate is not None and session.accelerator.is_main_process:
                with session.at_rest():
                    self.response = self.calibrate(session)
                for line in in_words(self.response) if self.response is not None else ():
                    print(line)
            self.write(session, self.names.last(), self.names.last_state() if keep_state else None)
        if self.uploader is not None:
            self.uploader.finish()

    def keep_last_good(self, session: Session) -> str:
        """Save the weights of a run that stops on a NaN: steps without a number were not applied, so these are finite."""
        name = f"{self.names.stem}-lastgood.{self.names.extension}"
        self.write(session, name, None)
        return str(self.save.output_dir / name)

    def write(self, session: Session, file_name: str, state_name: str | None) -> None:
        """Write one file and, where it has a name, the state folder beside it."""
        folder = self.save.output_dir
        if self.save.without_ema:
            with session.at_rest(averaged=False):
                self._keep(session, self.names.without_ema(file_name))
        with session.at_rest():
            self._keep(session, file_name)
        if state_name is not None:
            log.info(say("saving state: {path}", path=folder / state_name))
            self.states.append(save_state(session, folder / state_name, self.fingerprint))
            if self.uploader is not None and self.config.hub.save_state and session.accelerator.is_main_process:
                self.uploader.upload(folder / state_name)

    def keep_best(self, session: Session) -> None:
        """Write (or replace) the file of the lowest validation loss so far."""
        with session.at_rest():
            self._keep(session, self.names.best())

    def _keep(self, session: Session, file_name: str) -> None:
        """Write one file in the main process and note it, once where it is written again."""
        if session.accelerator.is_main_process:
            saved = self._write_file(session, self.save.output_dir / file_name)
            self.files = [file for file in self.files if file.path != saved.path] + [saved]

    def _write_file(self, session: Session, path: Path) -> SavedFile:
        log.info(say("saving checkpoint: {path}", path=path))
        moment = Moment(epoch=self._epoch(session), steps=session.progress.step, now=time.time())
        network = session.accelerator.unwrap_model(session.network)
        facts = self.facts
        with nullcontext() if self.response is None else network.alpha_times(self.response.factor):
            tensors = network.file_tensors(fmt=self.save.format)
        if self.response is not None:
            facts = replace(facts, extra={**facts.extra, **self.response.metadata(self.config.network.alpha)})
        saved = weights.save(weights.TensorFile(
            path, tensors, metadata.build(self.config, facts, moment), self.save.precision))
        if self.uploader is not None:
            self.uploader.upload(path)
        return saved

    def _epoch(self, session: Session) -> int:
        """The epoch under way, counted from 1, as kohya writes it."""
        progress = session.progress
        return progress.epoch + 1 if progress.batch else max(1, progress.epoch)

    def clear(self, session: Session, outdated: names.Outdated) -> None:
        """Remove what a newer save made superfluous."""
        if not session.accelerator.is_main_process:
            return
        plain = self.names.without_ema(outdated.file) if self.save.without_ema and outdated.file else None
        for name in (outdated.file, plain, outdated.state):
            if name is not None and weights.remove(self.save.output_dir / name):
                log.info(say("removed old file: {path}", path=self.save.output_dir / name))
                self.files = [file for file in self.files if Path(file.path).name != name]
                self.states = [state for state in self.states if state.name != name]
