"""Which modules get the adapter, by role: presets for sliders and for the training methods of LECO and Concept Sliders.

A preset is a set of roles, resolved on the modules that the loaded model really has; literal lists of names, which match
nothing on many models, are kept under ``simpletuner`` alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from library.families.interface import Family, FamilySpec, Parts
from library.util.records import Problem, Target, UserError

SELF, CROSS = "self-attention", "cross-attention"
SIMPLETUNER = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn1.to_qkv", "to_qkv", "proj_in", "proj_out",
               "conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
"""The general list of SimpleTuner's slider preset, compared with the ends of module paths."""
READS_TEXT = re.compile(r"\.to_[kv]$")
Rule = Callable[[Target], bool]


def _roles(*names: str) -> Rule:
    return lambda target: target.role in names


PRESETS: dict[str, Rule] = {
    "auto": lambda target: target.role in (SELF, "projection") or target.conv_only,
    "visual": _roles(SELF, "projection", "time", "conv"),
    "selfattn": _roles(SELF),
    "xattn": _roles(CROSS),
    "xattn-strict": lambda target: target.role == CROSS and bool(READS_TEXT.search(target.path)),
    "noxattn": lambda target: target.role not in (CROSS, "time", "text-stream"),
    "innoxattn": lambda target: target.role not in (CROSS, "text-stream"),
    "full": lambda target: True,
    "simpletuner": lambda target: f".{target.path}".endswith(tuple(f".{name}" for name in SIMPLETUNER)),
}
ON_PURPOSE = frozenset({"xattn", "xattn-strict", "full"})
"""Presets that may touch what reads text."""
OWN_KERNELS = frozenset({"visual", "full", "simpletuner"})
"""Presets that take a module whatever its kernel, also where no ``conv_dim`` is given."""


def choose(family: Family, parts: Parts, preset: str) -> list[Target]:
    """The denoiser's modules that a preset names, in the model's order; text encoders are left out.

    Raises UserError for a preset that finds no attention module of this model, with the roles that it has.
    """
    rule, spec = PRESETS[preset], family.SPEC
    every = [target for target in family.adapter_targets(parts) if target.root == "denoiser"]
    known = {target.path for target in every}
    every += [target for target in family.extra_targets(parts) if target.path not in known]
    chosen = [target for target in every if rule(target) and (preset in ON_PURPOSE or not _reads_text(target, spec))]
    if not any(target.role in (SELF, CROSS) for target in chosen):
        raise UserError(_nothing(preset, spec, every))
    if preset in OWN_KERNELS:
        return [replace(target, conv_only=False) for target in chosen]
    return chosen


def _reads_text(target: Target, spec: FamilySpec) -> bool:
    return target.role == "text-stream" or any(re.search(pattern, target.path) for pattern in spec.never_touch)


def _nothing(preset: str, spec: FamilySpec, every: list[Target]) -> Problem:
    counts = ", ".join(f"{role} ({count})" for role, count in Counter(target.role for target in every).most_common())
    return Problem("--slider_lora_target", f"{preset} names no attention module of {spec.title}, which has: {counts}.",
                   "Use --slider_lora_target auto.")


def described(preset: str, targets: list[Target]) -> str:
    """``visual: 100 modules in 9 blocks`` for the log."""
    blocks = {target.path.rsplit(".transformer_blocks", 1)[0].rsplit(".attn", 1)[0] for target in targets}
    return f"{preset}: {len(targets)} modules in {len(blocks)} blocks"
