"""What is to be drawn: options of a run, filled prompt lines, and the batches they are sorted into."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from library.families.interface import Family
from library.sample.prompts import PromptLine, with_defaults
from library.util.records import Cond

DEFAULTS: Mapping[str, Any] = {"steps": 30, "scale": 7.5, "negative_prompt": ""}
"""kohya's, for what neither line nor family decides."""


@dataclass(frozen=True)
class SampleOptions:
    """How sample pictures are drawn; what follows from the run, not from the prompt."""

    sampler: str = "ddim"
    schedule: Any = None
    """The training schedule of an eps or v model; None = the family's plain one."""
    device: Any = "cpu"
    autocast: Literal["no", "fp16", "bf16"] = "no"
    pixels: int = 512 * 512
    """Pixels of one batch at most: 64 pictures of 64x64, one of 512x512."""
    strength: float | None = None
    """Adapter strength of lines that carry none."""
    at_strength: Callable[[float], AbstractContextManager[Any]] | None = None
    """Runs the adapter at a strength inside a block."""
    extra: Callable[[], AbstractContextManager[Any]] | None = None
    """Applies further LoRAs inside a block."""
    modules: tuple[Any, ...] = ()
    """Modules beside the model's own that are put in evaluation mode meanwhile: the adapter."""
    conds: Mapping[str, Cond] = field(default_factory=dict)
    """Texts that are encoded already (``encode_prompts``), for runs whose text encoders are freed."""
    replace: tuple[str, str] | None = None
    """A word of the prompts and what stands for it (textual inversion)."""


@dataclass(frozen=True)
class Job:
    """Lines that are drawn in one batch: same size, steps, sampler, guidance inputs, strength."""

    lines: tuple[PromptLine, ...]
    positions: tuple[int, ...]

    @property
    def first(self) -> PromptLine:
        return self.lines[0]

    @property
    def guided(self) -> bool:
        return (self.first.scale or 0.0) > 1.0


def fill(family: Family, line: PromptLine, options: SampleOptions) -> PromptLine:
    """Settle what a line leaves open (family, then kohya's defaults) and round its size to what the model can draw."""
    spec = family.SPEC
    side = spec.default_resolution
    line = with_defaults(line, {"sampler": options.sampler, "adapter_strength": options.strength})
    line = with_defaults(with_defaults(line, spec.sampling_defaults), {**DEFAULTS, "width": side, "height": side})
    if options.replace is not None:
        word, instead = options.replace
        line = replace(line, prompt=line.prompt.replace(word, instead),
                       negative_prompt=(line.negative_prompt or "").replace(word, instead))
    unit = spec.vae_factor
    smallest = min(64, side)
    width, height = (max(smallest, length // unit * unit) for length in (line.width, line.height))
    return replace(line, width=width, height=height)


def jobs(lines: Sequence[PromptLine], pixels: int) -> list[Job]:
    """Sort filled lines into batches of at most ``pixels`` pixels, keeping their order within a batch."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for position, line in enumerate(lines):
        key = (line.width, line.height, line.steps, line.sampler, (line.scale or 0.0) > 1.0, line.guidance_scale,
               line.flow_shift, line.adapter_strength, line.cfg_trunc_ratio, line.renorm_cfg)
        groups.setdefault(key, []).append(position)
    found = []
    for positions in groups.values():
        first = lines[positions[0]]
        size = max(1, pixels // (first.width * first.height))
        for start in range(0, len(positions), size):
            chosen = tuple(positions[start:start + size])
            found.append(Job(tuple(lines[position] for position in chosen), chosen))
    return found
