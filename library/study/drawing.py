"""A model opened for drawing and measuring: whatever was trained here can be compared here, of any family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from library.families import detect, registry
from library.families.interface import Family, LoadRequest, Parts
from library.sample.jobs import SampleOptions
from library.util.records import Problem, UserError
from library.util.said import say


@dataclass(frozen=True)
class Drawing:
    """A loaded model, frozen, on its device."""

    family: Family
    parts: Parts
    source: str
    options: SampleOptions


@dataclass(frozen=True)
class Asked:
    """Which model, and how it is to be loaded."""

    source: str
    values: Mapping[str, Any] = field(default_factory=dict)
    """Values of the family's own options by flag name (``clip_skip``, ``v_parameterization``, ...)."""
    vae: str | None = None
    device: str | None = None
    """None: a GPU where there is one."""
    sampler: str | None = None


def no_model(source: str, found: detect.Found) -> Problem:
    """What stands behind a name instead of a base model."""
    damaged = found.kind == "damaged"  # whose words begin with the file's name
    return Problem("--pretrained_model_name_or_path",
                   say("{what}.", what=found.what) if damaged else say('"{source}" is {what}.', source=source, what=found.what),
                   "Give the base model that the LoRA was trained on: a checkpoint, a diffusers folder or a hub id.")


def open_model(asked: Asked) -> Drawing:
    """Load a model for drawing: in half precision on a GPU, in fp32 elsewhere. UserError where it is none."""
    import torch

    found = detect.identify(asked.source)
    if found.family is None:
        raise UserError(no_model(asked.source, found))
    family = registry.get(found.family)
    device = asked.device or str(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    half = "bf16" if family.SPEC.target_space == "flow" else "fp16"
    dtype = "fp32" if device.startswith("cpu") else half
    values = dict(found.hints) | {name: value for name, value in asked.values.items() if value is not None}
    parts = family.load(LoadRequest(
        source=asked.source, options=registry.make_options(family, values), dtype=dtype, vae=asked.vae, device=device,
        vae_dtype="fp32" if family.SPEC.fragile_half_vae else dtype))
    for part in (parts.denoiser, parts.vae, *parts.text_encoders):
        part.requires_grad_(False).eval()
    more = {"sampler": asked.sampler} if asked.sampler else {}
    options = SampleOptions(device=torch.device(device), autocast="no" if dtype == "fp32" else dtype, **more)
    return Drawing(family, parts, asked.source, options)
