"""A LoRA from what sets a tuned model apart from the one it came from: one layer in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.lorafile import kinds
from library.lorafile.factors import Svd, clamped, full_svd, lost, random_svd
from library.lorafile.modelfile import ModelFile, Slot, fused
from library.lorafile.work import each
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys

if TYPE_CHECKING:
    import torch


ROOM = 4_000_000_000
"""Bytes that the weights of the modules being compared may take together, however many threads there are."""


@dataclass(frozen=True)
class ExtractRequest:
    """How the difference is cut."""

    dim: int = 4
    conv_dim: int | None = None
    """Rank of kernels above 1x1; None leaves them out."""
    clamp_quantile: float = 0.99
    """Both factors are limited to this quantile of their values (kohya's); 1 = not at all."""
    min_diff: float = 0.01
    """Text encoders are left out where no value differs by more."""
    exact: bool = False
    """Full SVD instead of the randomised one."""
    device: str | None = None


@dataclass(frozen=True)
class Extracted:
    """How one module came out."""

    stem: str
    rank: int
    lost: float
    """Squared Frobenius norm of what the module does not hold."""
    whole: float
    """Squared Frobenius norm of the difference."""
    largest: float
    """Largest difference of a single value."""


def difference(name: str, tuned: Sequence[Slot], original: Sequence[Slot]) -> torch.Tensor:
    """tuned - original in fp32, in the module's shape; the layers of a fused module below each other.

    Raises UserError where the sizes differ.
    """
    import torch

    def minus(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        if after.shape != before.shape:
            told = say("{after} in the tuned model, {before} in the original", after=keys.shape_text(after.shape),
                       before=keys.shape_text(before.shape))  # fmt: skip
            raise UserError(
                Problem("--model_tuned", say("{name} is {told}.", name=name, told=told), "Give two models of one architecture.")
            )
        return after.sub_(before)  # in place: it was read for this alone

    deltas = [minus(a.read(), b.read()) for a, b in zip(tuned, original, strict=True)]
    delta = deltas[0] if len(deltas) == 1 else torch.cat(deltas)
    # Files name the original's module, whose halves may stand in the other order.
    return torch.cat(delta.chunk(2)[::-1]) if tuned[0].target.halves_swapped else delta


def decompose(delta: torch.Tensor, rank: int, request: ExtractRequest) -> tuple[torch.Tensor, torch.Tensor]:
    """(up [m, r], down [r, n]) of a difference [m, n]: its first singular parts, clamped as asked."""
    rank = min(rank, *delta.shape)
    svd: Svd = full_svd(delta).cut(rank) if request.exact else random_svd(delta, rank)
    return clamped(*svd.factors(), request.clamp_quantile)


def extract(original: ModelFile, tuned: ModelFile, request: ExtractRequest) -> tuple[keys.Modules, list[Extracted]]:
    """Modules of the tuned model's LoRA, alpha = rank, and how well each holds the difference.

    Raises UserError where the models are not of one architecture, or do not differ at all.
    """
    if original.family.SPEC.name != tuned.family.SPEC.name:
        told = f"{original.family.SPEC.title} and {tuned.family.SPEC.title}"
        raise UserError(Problem("--model_tuned", say("The two models are of different architectures: {told}.", told=told),
                                "Give the model that the tuned one was trained from as --model_org."))
    before = fused(list(original.slots.values()))
    usual = [slot for name, slot in tuned.slots.items() if name in tuned.usual]
    groups = {name: group for name, group in fused(usual).items()
              if name in before and _rank_for(group[0], request)}

    def one(name: str) -> tuple[dict, Extracted]:
        delta = difference(name, groups[name], before[name]).to(request.device or "cpu")
        flat = delta.flatten(1)
        kernel = tuple(delta.shape[2:])
        up, down = decompose(flat, _rank_for(groups[name][0], request), request)
        report = Extracted(name, len(down), *lost(flat, up, down), float(max(flat.max(), -flat.min())))
        return kinds.as_lora((up, down), kernel, float(len(down)), up.dtype), report

    done = list(each("extracting", list(groups), one, request.device, at_once(list(groups.values()))))
    reports = [report for _, report in done]
    if not any(report.whole for report in reports):
        raise UserError(Problem("--model_tuned", "The two models do not differ in any layer that a LoRA can hold.",
                                "Check that the two paths are not of the same model."))
    texts = {name for name, group in groups.items() if group[0].target.root != "denoiser"}
    if max((r.largest for r in reports if r.stem in texts), default=math.inf) > request.min_diff:
        texts = set()
    kept = [(name, parts, r) for name, (parts, r) in zip(groups, done, strict=True) if name not in texts]
    return {name: parts for name, parts, _ in kept}, [r for _, _, r in kept]


def at_once(groups: Sequence[Sequence[Slot]]) -> int:
    """How many modules may be in memory at the same time: two copies of the largest in fp32 each, ``ROOM`` together."""
    largest = max((sum(slot.target.module.weight.numel() for slot in group) for group in groups), default=1)
    return max(1, ROOM // (2 * 4 * largest))


def _rank_for(slot: Slot, request: ExtractRequest) -> int | None:
    """Rank of a module; None where it gets none (conv_dim is not given)."""
    target = slot.target
    if target.conv_only or target.module.weight.dim() == 4:
        kernel = target.module.weight.shape[2:]
        if any(k > 1 for k in kernel) or (target.conv_only and request.conv_dim is None):
            return request.conv_dim
    return request.dim


def error_of(reports: Sequence[Extracted]) -> float:
    """Part of the difference that the LoRA does not hold (Frobenius norm over all modules, 0..1)."""
    whole = sum(r.whole for r in reports)
    return math.sqrt(sum(r.lost for r in reports) / whole) if whole else 0.0


def metadata_of(original: ModelFile, request: ExtractRequest, title: str, only_needed: bool) -> dict[str, str]:
    """Metadata as kohya's tool writes them: module, dim, alpha, base version and, unless only_needed, modelspec."""
    import json
    import time

    family = original.family
    kept = {"ss_network_module": "networks.lora", "ss_network_dim": str(request.dim),
            "ss_network_alpha": str(float(request.dim)), "ss_base_model_version": family.base_version(original.options)}
    if request.conv_dim is not None:
        kept["ss_network_args"] = json.dumps({"conv_dim": request.conv_dim, "conv_alpha": float(request.conv_dim)})
    if only_needed:
        return kept
    return kept | {"modelspec.sai_model_spec": "1.0.1", "modelspec.title": title,
                   "modelspec.architecture": f"{family.architecture(original.options)}/lora",
                   "modelspec.implementation": "diffusers", "modelspec.date": time.strftime("%Y-%m-%dT%H:%M:%S")}
