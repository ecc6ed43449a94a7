"""Conditioning of several prompts as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from library.families.interface import PadRule
from library.util.records import Cond

if TYPE_CHECKING:
    import torch


def concatenate(conds: Sequence[Cond], padding: Mapping[str, PadRule]) -> Cond:
    """Join conditionings along their first axis, padding tensors of differing length as the family's spec says."""
    return {key: _join([cond[key] for cond in conds], padding.get(key, PadRule())) for key in conds[0]}


def _join(values: list[Any], rule: PadRule) -> Any:
    import torch

    if isinstance(values[0], list):
        return [one for value in values for one in value]
    if rule.dim is not None:
        longest = max(value.shape[rule.dim] for value in values)
        values = [_pad(value, rule, longest) for value in values]
    return torch.cat(values)


def _pad(value: torch.Tensor, rule: PadRule, length: int) -> torch.Tensor:
    import torch

    dim = rule.dim % value.dim()
    missing = length - value.shape[dim]
    if missing == 0:
        return value
    shape = [*value.shape[:dim], missing, *value.shape[dim + 1:]]
    return torch.cat([value, value.new_full(shape, rule.value)], dim)


def to_device(value: Any, device: Any) -> Any:
    """Move a tensor of a conditioning, or its list of tensors."""
    return [to_device(one, device) for one in value] if isinstance(value, list) else value.to(device)
