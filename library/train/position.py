"""Where a run begins: at its start, at a saved state, or at the epoch or step that ``--initial_*`` name."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from library.config.run_config import LoopConfig
from library.save.hub import fetch_state
from library.util.records import Problem, UserError
from library.util.said import say

from .loop import Length
from .session import Progress, Session
from .state import Fingerprint, load_state

log = logging.getLogger(__name__)


def begin(session: Session, fingerprint: Fingerprint, length: Length) -> list[Problem]:
    """Bring session and progress to where the run begins; returns notes. UserError for a state that does not fit."""
    loop, notes = session.config.loop, []
    if loop.resume:
        folder = fetch_state(loop.resume, os.environ.get("HF_TOKEN")) if loop.resume_from_huggingface else Path(loop.resume)
        notes = load_state(session, folder, fingerprint, length)
    step = initial_step(loop, length)
    if step is not None:
        session.progress = at_step(step, length)
        if not loop.resume:
            notes.append(Problem("--initial_step", "Counting begins there; optimizer and learning rate begin anew, since no "
                                 "state is resumed.", "Give --resume to go on with them.", "note"))
    if session.progress.step:
        log.info(say("resuming after step {step} of {steps}", step=session.progress.step, steps=length.steps))
    return notes


def initial_step(loop: LoopConfig, length: Length) -> int | None:
    """Steps that count as done by ``--initial_step``, or by ``--initial_epoch`` (1 = the start); None: neither is given."""
    if loop.initial_step is not None:
        step = loop.initial_step
    elif loop.initial_epoch is not None:
        step = (loop.initial_epoch - 1) * length.steps_per_epoch
    else:
        return None
    if step >= length.steps:
        flag = "--initial_step" if loop.initial_step is not None else "--initial_epoch"
        raise UserError(
            Problem(
                flag,
                say("The run has {steps} steps, and {step} of them would be done already.", steps=length.steps, step=step),
                "Raise --max_train_steps or --max_train_epochs, which count over the whole run.",
            )
        )
    return step


def at_step(step: int, length: Length) -> Progress:
    """The progress of a run of this length after so many steps."""
    epoch, inside = divmod(step, length.steps_per_epoch)
    return Progress(epoch, step, min(length.batches, inside * length.batches_per_step))
