"""Text outputs that are left out at random while training: ``--clip_l_dropout_rate`` and its kin."""

from __future__ import annotations

import random
from typing import Any

from library.families.interface import FamilySpec
from library.util.records import Cond


def at_random(spec: FamilySpec, options: Any, cond: Cond) -> Cond:
    """The conditioning with what the dropout rates hit set to zero, caption by caption; draws of Python's generator."""
    rated = [(rate, spec.cond_dropout[name]) for name in spec.cond_dropout if (rate := getattr(options, name))]
    if not rated:
        return cond
    found = dict(cond)
    for rate, shares in rated:
        kept = [random.random() >= rate for _ in next(iter(cond.values()))]
        for share in shares:
            found[share.key] = _without(found[share.key], share.start, share.end, kept)
    return found


def _without(value: Any, start: float, end: float, kept: list[bool]) -> Any:
    """``value`` B,...,C with a share of its last axis zero where a caption is not kept; gradients flow through the rest."""
    import torch

    width = value.shape[-1]
    mask = torch.ones(len(kept), *value.shape[1:], dtype=value.dtype, device=value.device)
    mask[[not one for one in kept], ..., round(start * width) : round(end * width)] = 0
    return value * mask
