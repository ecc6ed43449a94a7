"""When sample pictures are drawn, with which adapters at which strength. The drawing is ``sample``'s work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from library.config.run_config import RunConfig
from library.sample.images import Drawn, Place, draw_samples
from library.sample.jobs import SampleOptions
from library.sample.loras import hung
from library.sample.prompts import PromptLine
from library.sample.slider_strips import draw_strips

from .loop import StepLog
from .watchers import Idle

if TYPE_CHECKING:
    from .saving import Saving
    from .session import Session


@dataclass
class Sampling(Idle):
    """Draws the prompts at the start, every n steps or epochs, as ``--sample_*`` say."""

    config: RunConfig
    lines: Sequence[PromptLine]
    saving: Saving
    drawn: list[Drawn] = field(default_factory=list)
    last_step: int = -1

    def on_start(self, session: Session) -> None:
        if self.config.sample.at_first and session.progress.step == 0:
            self.draw(session, 0)

    def on_step(self, session: Session, log: StepLog) -> None:
        every = self.config.sample.every_n_steps
        if every and not self.config.sample.every_n_epochs and log.step % every == 0:
            self.draw(session, None)

    def on_epoch_end(self, session: Session, epoch: int) -> None:
        every = self.config.sample.every_n_epochs
        if every and (epoch + 1) % every == 0:
            self.draw(session, epoch + 1)

    def on_end(self, session: Session) -> None:
        """Where pictures of the start exist, those of the end are wanted beside them; strips show what the last file does."""
        wanted = self.config.sample.at_first or self.config.sample.strengths
        if wanted and (self.last_step != session.progress.step or self.times_trained() != 1.0):
            self.draw(session, None)

    def times_trained(self) -> float:
        """How many times what was trained strength 1 of the last file is: other than 1 once a slider is calibrated."""
        return 1.0 if self.saving.response is None else self.saving.response.factor

    def draw(self, session: Session, epoch: int | None) -> None:
        self.last_step = session.progress.step
        if not session.accelerator.is_main_process:
            return
        place = Place(self.config.save.output_dir, self.config.save.output_name, session.progress.step, epoch)
        with session.at_rest(), session.unassisted(), session.multiplier(self.times_trained()):
            if self.config.sample.strengths:
                draw = partial(draw_strips, strengths=self.config.sample.strengths)
            else:
                draw = draw_samples
            self.drawn += draw(session.family, session.parts, self.lines, self.options(session), place)

    def options(self, session: Session) -> SampleOptions:
        times = self.times_trained()
        return SampleOptions(
            sampler=self.config.sample.sampler, strength=self.config.sample.strength, schedule=session.schedule,
            device=session.device,
            autocast=session.precision.autocast, at_strength=lambda strength: session.multiplier(times * strength),
            extra=lambda: hung(session.family, session.parts, self.config.sample.loras, session.device), modules=(session.network,))
