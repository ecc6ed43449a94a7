"""Rough sums for start-up checks: size of the model, memory and time of a step, bytes that a run will write.

The constants come from measured runs of a U-Net with 0.86 billion weights (Stable Diffusion 1.x): a step on two CPU cores
takes 1.9 s at 64x64 and 3.9 s at 128x128 pixels; on a GPU in half precision the activations of one 512x512 picture
take about 3.2 GB without and 0.9 GB with gradient checkpointing. They are meant to be right within a factor of two.
``gpu_bytes`` is the one sum of GPU memory: start-up checks, the advice after an out-of-memory error and docs/architectures.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from library.preflight.registry import Context
from library.preflight.words import size_of

GIB = 1024**3
REFERENCE = 860e6
"""Weights of the denoiser that the constants were measured with."""
DENOISERS = ("unet", "transformer", "prior")
BYTES = {"no": 4, "fp16": 2, "bf16": 2}


KEPT_BITS = {"fp8": 8.0, "int8": 8.125, "nf4": 4.5}
"""Bits of a weight that is kept small, its share of the scales included."""


@dataclass(frozen=True)
class Size:
    """Numbers of weights of the base model."""

    denoiser: float
    others: float
    blocks: int = 16


@dataclass(frozen=True)
class Load:
    """What a training puts on the graphics card."""

    size: Size
    """``others`` are the weights of VAE and text encoders that stay there while steps are taken."""
    adapter: float
    """Weights of the adapter."""
    units: float = 1.0
    """Pictures of 512x512 in a batch."""
    item: int = 2
    """Bytes of a number in the type that is computed with."""
    kept: str | None = None
    """How the denoiser's weights are kept small: a word of ``KEPT_BITS``."""
    swapped: int = 0
    checkpointing: bool = True
    optimizer_bytes: int = 8
    """Of the optimizer's state for each weight of the adapter."""


def gpu_bytes(load: Load) -> float:
    """Bytes of GPU memory that the training will take, about.

    Blocks that wait visit two at a time. Weights that are kept small are widened where they are used: block by block with
    checkpointing, all of them at once without, because the gradient needs them.
    """
    size = load.size
    stored = size.denoiser * (KEPT_BITS[load.kept] / 8 if load.kept else load.item)
    here = 1 - load.swapped / size.blocks
    weights = stored * here + (2 * stored / size.blocks if load.swapped else 0)
    if load.kept:
        weights += size.denoiser * load.item * (1 / size.blocks if load.checkpointing else 1)
    relative = size.denoiser / REFERENCE
    picture = 0.9 * min(1.0, relative) if load.checkpointing else 3.2 * min(relative, relative**0.5)
    activations = load.units * picture * GIB * load.item / 2
    adapter = load.adapter * (4 + 4 + load.optimizer_bytes)
    return weights + size.others * load.item + activations + adapter + 0.8 * GIB


def model_size(context: Context) -> Size:
    """Count the weights of a local model from its headers; the reference model's where it is not local."""
    return context.remember("model_size", lambda: _count(context))


def _count(context: Context) -> Size:
    from library.families import registry, released
    from library.preflight.model_files import found, local_path, typed_model

    path = local_path(context, typed_model(context))
    if path is None or not path.exists():
        family = registry.by_script(context.script)
        first = released.of(family.SPEC.name)[0] if family is not None else None
        if first is None:
            return Size(REFERENCE, 207e6)
        return Size(first.denoiser * released.BILLION, (first.text + first.vae) * released.BILLION, first.blocks)
    if path.is_file():
        denoiser, others = _file_count(context, path)
    else:
        counts = {part.name: _folder_count(part) for part in path.iterdir() if part.is_dir()}
        denoiser = sum(n for name, n in counts.items() if name in DENOISERS) or REFERENCE
        others = sum(counts.values()) - sum(n for name, n in counts.items() if name in DENOISERS)
    model = found(context)
    blocks = released.nearest(model.family, denoiser).blocks if model is not None and model.family else Size(0, 0).blocks
    return Size(denoiser, others, blocks)


