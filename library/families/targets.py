"""Which modules get the adapter, by role: presets for sliders and for the training methods of LECO and Concept Sliders.

A preset is a set of roles (``library.families.roles``), resolved on the modules that the loaded model really has; SimpleTuner's
literal lists of names, which match nothing on many models, are kept under ``simpletuner`` alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from library.families import roles, unet
from library.families.interface import Family, FamilySpec, Parts
from library.families.roles import CROSS, SELF, TEXT
from library.util.records import Problem, Target, UserError
from library.util.said import say

READS_TEXT = re.compile(r"\.to_(k|v|key|value)$")
Rule = Callable[[Target], bool]


def _roles(*names: str) -> Rule:
    return lambda target: target.role in names


PRESETS: dict[str, Rule] = {
    "auto": lambda target: target.role in (SELF, "projection") or target.conv_only,
    "visual": lambda target: target.role in (SELF, "projection", "in-out", "time") and not target.conv_only,
    "selfattn": _roles(SELF),
    "xattn": _roles(CROSS),
    "xattn-strict": lambda target: target.role == CROSS and bool(READS_TEXT.search(target.path)),
    "noxattn": lambda target: target.role not in (CROSS, "time", TEXT),
    "innoxattn": lambda target: target.role not in (CROSS, TEXT),
    "full": lambda target: True,
}
"""Preset -> which modules; ``simpletuner`` goes by names, see ``LITERAL``."""
SIMPLETUNER = "simpletuner"
ON_PURPOSE = frozenset({"xattn", "xattn-strict", "full"})
"""Presets that may touch what reads text."""
OWN_KERNELS = frozenset({"visual", "full", SIMPLETUNER})
"""Presets that take a module whatever its kernel, also where no ``conv_dim`` is given."""

_GENERAL = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn1.to_qkv", "to_qkv", "proj_in", "proj_out",
            "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
_VISUAL_STREAM = ("to_q", "to_k", "to_v", "to_out.0", "to_qkv")
LITERAL: Mapping[str, tuple[str, ...]] = {
    "FluxTransformer2DModel": _VISUAL_STREAM,
    "ChromaTransformer2DModel": _VISUAL_STREAM,
    "AuraFlowTransformer2DModel": _VISUAL_STREAM,
    "Flux2Transformer2DModel": (*_VISUAL_STREAM, "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0",
                                "attn.to_qkv_mlp_proj"),
    "Kandinsky5Transformer3DModel": ("attn1.to_query", "attn1.to_key", "attn1.to_value", "conv_in", "conv_out",
                                     "time_embedding.linear_1", "time_embedding.linear_2"),
}
"""Class of the denoiser -> the names that SimpleTuner's slider guide lists for it, compared with the ends of module paths;
classes that are not here have its general list. They are kept as they stand in the guide, matching or not."""


def literal_names(denoiser: Any) -> tuple[str, ...]:
    """SimpleTuner's list for a model."""
    return LITERAL.get(type(denoiser).__name__, _GENERAL)


def choose(family: Family, parts: Parts, preset: str) -> list[Target]:
    """The denoiser's modules that a preset names, in the model's order; text encoders are left out.

    Raises UserError for a preset that finds no attention module of this model, with the roles that it has.
    """
    return _chosen(denoiser_targets(family, parts), parts.denoiser, preset, family.SPEC)


def denoiser_targets(family: Family, parts: Parts) -> list[Target]:
    """Every module of the denoiser that may carry an adapter, by the family's rule or by a preset."""
    every = [target for target in family.adapter_targets(parts) if target.root == "denoiser"]
    known = {target.path for target in every}
    return every + [target for target in family.extra_targets(parts) if target.path not in known]


def choose_bare(denoiser: Any, preset: str) -> list[Target]:
    """The same for a bare model of diffusers that no family here knows."""
    every = [Target(unet.lora_name(path), path, "denoiser", module, "", bool(re.search("resnets|samplers", path)))
             for path, module in roles.layers(denoiser).items()]
    return _chosen(every, denoiser, preset, None)


def _chosen(every: Sequence[Target], denoiser: Any, preset: str, spec: FamilySpec | None) -> list[Target]:
    paths = roles.layers(denoiser).keys()
    every = [replace(target, role=roles.role(target.path, paths)) for target in every]
    if preset == SIMPLETUNER:
        names = tuple(f".{name}" for name in literal_names(denoiser))
        chosen = [target for target in every if f".{target.path}".endswith(names)]
    else:
        chosen = [target for target in every if PRESETS[preset](target)]
    if preset not in ON_PURPOSE:
        never = spec.never_touch if spec else ()
        chosen = [target for target in chosen if target.role != TEXT and not any(re.search(p, target.path) for p in never)]
    if not any(target.role in (SELF, CROSS) for target in chosen):
        raise UserError(_nothing(preset, spec.title if spec else type(denoiser).__name__, every))
    if preset in OWN_KERNELS:
        return [replace(target, conv_only=False, any_kernel=True) for target in chosen]
    return chosen


def _nothing(preset: str, title: str, every: Sequence[Target]) -> Problem:
    counts = ", ".join(f"{role} ({count})" for role, count in Counter(target.role for target in every).most_common())
    return Problem(
        "--slider_lora_target",
        say("{preset} names no attention module of {title}, which has: {counts}.", preset=preset, title=title, counts=counts),
        "Use --slider_lora_target auto.",
    )


def described(preset: str, targets: Sequence[Target]) -> str:
    """``visual: 128 Linear in 32 blocks`` for the log: what was adapted, by kind of layer."""
    kinds = Counter(type(target.module).__name__ for target in targets)
    blocks = Counter(roles.block(target.path) for target in targets)
    outside = blocks.pop(None, 0)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    where = f" in {len(blocks)} block{'' if len(blocks) == 1 else 's'}"
    return f"{preset}: {counted}{where}" + (f", {outside} of them outside the blocks" if outside else "")


def shared_with_text(spec: FamilySpec, targets: Sequence[Target]) -> int:
    """How many of the modules read words and picture with the same weights (joint blocks): text is not wholly left alone there."""
    return sum(any(re.search(pattern, target.path) for pattern in spec.joint_stream) for target in targets)
