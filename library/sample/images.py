"""Sample pictures: drawn in batches, the same for a seed whatever is drawn beside it, leaving training undisturbed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.families.interface import Family, Parts
from library.sample import samplers
from library.sample.conds import to_device
from library.sample.denoise import autocast, denoised, draw
from library.sample.jobs import SampleOptions, fill, jobs
from library.sample.prompts import PromptLine
from library.sample.undisturbed import undisturbed
from library.util.records import Cond
from library.util.said import say
from library.util.secrets import mask

if TYPE_CHECKING:
    import torch
    from PIL import Image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where and under what name sample pictures go."""

    folder: Path
    """The run's output folder; pictures lie in ``sample/`` in it."""
    output_name: str | None
    step: int
    epoch: int | None = None
    """Given at the end of an epoch: the names then carry it in place of the step."""


@dataclass(frozen=True)
class Drawn:
    """A sample picture that was written."""

    path: Path
    line: PromptLine
    step: int
    epoch: int | None = None


def generate(family: Family, parts: Parts, lines: Sequence[PromptLine],
             options: SampleOptions | None = None) -> list[Image.Image]:
    """Draw one picture for each line, in the lines' order.

    A line's picture follows from its own seed: drawing it alone or among others gives the same up to rounding.
    """
    drawn: dict[int, Image.Image] = {}
    _draw_all(family, parts, lines, options or SampleOptions(), drawn.__setitem__)
    return [drawn[position] for position in range(len(lines))]


def draw_latents(family: Family, parts: Parts, lines: Sequence[PromptLine], options: SampleOptions) -> torch.Tensor:
    """The latents of one picture for each line, BCHW; all lines have one size."""
    import torch

    filled = [fill(family, line, options) for line in lines]
    found: dict[int, torch.Tensor] = {}
    with undisturbed(parts, options.device, options.modules), autocast(options):
        for job in jobs(filled, options.pixels):
            found |= zip(job.positions, denoised(family, parts, job, options), strict=True)
    return torch.stack([found[position] for position in range(len(lines))])


def draw_samples(family: Family, parts: Parts, lines: Sequence[PromptLine], options: SampleOptions,
                 place: Place) -> list[Drawn]:
    """Draw the pictures of ``lines`` into ``sample/`` under kohya's names and say where they are."""
    folder = place.folder / "sample"
    folder.mkdir(parents=True, exist_ok=True)
    log.info(say("drawing {count:sample picture|sample pictures} at step {step}", count=len(lines), step=place.step))
    written: dict[int, Drawn] = {}

    def write(position: int, picture: Image.Image) -> None:
        line = lines[position]
        path = folder / file_name(place, line, time.localtime())
        save_png(picture, path, describe(fill(family, line, options)))
        written[position] = Drawn(path, line, place.step, place.epoch)

    _draw_all(family, parts, lines, options, write)
    return [written[position] for position in range(len(lines))]


def file_name(place: Place, line: PromptLine, when: time.struct_time) -> str:
    """kohya's name of a sample: ``NAME_e000001_00_20260101120000_42.png``, by step ``NAME_000100_00_...``."""
    name = f"{place.output_name}_" if place.output_name else ""
    number = f"{place.step:06d}" if place.epoch is None else f"e{place.epoch:06d}"
    seed = "" if line.seed is None else f"_{line.seed}"
    return f"{name}{number}_{line.index:02d}_{time.strftime('%Y%m%d%H%M%S', when)}{seed}.png"


def describe(line: PromptLine) -> str:
    """A line and its settings as image programs write them into a PNG."""
    settings = {"Steps": line.steps, "Sampler": line.sampler, "CFG scale": line.scale, "Seed": line.seed,
                "Adapter strength": line.adapter_strength}
    shown = ", ".join(f"{key}: {value}" for key, value in settings.items() if value is not None)
    negative = f"\nNegative prompt: {line.negative_prompt}" if line.negative_prompt else ""
    return mask(f"{line.prompt}{negative}\n{shown}")


def save_png(picture: Image.Image, path: Path, text: str = "") -> None:
    """Write a PNG with its settings inside, whole or not at all."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if text:
        info.add_itxt("parameters", text)
    half = path.with_name(path.name + ".tmp")
    picture.save(half, format="PNG", pnginfo=info)
    os.replace(half, path)


def encode_prompts(family: Family, parts: Parts, lines: Sequence[PromptLine],
                   options: SampleOptions | None = None) -> dict[str, Cond]:
    """Encode every text of the lines once, on the CPU, for ``SampleOptions.conds``."""
    options = options or SampleOptions()
    filled = [fill(family, line, options) for line in lines]
    texts = dict.fromkeys(text for line in filled for text in (line.prompt, line.negative_prompt or ""))
    with undisturbed(parts, options.device, options.modules), autocast(options):
        return {text: {key: to_device(value, "cpu") for key, value in family.encode_text(parts, [text]).items()}
                for text in texts}


def _draw_all(family: Family, parts: Parts, lines: Sequence[PromptLine], options: SampleOptions,
              take: Callable[[int, Image.Image], None]) -> None:
    """Draw the lines batch by batch and hand over (position, picture) as they come."""
    filled = [fill(family, line, options) for line in lines]
    if family.SPEC.target_space != "flow":
        for name in {line.sampler for line in filled}:
            samplers.find(name)
    for line in filled:
        if line.controlnet_image is not None:
            log.warning("%s: control images play no part in sample pictures of a LoRA; the picture is drawn without %s",
                        line.prompt[:40], line.controlnet_image)
    further = nullcontext() if options.extra is None else options.extra()
    with undisturbed(parts, options.device, options.modules), further:
        for job in jobs(filled, options.pixels):
            for position, picture in zip(job.positions, draw(family, parts, job, options), strict=True):
                take(position, picture)
