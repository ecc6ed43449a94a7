"""Names of what a run writes, and which older files and state folders go when a new one is saved: kohya's rules."""

from __future__ import annotations

from dataclasses import dataclass

from library.config.run_config import SaveConfig


@dataclass(frozen=True)
class FileNames:
    """Names in the output folder for one run, without the folder."""

    stem: str
    extension: str
    epoch_digits: int = 6

    @classmethod
    def of(cls, save: SaveConfig) -> FileNames:
        """The names a save configuration asks for."""
        return cls(save.output_name, save.model_as, save.epoch_digits)

    def step(self, step: int) -> str:
        """``name-step00000100.safetensors``."""
        return f"{self.stem}-step{step:08d}.{self.extension}"

    def epoch(self, epoch: int) -> str:
        """``name-000001.safetensors``; epochs count from 1."""
        return f"{self.stem}-{epoch:0{self.epoch_digits}d}.{self.extension}"

    def last(self) -> str:
        """``name.safetensors``, the file at the end."""
        return f"{self.stem}.{self.extension}"

    def best(self) -> str:
        """``name-best.safetensors``, the file of the lowest validation loss."""
        return f"{self.stem}-best.{self.extension}"

    def without_ema(self, file: str) -> str:
        """``name-noema.safetensors`` beside ``name.safetensors``: the weights themselves, not their moving average."""
        return f"{file.removesuffix('.' + self.extension)}-noema.{self.extension}"

    def step_state(self, step: int) -> str:
        """``name-step00000100-state``."""
        return f"{self.stem}-step{step:08d}-state"

    def epoch_state(self, epoch: int) -> str:
        """``name-000001-state``."""
        return f"{self.stem}-{epoch:0{self.epoch_digits}d}-state"

    def last_state(self) -> str:
        """``name-state``."""
        return f"{self.stem}-state"


def epochs_between_saves(save: SaveConfig, num_epochs: int) -> int | None:
    """Every how many epochs a file is written: as given, or so that ``n_epoch_ratio`` files come of the run."""
    if save.n_epoch_ratio:
        return max(1, num_epochs // save.n_epoch_ratio)
    return save.every_n_epochs


def step_to_remove(step: int, every: int | None, keep_steps: int | None) -> int | None:
    """Which step's file goes when ``step``'s is saved: those older than ``keep_steps`` steps; None = none.

    With every 30 and keep 10, saving step 60 removes step 30's: one file within the last 10 steps is always there.
    """
    if every is None or keep_steps is None:
        return None
    oldest = step - keep_steps - 1
    oldest -= oldest % every
    return oldest if oldest > 0 else None


def epoch_to_remove(epoch: int, every: int | None, keep_epochs: int | None) -> int | None:
    """Which epoch's file goes when ``epoch``'s is saved: all but the last ``keep_epochs`` saved ones; None = none."""
    if every is None or keep_epochs is None:
        return None
    old = epoch - every * keep_epochs
    return old if old > 0 else None


@dataclass(frozen=True)
class Outdated:
    """What a save makes superfluous: names in the output folder, None where nothing goes."""

    file: str | None
    state: str | None


def outdated_by_step(save: SaveConfig, step: int) -> Outdated:
    """The step file and the step state folder that go when ``step`` is saved."""
    names = FileNames.of(save)
    old_file = step_to_remove(step, save.every_n_steps, save.last_n_steps)
    keep_state = save.last_n_steps_state or save.last_n_steps
    old_state = step_to_remove(step, save.every_n_steps, keep_state)
    return Outdated(None if old_file is None else names.step(old_file),
                    None if old_state is None else names.step_state(old_state))


def outdated_by_epoch(save: SaveConfig, epoch: int, every: int | None) -> Outdated:
    """The epoch file and the epoch state folder that go when ``epoch`` is saved; ``every`` as epochs_between_saves."""
    names = FileNames.of(save)
    old_file = epoch_to_remove(epoch, every, save.last_n_epochs)
    keep_state = save.last_n_epochs_state or save.last_n_epochs
    old_state = epoch_to_remove(epoch, every, keep_state)
    return Outdated(None if old_file is None else names.epoch(old_file),
                    None if old_state is None else names.epoch_state(old_state))
