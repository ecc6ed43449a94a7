"""Rough sums for start-up checks: size of the model, memory and time of a step, bytes that a run will write.

The constants come from measured runs of a U-Net with 0.86 billion weights (Stable Diffusion 1.x): a step on two CPU cores
takes 1.9 s at 64x64 and 3.9 s at 128x128 pixels; on a GPU in half precision the activations of one 512x512 picture
take about 3.2 GB without and 0.9 GB with gradient checkpointing. They are meant to be right within a factor of two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.preflight.registry import Context
from library.preflight.words import size_of

GIB = 1024**3
REFERENCE = 860e6
"""Weights of the denoiser that the constants were measured with."""
DENOISERS = ("unet", "transformer", "prior")
BYTES = {"no": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Size:
    """Numbers of weights of the base model."""

    denoiser: float
    others: float


def model_size(context: Context) -> Size:
    """Count the weights of a local model from its headers; the reference model's where it is not local."""
    return context.remember("model_size", lambda: _count(context))


def _count(context: Context) -> Size:
    from library.preflight.model_files import local_path, typed_model
    from library.util.header import read_header

    path = local_path(context, typed_model(context))
    if path is None or not path.exists():
        return Size(REFERENCE, 123e6 + 84e6)
    if path.is_file():
        shapes = read_header(path).shapes
        others = sum(math.prod(s) for n, s in shapes.items() if n.startswith(("cond_stage", "conditioner", "first_stage")))
        total = sum(math.prod(s) for s in shapes.values())
        return Size(total - others, others) if total else Size(REFERENCE, 207e6)
    counts = {part.name: _folder_count(part) for part in path.iterdir() if part.is_dir()}
    denoiser = sum(n for name, n in counts.items() if name in DENOISERS)
    return Size(denoiser or REFERENCE, sum(counts.values()) - denoiser)


def _folder_count(folder: Path) -> float:
    """Weights in one part's folder: its first variant of .safetensors, else bytes of .bin over 4."""
    from library.util.header import read_header

    plain = [p for p in folder.glob("*.safetensors") if ".fp16." not in p.name] or list(folder.glob("*.safetensors"))
    if plain:
        return sum(math.prod(s) for p in plain for s in read_header(p).shapes.values())
    return sum(p.stat().st_size / 4 for p in folder.glob("*.bin"))


def units(context: Context) -> float:
    """Training area of one batch in pictures of 512x512 pixels."""
    size = size_of(context.flag("resolution") or "") or (512, 512)
    if context.config is not None:
        return (
            max((p.batch_size * p.resolution[0] * p.resolution[1] for p in context.config.data.parts), default=262144) / 262144
        )
    return size[0] * size[1] * (context.flag("train_batch_size") or 1) / 262144


def gpu_memory(context: Context) -> float:
    """Bytes of GPU memory that training will take, about."""
    size, precision = model_size(context), context.flag("mixed_precision") or "no"
    item = BYTES[precision]
    weights = size.denoiser * (1 if context.flag("fp8_base") else item) + size.others * item
    if context.flag("cache_text_encoder_outputs"):
        weights = size.denoiser * (1 if context.flag("fp8_base") else item)
    checkpointing = context.flag("gradient_checkpointing")
    activations = units(context) * (0.9 if checkpointing else 3.2) * GIB * (2 if precision == "no" else 1)
    activations *= min(1.0, size.denoiser / REFERENCE)
    optimizer = adapter_parameters(context) * (4 + 4 + (2 if "8bit" in str(context.flag("optimizer_type")).lower() else 8))
    return weights + activations + optimizer + 0.8 * GIB


def adapter_parameters(context: Context) -> float:
    """Weights of the adapter, about: 0.57 million for each rank at the reference size, doubled by convolutions."""
    dim = context.flag("network_dim") or 4
    scale = min(12.0, (model_size(context).denoiser / REFERENCE) ** 1.6)
    conv = 2.0 if any(str(w).startswith("conv_dim") for w in context.flag("network_args") or ()) else 1.0
    return 0.57e6 * dim * scale * conv


def cpu_seconds(context: Context) -> float:
    """Seconds of one step without a GPU, about."""
    small = 64 * units(context)
    cores = max(1, min(16, context.machine.cpus))
    return 0.1 + (1.2 + 0.67 * small) * (2 / cores) * (model_size(context).denoiser / REFERENCE)


def total_steps(context: Context) -> int:
    """Steps of the run as far as they are known before the data are read."""
    plan: Any = context.facts.get("steps")
    return int(plan or context.flag("max_train_steps") or 1600)


@dataclass(frozen=True)
class Written:
    """What a run will write, in bytes and counts."""

    files: int
    file_bytes: float
    states: int
    state_bytes: float

    @property
    def total(self) -> float:
        return self.files * self.file_bytes + self.states * self.state_bytes


def written(context: Context) -> Written:
    """Count the saves that are planned and how large they are; files that will be removed again are not counted."""
    steps, every = total_steps(context), context.flag("save_every_n_steps")
    epochs, every_epoch = context.flag("max_train_epochs"), context.flag("save_every_n_epochs")
    by_steps = steps // every if every else 0
    by_epochs = epochs // every_epoch if epochs and every_epoch else 0
    files = by_steps + by_epochs
    kept = min(
        files,
        _kept(by_steps, every, context.flag("save_last_n_steps"))
        + _kept(by_epochs, every_epoch, context.flag("save_last_n_epochs")),
    )
    states = 0
    if context.flag("save_state"):
        last_steps = context.flag("save_last_n_steps_state") or context.flag("save_last_n_steps")
        last_epochs = context.flag("save_last_n_epochs_state") or context.flag("save_last_n_epochs")
        states = _kept(by_steps, every, last_steps) + _kept(by_epochs, every_epoch, last_epochs)
    states += 1 if context.flag("save_state") or context.flag("save_state_on_train_end") else 0
    parameters = adapter_parameters(context)
    item = 2 if context.flag("save_precision") in ("fp16", "bf16") else 4
    return Written(kept + 1, parameters * item, states, parameters * (4 + 8))


def _kept(saves: int, every: int | None, last: int | None) -> int:
    return min(saves, last // every + 1) if last and every else saves


def shown_bytes(count: float) -> str:
    """A number of bytes for people: ``18 MB``, ``4.2 GB``."""
    return f"{count / GIB:.1f} GB" if count >= GIB else f"{max(1, round(count / 2**20))} MB"


def shown_time(seconds: float) -> str:
    """A duration for people: ``40 s``, ``25 min``, ``3.5 h``, ``4 days``."""
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min"), (172800, 3600, "h"), (math.inf, 86400, "days")):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit != "min" and value < 10 else f"{value:.0f} {unit}"
    raise AssertionError
