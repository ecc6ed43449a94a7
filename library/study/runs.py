"""A study: one training run for every combination of settings, each a process of its own, told apart by their names."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from library.config.toml_file import write_text
from library.flags import Flags, flags_of
from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say
from library.util.secrets import mask

ROOT = Path(__file__).resolve().parents[2]
SHORT = {"network_dim": "dim", "network_alpha": "alpha", "unet_lr": "lr", "learning_rate": "lr", "text_encoder_lr": "te",
         "optimizer_type": "opt", "lr_scheduler": "sched", "max_train_steps": "steps", "max_train_epochs": "epochs",
         "train_batch_size": "batch", "min_snr_gamma": "snr", "resolution": "res"}
"""Flag -> how names of files call it."""
SAME = {"dim": "network_dim", "alpha": "network_alpha", "lr": "unet_lr"}
"""Words behind ``=`` that stand for another flag's value: ``network_alpha==dim`` or ``=network_dim``."""
OWN = ("output_dir", "output_name", "config_file")
"""Flags that the study itself sets."""


@dataclass(frozen=True)
class Run:
    """One combination."""

    name: str
    settings: tuple[tuple[str, str], ...]
    """(flag, value as typed) of what varies."""

    def files(self, study: Path, base: str) -> RunFiles:
        """Where it lies."""
        return RunFiles(study / self.name, f"{base}_{self.name}" if base else self.name)


@dataclass(frozen=True)
class RunFiles:
    """The folder of a run and the name of its file."""

    folder: Path
    output_name: str

    @property
    def lora(self) -> Path:
        return self.folder / f"{self.output_name}.safetensors"

    @property
    def journal(self) -> Path:
        return self.folder / f"{self.output_name}-report" / "log.jsonl"

    @property
    def mark(self) -> Path:
        """Written when the run has ended: what it was and how it went."""
        return self.folder / "finished.json"

    @property
    def console(self) -> Path:
        return self.folder / "console.txt"


def combinations(vary: Sequence[str], script: str) -> list[Run]:
    """Every combination of ``flag=value,value`` words, in their order; UserError for what is no flag or has no value.

    ``=other`` as a value means the other flag's value in the same run: ``network_alpha=1,=dim``.
    """
    known, columns, problems = flags_of(script), [], []
    for word in vary:
        name, _, text = word.partition("=")
        name = name.lstrip("-")
        values = [value.strip() for value in text.split(",") if value.strip()]
        if name not in known or name in OWN:
            problems.append(Problem(f"--vary {word}", say("{name} is no setting that a study can vary.", name=name),
                                    near(name, [one for one in known if one not in OWN], 2)))
        elif not values:
            problems.append(
                Problem(f"--vary {word}", "No values stand behind it.", say("Write for example {name}=1,16,128.", name=name))
            )
        columns.append([(name, value) for value in values])
    if problems or not columns:
        raise UserError(*(problems or [Problem("--vary", "Nothing is varied.", "Add --vary network_dim=1,16,128.")]))
    found: dict[str, Run] = {}
    for chosen in product(*columns):
        settings = _settled(dict(chosen), vary)
        found.setdefault(name_of(settings), Run(name_of(settings), tuple(settings.items())))
    return list(found.values())


def _settled(chosen: Mapping[str, str], vary: Sequence[str]) -> dict[str, str]:
    """The same with ``=dim`` replaced by the value it stands for."""
    settled = {}
    for name, value in chosen.items():
        other = value[1:].strip() if value.startswith("=") else ""
        source = SAME.get(other, other)
        if other and source not in chosen:
            raise UserError(
                Problem(
                    f"--vary {' '.join(vary)}",
                    say("{name}=={other}: {source} is not varied here.", name=name, other=other, source=source),
                    say("Add {source}=... to --vary, or write the number.", source=source),
                )
            )
        settled[name] = chosen[source] if other else value
    return settled


def name_of(settings: Mapping[str, str]) -> str:
    """``dim128_alpha1_lr1e-4``: letters that every file system takes."""
    words = [f"{SHORT.get(name, name)}{value}" for name, value in settings.items()]
    return "".join(letter if letter.isalnum() or letter in "_-+." else "-" for letter in "_".join(words))


@dataclass(frozen=True)
class Study:
    """What is to be run and where."""

    config: Path
    base: Flags
    runs: tuple[Run, ...]
    folder: Path
    further: tuple[str, ...] = ()
    """Flags for every run, as typed."""

    def command(self, run: Run) -> list[str]:
        """The command line of a run."""
        files = run.files(self.folder, self.base["output_name"] or "")
        fixed = [] if self.base["seed"] is not None else ["--seed=42"]  # runs are compared: the same draws for all
        cached = ["--cache_latents_to_disk"] if self.base["cache_latents"] and not self.base["cache_latents_to_disk"] else []
        apart = [f"--log_prefix={self.base['log_prefix'] or ''}{run.name}_"] if self.base["logging_dir"] else []
        return [sys.executable, str(ROOT / self.base.script), f"--config_file={self.config}", *fixed, *cached, *apart,
                *self.further, *(f"--{name}={value}" for name, value in run.settings),
                f"--output_dir={files.folder}", f"--output_name={files.output_name}"]

    def print_of(self, run: Run) -> str:
        """What decides the outcome of a run: another base file or other flags make another run of it."""
        changed = {name: str(value) for name, value in self.base.changed().items() if name not in OWN}
        text = json.dumps([changed, run.settings, self.further], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def state(self, run: Run) -> dict[str, Any] | None:
        """How a run has ended; None where it has not, or was of other settings."""
        files = run.files(self.folder, self.base["output_name"] or "")
        try:
            mark = json.loads(files.mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return mark if mark.get("print") == self.print_of(run) and (mark["code"] or files.lora.is_file()) else None


def perform(study: Study, gpus: Sequence[str] = (), tell: Callable[[str], None] = print) -> None:
    """Run what has not finished yet: one after another, or one on each of ``gpus``. A failed run ends nothing."""
    left = [run for run in study.runs if (study.state(run) or {"code": 1})["code"] != 0]
    tell(say("{count:run|runs}, {before} of them finished before", count=len(study.runs), before=len(study.runs) - len(left)))
    free: SimpleQueue[str] = SimpleQueue()
    for gpu in gpus or ("",):
        free.put(gpu)

    def one(run: Run) -> None:
        gpu = free.get()
        try:
            tell(say("{name}: started on GPU {gpu}" if gpu else "{name}: started", name=run.name, gpu=gpu))
            tell(say("{name}: {outcome}", name=run.name, outcome=_perform(study, run, gpu)))
        finally:
            free.put(gpu)

    with ThreadPoolExecutor(len(gpus) or 1) as pool:
        list(pool.map(one, left))


def _perform(study: Study, run: Run, gpu: str) -> str:
    files = run.files(study.folder, study.base["output_name"] or "")
    files.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
    with files.console.open("w", encoding="utf-8") as console:
        code = subprocess.run(study.command(run), env=environment, stdout=console, stderr=subprocess.STDOUT, check=False).returncode
    lines = files.console.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    cause = mask(lines[-1].strip()[:300]) if code and lines else ""
    write_text(files.mark, json.dumps({"print": study.print_of(run), "settings": dict(run.settings), "code": code,
                                       "cause": cause}, ensure_ascii=False))
    return say("failed ({cause}); its console is in {file}", cause=cause, file=files.console) if code else say("done")
