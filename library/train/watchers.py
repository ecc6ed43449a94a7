"""What happens around the steps: the progress line, logs, Ctrl+C. Saving and sampling have files of their own.

A watcher implements the methods of ``loop.Watcher`` that it needs; ``Idle`` supplies the rest.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.util.said import say, spoken

from .loop import StepLog, StopTraining

if TYPE_CHECKING:
    from .session import Session


class Idle:
    """Does nothing, at every occasion."""

    def on_start(self, session: Session) -> None:
        pass

    def on_epoch_start(self, session: Session, epoch: int) -> None:
        pass

    def on_step(self, session: Session, log: StepLog) -> None:
        pass

    def on_epoch_end(self, session: Session, epoch: int) -> None:
        pass

    def on_end(self, session: Session) -> None:
        pass

    def close(self) -> None:
        pass


class ProgressLine(Idle):
    """The line that people and front ends read: ``steps:  12%|..| 120/1000 [.., avr_loss=0.0812]``."""

    def __init__(self, total: int, epochs: int):
        self.total, self.epochs = total, epochs
        self.bar: Any = None

    def on_start(self, session: Session) -> None:
        from tqdm import tqdm

        self.bar = tqdm(total=self.total, initial=session.progress.step, smoothing=0, desc="steps",
                        disable=not session.accelerator.is_local_main_process)

    def on_epoch_start(self, session: Session, epoch: int) -> None:
        if session.accelerator.is_main_process:
            self.bar.write(f"\nepoch {epoch + 1}/{self.epochs}")

    def on_step(self, session: Session, log: StepLog) -> None:
        self.bar.set_postfix(avr_loss=log.average, refresh=False)
        self.bar.update(1)

    def on_end(self, session: Session) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class Journal(Idle):
    """Every step as one JSON object a line: what the loss plot, the report and comparisons read."""

    def __init__(self, file: Path):
        self.file = file
        self.stream: Any = None

    def on_start(self, session: Session) -> None:
        if not session.accelerator.is_main_process:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        kept = self._lines_up_to(session.progress.step)
        self.stream = self.file.open("w", encoding="utf-8")
        self.stream.writelines(kept)

    def _lines_up_to(self, step: int) -> list[str]:
        """A resumed run goes on in the journal of the run before; a line that a power cut left half is dropped."""
        if step == 0 or not self.file.is_file():
            return []
        lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
        return [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]

    def on_step(self, session: Session, log: StepLog) -> None:
        if self.stream is not None:
            record = {"step": log.step, "epoch": log.epoch, "loss": log.loss, "average": log.average,
                      "lr": dict(zip(session.group_names, log.lrs, strict=True))} | log.extra
            self.stream.write(json.dumps(record) + "\n")
            self.stream.flush()

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


class Interrupt(Idle):
    """Ctrl+C ends the run after the step under way, in order; pressed again, at once."""

    def __init__(self) -> None:
        self.asked = False
        self.former: Any = None

    def on_start(self, session: Session) -> None:
        def handler(number: int, frame: Any) -> None:
            if self.asked:
                raise KeyboardInterrupt
            self.asked = True
            if session.accelerator.is_main_process:
                print("\n" + spoken(say("Ctrl+C: finishing this step, then saving. Press it again to stop at once.")), flush=True)

        try:
            self.former = signal.signal(signal.SIGINT, handler)
        except ValueError:  # not in the main thread: a front end that runs us inside itself stops us its own way
            self.former = None

    def on_step(self, session: Session, log: StepLog) -> None:
        if self.asked_anywhere(session):
            raise StopTraining

    def asked_anywhere(self, session: Session) -> bool:
        """Whether any process was asked to stop: one that stopped alone would leave the others waiting for it."""
        accelerator = session.accelerator
        if accelerator.num_processes == 1:
            return self.asked
        import torch

        asked = torch.tensor([float(self.asked)], device=session.device)
        return bool(accelerator.reduce(asked, reduction="sum") > 0)

    def close(self) -> None:
        if self.former is not None:
            signal.signal(signal.SIGINT, self.former)
