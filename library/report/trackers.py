"""Where a run's figures go while it runs: nowhere, TensorBoard, Weights & Biases.

Scalars keep kohya's names (``loss/current``, ``loss/average``, ``loss/epoch_average``, ``lr/unet``, ...) and folders
(``logging_dir/PREFIX20260101120000/network_train/``), so that boards that people have go on working.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from library.config.run_config import LogConfig
from library.util.packages import installed
from library.util.records import Problem, UserError
from library.util.said import say
from library.util.secrets import mask

DEFAULT_NAME = "network_train"
Figures = Mapping[str, float]


class Tracker(Protocol):
    """What the trainer tells a tracker."""

    def figures(self, values: Figures, step: int, axes: Figures | None = None) -> None:
        """Scalars at a place of TensorBoard's axis (step, or epoch for an epoch's figures).

        ``axes`` (``global_step``, ``epoch``, ``val_step``) say where they stand for boards that can plot over
        either; kohya logs them to Weights & Biases alone.
        """

    def picture(self, name: str, path: Path, caption: str, step: int) -> None:
        """A sample picture."""

    def close(self) -> None:
        """Write what is pending; nothing comes after."""


class NoTracker:
    """Keeps nothing."""

    def figures(self, values: Figures, step: int, axes: Figures | None = None) -> None:
        return None

    def picture(self, name: str, path: Path, caption: str, step: int) -> None:
        return None

    def close(self) -> None:
        return None


class TensorBoard:
    """Event files of TensorBoard. Pictures stay files of their own, as in kohya."""

    def __init__(self, folder: Path, config: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> None:
        """``arguments`` go to torch's SummaryWriter."""
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.writer = SummaryWriter(str(folder), **({"flush_secs": 10} | dict(arguments or {})))
        if config:
            self.writer.add_text("config", "\n".join(f"    {key}: {value}" for key, value in config.items()), 0)

    def figures(self, values: Figures, step: int, axes: Figures | None = None) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, name: str, path: Path, caption: str, step: int) -> None:
        return None

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run at Weights & Biases. The key goes to its login and nowhere else."""

    def __init__(self, project: str, arguments: Mapping[str, Any], config: Mapping[str, Any], key: str | None) -> None:
        import wandb

        self.wandb = wandb
        try:
            if key:
                wandb.login(key=key)
            self.run = wandb.init(**({"project": project, "config": dict(config)} | dict(arguments)))
        except (wandb.errors.Error, ValueError) as error:
            raise UserError(Problem("--log_with", say("wandb does not start: {error}", error=mask(str(error))),
                                    "Log in once with: wandb login (or set WANDB_API_KEY; WANDB_MODE=offline keeps the "
                                    "figures here), or leave --log_with out.", check="trackers")) from error
        for axis in ("epoch", "val_step", "global_step"):
            self.run.define_metric(axis, hidden=True)

    def figures(self, values: Figures, step: int, axes: Figures | None = None) -> None:
        self.run.log({**values, **({"global_step": step} if axes is None else axes)})

    def picture(self, name: str, path: Path, caption: str, step: int) -> None:
        # Without commit: the next figures close the step, so pictures and figures share it.
        self.run.log({name: self.wandb.Image(str(path), caption=caption)}, commit=False)

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """Several trackers as one."""

    def __init__(self, members: Sequence[Tracker]) -> None:
        self.members = members

    def figures(self, values: Figures, step: int, axes: Figures | None = None) -> None:
        for member in self.members:
            member.figures(values, step, axes)

    def picture(self, name: str, path: Path, caption: str, step: int) -> None:
        for member in self.members:
            member.picture(name, path, caption, step)

    def close(self) -> None:
        for member in self.members:
            member.close()


@dataclass(frozen=True)
class Start:
    """What trackers are made from."""

    log: LogConfig
    config: Mapping[str, Any]
    """Settings of the run for the boards (``--log_config``); {} to show none."""
    when: time.struct_time
    wandb_key: str | None = None
    tracker_settings: Mapping[str, Any] | None = None
    """The file of ``--log_tracker_config``: one table for each tracker."""


def log_folder(log: LogConfig, when: time.struct_time) -> Path | None:
    """kohya's folder of a run: ``logging_dir/PREFIX20260101120000``."""
    if log.logging_dir is None:
        return None
    return log.logging_dir / f"{log.log_prefix or ''}{time.strftime('%Y%m%d%H%M%S', when)}"


def _tensorboard(start: Start, folder: Path | None) -> Tracker:
    assert folder is not None, "checked by problems()"
    arguments = (start.tracker_settings or {}).get("tensorboard", {})
    return TensorBoard(folder / (start.log.tracker_name or DEFAULT_NAME), _shown(start.config), arguments)


def _wandb(start: Start, folder: Path | None) -> Tracker:
    settings = dict((start.tracker_settings or {}).get("wandb", {}))
    if start.log.wandb_run_name:
        settings.setdefault("name", start.log.wandb_run_name)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        settings.setdefault("dir", str(folder))
    return Wandb(start.log.tracker_name or DEFAULT_NAME, settings, _shown(start.config), start.wandb_key)


MAKERS = {"tensorboard": _tensorboard, "wandb": _wandb}
CHOSEN = {"tensorboard": ("tensorboard",), "wandb": ("wandb",), "all": ("tensorboard", "wandb"), None: ()}


def chosen(log: LogConfig) -> tuple[str, ...]:
    """Names of the trackers of a run: ``--logging_dir`` alone means TensorBoard."""
    if log.log_with is None and log.logging_dir is not None:
        return ("tensorboard",)
    return CHOSEN[log.log_with]


def problems(log: LogConfig) -> list[Problem]:
    """What keeps the trackers from starting: no folder for TensorBoard, a package that is not installed."""
    found = []
    if "tensorboard" in chosen(log) and log.logging_dir is None:
        found.append(
            Problem(
                "--logging_dir",
                say("--log_with {log_with} needs a folder for its files.", log_with=log.log_with),
                "Set --logging_dir logs.",
                check="trackers",
            )
        )
    found += [
        Problem(
            "--log_with",
            say("{name} is not installed.", name=name),
            say("Run: python -m pip install {name}", name=name),
            check="trackers",
        )
        for name in chosen(log)
        if not installed(name)
    ]
    return found


def create(start: Start, is_main: bool = True) -> Tracker:
    """Make the trackers of a run; only the main process keeps anything. UserError as ``problems``."""
    names = chosen(start.log)
    if not names or not is_main:
        return NoTracker()
    found = problems(start.log)
    if found:
        raise UserError(*found)
    folder = log_folder(start.log, start.when)
    return Trackers([MAKERS[name](start, folder) for name in names])


def _shown(config: Mapping[str, Any]) -> dict[str, str]:
    """Settings as text, with secrets masked and keys of services left out."""
    return {key: mask(str(value)) for key, value in config.items()
            if not key.endswith(("_key", "token", "_password"))}


def step_figures(loss: float, average: float, rates: Figures, extra: Figures) -> dict[str, float]:
    """The scalars of one step under kohya's names; ``rates`` as ``logged_rates`` gives them."""
    return {"loss/current": loss, "loss/average": average, **extra, **rates}


def epoch_figures(average: float) -> dict[str, float]:
    """The scalar of an epoch's end."""
    return {"loss/epoch_average": average}


__all__ = ["NoTracker", "Start", "TensorBoard", "Tracker", "Trackers", "Wandb", "chosen", "create", "epoch_figures",
           "log_folder", "problems", "step_figures"]
