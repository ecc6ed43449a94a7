"""The verdict at the end of a run: what the adapter does to predictions on its own pictures and on others, in a few passes."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from library.data.loading import Pictures
from library.data.order import BatchRef
from library.data.plan import DatasetPlan
from library.lorafile import file as files
from library.report import html
from library.sample.jobs import SampleOptions
from library.sample.undisturbed import random_states_kept
from library.study import diagnosis, evidence, trial
from library.util.records import Batch
from library.util.said import say

from .loop import Length
from .telling import Telling
from .watchers import Idle

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger(__name__)
SHARE = 0.03
"""Part of the run's work that the verdict may cost."""
WORTH = 400
"""Pictures that a run must have seen to be worth a verdict."""
LEAST, MOST = 32, 64
"""Trials of training pictures: one is a picture in one band at every strength."""
TO_OTHERS = 4
"""Trials of training pictures to one of other pictures: harm is plainer than what a run has left to learn."""


def affordable(seen: int) -> int:
    """How many trials there may be after ``seen`` pictures of training; 0 where the run is too short."""
    step = 3  # a training step costs a forward pass, and a backward pass of twice its work
    each = len(trial.STRENGTHS) + (len(trial.STRENGTHS) + trial.STEPS) / TO_OTHERS
    return 0 if seen < WORTH else max(LEAST, min(MOST, int(seen * step * SHARE / each)))


@dataclass
class Diagnosing(Idle):
    """Tries the finished adapter and tells what it found to the report; stands before ``Telling``."""

    pictures: Pictures
    length: Length
    telling: Telling

    def on_end(self, session: Session) -> None:
        trials = affordable(session.progress.step * self.length.accumulation * self.pictures.plan.parts[0].batch_size)
        if not (trials and session.accelerator.is_main_process):
            return
        try:
            with session.at_rest(), session.unassisted():
                verdict = self.verdict(session, trials)
        except Exception as error:
            log.warning("no diagnosis: %s: %s", type(error).__name__, error)
            return
        report = self.telling.report
        report.diagnosis = verdict.lines()
        html.write(self.telling.folder / evidence.DIAGNOSIS, json.dumps(
            verdict.as_json() | {"validation": report.validation}, ensure_ascii=False, indent=1))

    def verdict(self, session: Session, trials: int) -> diagnosis.Verdict:
        """Try pictures of each kind, look at what the run left, judge."""
        plan, report = self.pictures.plan, self.telling.report
        trained, others, others_are = self.tried(session, trials)
        last, config = self.telling.saving.files[-1:], session.config
        setting = diagnosis.Setting(config.optimizer.unet_lr or config.optimizer.lr, config.network.alpha, session.progress.step)
        return diagnosis.judge(diagnosis.Evidence(
            trained, others, others_are, losses=report.losses, validation=report.validation, setting=setting,
            growth=evidence.growth(files.read(last[0].path)) if last else {}, seen=self.seen(plan, session.progress.step),
            has_regularisation=any(item.is_reg for item in plan.items)))

    def tried(self, session: Session, trials: int) -> tuple[trial.Curve, trial.Curve | None, str]:
        """Curves on training pictures and on others, and what the others are."""
        options = SampleOptions(schedule=session.schedule, device=session.device, autocast=session.precision.autocast,
                                modules=(session.network,))
        subject = trial.Tried(session.family, session.parts, session.network, options)
        trained, others = self.batches(session, False, trials), self.batches(session, True, trials // TO_OTHERS)
        name = say("the regularisation pictures")
        if not others and session.parts.text_encoders:
            others, name = trial.drawn_by_base(subject, trained[0], trials // TO_OTHERS), say("the base model's own pictures")
        others_curve = trial.measure(subject, others, bands=1) if others else None
        bands = min(len(trial.BANDS), math.ceil(trials / sum(map(len, trained))))
        return trial.measure(subject, trained, bands), others_curve, name

    def batches(self, session: Session, is_reg: bool, count: int) -> list[Batch]:
        """A few of the run's pictures, with latents."""
        found = []
        with torch.no_grad(), random_states_kept():
            for indices in trial.chosen(self.pictures.plan, is_reg, count):
                part = self.pictures.plan.items[indices[0]].part
                batch = self.pictures[BatchRef(part, tuple(indices), tuple(str(index) for index in indices), 0, 0)]
                # Tags stay in their order: drawn anew, they took a best strength of 1.31 for 1.20 in one run of four.
                found.append(replace(batch, latents_BCHW=session.latents(batch), pixels_BCHW=None,
                                     captions=[trial.caption_of(self.pictures.plan, index) for index in indices]))
        return found

    def seen(self, plan: DatasetPlan, steps: int) -> float:
        """How often the run has seen each training picture, on average."""
        repeats = [item.repeats for item in plan.items if not item.is_reg]
        epochs = steps * self.length.batches_per_step / self.length.batches
        return epochs * sum(repeats) / len(repeats)
