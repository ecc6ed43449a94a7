"""Checks of what a run goes on from: a saved state, or an earlier LoRA file."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from library.preflight.files import path_of
from library.preflight.registry import Context, check
from library.util.records import Problem

STATE_PARTS = {"optimizer": ("optimizer*",), "scheduler": ("scheduler*",), "random_states": ("random_states*",)}
"""Part of a state folder -> its file patterns (accelerate's names)."""


@check("state_missing", level="files", row="F05")
def check_state(context: Context) -> Iterator[Problem]:
    """--resume names a folder that really holds a whole state."""
    path = path_of(context, "resume")
    if path is None or context.flag("resume_from_huggingface"):
        return
    if path.is_file():
        yield context.stop("state_missing.file", "--resume", path=path)
    elif not path.is_dir():
        states = _states_near(path)
        key = "state_missing.near" if states else "state_missing"
        yield context.stop(key, "--resume", path=path, near=", ".join(states))
    else:
        missing = [part for part, patterns in STATE_PARTS.items() if not any(list(path.glob(p)) for p in patterns)]
        if len(missing) == len(STATE_PARTS):
            states = _states_near(path / "x")
            key = "state_missing.none_near" if states else "state_missing.none"
            yield context.stop(key, "--resume", path=path, near=", ".join(states))
        elif missing:
            yield context.stop("state_missing.part", "--resume", path=path, missing=", ".join(missing))


def _states_near(path: Path) -> list[str]:
    parent = next((p for p in path.parents if p.is_dir()), Path())
    return sorted(p.name for p in parent.iterdir() if p.is_dir() and p.name.endswith("-state"))[-3:]


@check("state_broken", level="files", row="F05")
def check_state_files(context: Context) -> Iterator[Problem]:
    """The files of a state are whole: a run that was killed while saving leaves half ones."""
    path = path_of(context, "resume")
    if path is None or not path.is_dir():
        return
    for file in sorted(path.iterdir()):
        torch_file = file.suffix in (".bin", ".pt", ".pkl")
        if file.is_file() and (file.stat().st_size == 0 or (torch_file and _half_zip(file))):
            yield context.stop("state_broken", "--resume", path=path, file=file.name, size=file.stat().st_size)


def _half_zip(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(2) == b"PK" and not zipfile.is_zipfile(file)


@check("state_differs", level="files", row="F05")
def check_state_settings(context: Context) -> Iterator[Problem]:
    """What the state was saved with must be what is asked for now."""
    path = path_of(context, "resume")
    if path is None or not path.is_dir():
        return
    saved = _read_state(path).get("run", {})
    for flag in ("network_module", "network_dim", "network_alpha"):
        then, now = saved.get(flag), context.flag(flag)
        if then is not None and now not in (None, "") and str(then).lower() != str(now).lower() and not _equal(then, now):
            yield context.stop("state_differs", "--resume", path=path, flag=flag, then=then, now=now)
    config = context.config
    if config is None:
        return
    trained = {"optimizer": config.optimizer.name.lower(), "trains_text_encoder": config.network.train_text_encoder,
               "trains_denoiser": config.network.train_denoiser}  # fmt: skip
    for key, now in trained.items():
        if key in saved and saved[key] != now:
            text = "state_differs" if key == "optimizer" else f"state_differs.{key}" + (".now" if now else "")
            yield context.stop(text, "--resume", path=path, flag="optimizer_type", then=saved[key], now=now)


def _equal(a: Any, b: Any) -> bool:
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return False


def _read_state(path: Path) -> dict[str, Any]:
    """What train_state.json says of the run that wrote it; {} where it is not there or not ours."""
    file = path / "train_state.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@check("resume_position", level="files", row="F21")
def check_resume_position(context: Context) -> Iterator[Problem]:
    """Where a resumed run goes on, and whether anything is left to do."""
    path = path_of(context, "resume")
    if path is None or not path.is_dir():
        return
    state = _read_state(path)
    step, total = state.get("current_step"), context.flag("max_train_steps")
    if step is None:
        return
    if total and not context.flag("max_train_epochs") and int(step) >= int(total):
        yield context.stop("resume_position.done", "--resume", step=step, total=total)
    else:
        yield context.note("resume_position", "--resume", step=step, epoch=state.get("current_epoch", "?"))


@check("rank_differs", level="files", row="F78")
def check_rank(context: Context) -> Iterator[Problem]:
    """--network_weights has the rank that is asked for, and is a whole LoRA file."""
    from library.util.header import read_header

    path = path_of(context, "network_weights")
    if path is None or not path.is_file():
        return
    header = context.remember(f"header:{path}", lambda: read_header(path))
    if not header.readable:
        yield context.stop("rank_differs.damaged", "--network_weights", path=path, detail=header.detail)
        return
    ranks = lora_ranks(header.shapes)
    if not ranks:
        yield context.stop("rank_differs.no_lora", "--network_weights", path=path)
        return
    rank, dim = ranks.most_common(1)[0][0], context.flag("network_dim")
    if dim is not None and dim != rank and not context.flag("dim_from_weights"):
        yield context.stop("rank_differs", "--network_weights", name=path.name, rank=rank, dim=dim)


def lora_ranks(shapes: Any) -> Counter[int]:
    """Count the ranks in a LoRA file by its tensors' shapes; empty for a file without LoRA tensors.

    The rank is the first axis of ``lora_down``/``lora_A``/``hada_w1_b`` and the second of LoKr's ``lokr_w1_a``.
    """
    found: Counter[int] = Counter()
    for name, shape in shapes.items():
        if name.endswith(("lora_down.weight", "lora_A.weight", "hada_w1_b", "lokr_w2_b", "lora_A.default.weight")) and shape:
            found[shape[0]] += 1
        elif name.endswith(("lokr_w1", "oft_blocks", "hada_w2_b")) and shape:
            found[shape[0]] += 0
    return found