def _file_count(context: Context, path: Path) -> tuple[float, float]:
    """Weights of a single file's denoiser, and of the rest with the files that are given beside it."""
    from library.util.header import read_header

    shapes = read_header(path).shapes
    others = sum(math.prod(s) for n, s in shapes.items() if n.startswith(OTHERS))
    total = sum(math.prod(s) for s in shapes.values())
    if not total:
        return REFERENCE, 207e6
    beside = [Path(typed) for name in PART_FLAGS if (typed := context.flag(name)) and Path(typed).is_file()]
    return total - others, others + sum(math.prod(s) for file in beside for s in read_header(file).shapes.values())


OTHERS = ("cond_stage", "conditioner", "first_stage", "text_encoders", "vae")
"""Beginnings of names in a package that are not the denoiser's."""
PART_FLAGS = ("vae", "ae", "clip_l", "clip_g", "t5xxl", "gemma2", "text_encoder", "qwen_vl", "byt5", "qwen3", "mistral", "umt5",
              "pile_t5")
"""Flags that name files of parts."""


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


def gpu_memory(context: Context, swapped: int | None = None) -> float:
    """Bytes of GPU memory that training will take, about; ``swapped``: with so many blocks waiting."""
    load = load_of(context)
    return gpu_bytes(load if swapped is None else replace(load, swapped=swapped, checkpointing=True))


def kept_small(context: Context) -> str | None:
    """How the denoiser's weights are to be kept small, None where they are not."""
    plain = context.flag("fp8_base") or context.flag("fp8_base_unet") or context.flag("fp8_scaled")
    return context.flag("base_quantization") or ("fp8" if plain else None)


def load_of(context: Context) -> Load:
    """What the run will put on the graphics card, from its flags and its model's headers."""
    size, swapped = model_size(context), context.flag("blocks_to_swap") or 0
    texts_freed = context.flag("cache_text_encoder_outputs") or context.flag("cache_text_encoder_outputs_to_disk")
    staying = size.others if not texts_freed or context.flag("sample_prompts") else 0
    narrow = 0.5 if context.flag("fp8_base") and not context.flag("fp8_base_unet") else 1.0
    return Load(
        size=replace(size, others=staying * narrow),
        adapter=adapter_parameters(context),
        units=units(context),
        item=BYTES[context.flag("mixed_precision") or "no"],
        kept=kept_small(context),
        swapped=min(swapped, size.blocks),
        checkpointing=bool(context.flag("gradient_checkpointing") or context.flag("cpu_offload_checkpointing") or swapped),
        optimizer_bytes=2 if "8bit" in str(context.flag("optimizer_type")).lower() else 8,
    )


def most_blocks(context: Context, family: str) -> int:
    """Blocks of the published model of a family that a local model is by its size, else of the largest one."""
    from library.families import registry, released
    from library.preflight.model_files import local_path, typed_model

    path, every = local_path(context, typed_model(context)), released.of(registry.get(family).SPEC.name)
    local = model_size(context).denoiser if path is not None and path.exists() else 0.0
    alike = [one.blocks for one in every if abs(one.denoiser * released.BILLION - local) < 0.05 * local]
    return max(alike or [one.blocks for one in every])


def blocks_to_swap(context: Context, free: float) -> int | None:
    """The smallest number of waiting blocks with which the run fits into ``free`` bytes; None where none does."""
    most = model_size(context).blocks
    return next((n for n in range(1, most + 1) if gpu_memory(context, n) <= 0.9 * free), None)


def adapter_parameters(context: Context) -> float:
    """Weights of the adapter, about: 0.57 million for each rank at the reference size, doubled by convolutions."""
    conv = 2.0 if any(str(w).startswith("conv_dim") for w in context.flag("network_args") or ()) else 1.0
    return adapter_size(context.flag("network_dim") or 4, model_size(context).denoiser) * conv


def adapter_size(dim: int, denoiser: float) -> float:
    """Weights of a plain LoRA on a denoiser with so many weights, about."""
    return 0.57e6 * dim * min(12.0, (denoiser / REFERENCE) ** 1.6)


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
