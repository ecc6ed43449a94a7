"""State folders: everything a stopped run needs to go on exactly where it was.

A folder holds what accelerate saves (adapter, optimizer, schedule, scaler, random states) under kohya's file names,
and ``train_state.json``. kohya's own folders are read too; they know epoch and step, and the position in the epoch
follows from these.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from library.util.records import Problem, UserError
from library.util.said import say

from .loop import Length
from .session import Session

log = logging.getLogger(__name__)
STATE_FILE = "train_state.json"
AVERAGES_FILE = "ema.pt"


@dataclass(frozen=True)
class Fingerprint:
    """What must be equal between the run that saved a state and the one that resumes it."""

    network_module: str
    network_dim: int | None
    network_alpha: float
    optimizer: str
    batches_per_epoch: int
    seed: int
    trains_text_encoder: bool
    trains_denoiser: bool


FLAG_OF = {"network_module": "--network_module", "network_dim": "--network_dim", "network_alpha": "--network_alpha",
           "optimizer": "--optimizer_type", "trains_text_encoder": "--network_train_unet_only",
           "trains_denoiser": "--network_train_text_encoder_only"}
SOFT = {"batches_per_epoch": say("The data set"), "seed": say("--seed")}
"""A difference in these changes what follows but does not prevent it."""


def save_state(session: Session, folder: Path, fingerprint: Fingerprint) -> Path:
    """Write a state folder under a temporary name and rename it, so that no half folder can be taken for a state.

    Returns where it is: beside ``folder`` where a former one of this name is in use by another program.
    """
    accelerator, partial = session.accelerator, folder.with_name(folder.name + ".partial")
    if accelerator.is_main_process and partial.exists():
        shutil.rmtree(partial)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        progress = session.progress
        record = {"current_epoch": progress.epoch + 1, "current_step": progress.step,
                  "batches_of_epoch": progress.batch, "epochs_done": progress.epoch, "run": asdict(fingerprint)}
        (partial / STATE_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
        if session.averages is not None:
            torch.save(session.averages.state_dict(), partial / AVERAGES_FILE)
        folder = _put_in_place(partial, folder)
    accelerator.wait_for_everyone()
    return folder


def _put_in_place(partial: Path, folder: Path) -> Path:
    """Rename the new state to its name; a former one goes only when the new one stands.

    Windows neither removes nor renames a folder in which another program has a file open: the new one then stands beside it.
    """
    former = folder.with_name(f"{folder.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    try:
        if folder.exists():
            os.replace(folder, former)
        os.replace(partial, folder)
    except OSError:
        if former.exists() and not folder.exists():
            os.replace(former, folder)
        names = (folder.with_name(f"{folder.name.removesuffix('-state')}-again{number}-state") for number in range(1, 1000))
        spare = next(name for name in names if not name.exists())
        os.replace(partial, spare)
        log.warning(say('"{folder}" is in use by another program; the state is in "{spare}".', folder=folder, spare=spare))
        return spare
    shutil.rmtree(former, ignore_errors=True)
    return folder


def load_state(session: Session, folder: Path, fingerprint: Fingerprint, length: Length) -> list[Problem]:
    """Restore a state folder into the session and its progress; returns notes about what differs.

    Raises UserError where the folder is no state or was saved with another adapter or optimizer.
    """
    record = read_state(folder)
    notes = compare(record.get("run"), fingerprint, folder)
    accelerator = session.accelerator
    accelerator.load_state(str(folder))
    progress, step = session.progress, int(record["current_step"])
    progress.step = step
    if "epochs_done" in record:
        progress.epoch, progress.batch = record["epochs_done"], record["batches_of_epoch"]
    else:
        progress.epoch, inside = divmod(step, length.steps_per_epoch)
        progress.batch = min(length.batches, inside * length.batches_per_step)
    if session.averages is not None:
        notes += _load_averages(session, folder)
    return notes


def _load_averages(session: Session, folder: Path) -> list[Problem]:
    """Take up the moving average of the state; where it has none, the average begins with the state's weights."""
    file = folder / AVERAGES_FILE
    if file.is_file():
        session.averages.load_state_dict(torch.load(file, map_location=session.device, weights_only=True))
        return []
    session.averages.restart()
    return [
        Problem(
            "--ema_decay",
            say('"{folder}" was saved without a moving average; it begins with this state.', folder=folder),
            "",
            "note",
        )
    ]


def read_state(folder: Path) -> dict[str, Any]:
    """The record in a state folder; UserError with what is there instead, if it is none."""
    file = folder / STATE_FILE
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    if folder.is_file():
        raise UserError(
            Problem(
                "--resume",
                say('"{folder}" is a file; --resume needs a state folder (its name ends in "-state").', folder=folder),
                say(
                    'To go on from the adapter itself, without optimizer and step count, use --network_weights="{folder}".',
                    folder=folder,
                ),
            )
        )
    near = sorted(p.name for p in folder.parent.glob("*-state")) if folder.parent.is_dir() else []
    what = (say('"{folder}" is no saved state (it has no {file}).', folder=folder, file=STATE_FILE) if folder.exists()
            else say('"{folder}" does not exist.', folder=folder))  # fmt: skip
    remedy = "Give the path of a folder saved with --save_state."
    if near:
        remedy = say("{remedy} In {parent} there are: {near}.", remedy=say(remedy), parent=folder.parent, near=near[-5:])
    raise UserError(Problem("--resume", what, remedy))


def compare(saved: dict[str, Any] | None, now: Fingerprint, folder: Path) -> list[Problem]:
    """Name every setting that differs: UserError for those that make resuming impossible, notes for the others."""
    if saved is None:
        return [Problem("--resume", say('"{folder}" was saved by another program; its settings cannot be compared.', folder=folder),
                        "Make sure that network, optimizer and data are the same as then.", "note")]
    current = asdict(now)
    differing = {key: saved[key] for key in current if key in saved and saved[key] != current[key]}
    stops = [
        Problem(
            "--resume",
            say(
                '"{folder}" was saved with {flag} {then}, now it is {now}.',
                folder=folder,
                flag=FLAG_OF[key],
                then=value,
                now=current[key],
            ),
            "Use the old value, or start anew from the file with --network_weights.",
        )
        for key, value in differing.items()
        if key in FLAG_OF
    ]
    if stops:
        raise UserError(*stops)
    return [
        Problem(
            "--resume",
            say(
                "{what} had the number {then} when the state was saved, now it is {now}.",
                what=SOFT[key],
                then=value,
                now=current[key],
            ),
            "The run goes on, but not as an unbroken one would have.",
            "note",
        )
        for key, value in differing.items()
    ]
