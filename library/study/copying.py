"""Whether drawn pictures are training pictures over again: how near the nearest lies, measured in the model's own latents."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.study.diagnosis import Copied
from library.study.likeness import apart

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Pictured:
    """Latents CHW of one size, each with a name: a prompt, or a file."""

    names: Sequence[str]
    latents: Sequence[torch.Tensor]


def copies(drawn: Pictured, base: Pictured, training: Pictured) -> list[Copied]:
    """The nearest training picture of every drawn one, mirrored ones too.

    Distances are in parts of the median at which the base model's pictures of the same prompts and noise (``base``) have
    their nearest: they cannot be copies, and tell how much alike unrelated pictures of this kind are.
    """
    usual = statistics.median(_nearest(one, training)[0] for one in base.latents) or 1.0
    found = [(prompt, *_nearest(one, training)) for prompt, one in zip(drawn.names, drawn.latents, strict=True)]
    return [Copied(prompt, name, distance / usual) for prompt, distance, name in found]


def _nearest(one: torch.Tensor, training: Pictured) -> tuple[float, str]:
    """(distance, name) of the nearest training picture."""
    return min((min(apart(one, other), apart(one, other.flip(-1))), name)
               for name, other in zip(training.names, training.latents, strict=True))
