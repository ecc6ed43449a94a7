"""The models that were published of each architecture: how large they are, where they lie, under which licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from library.families import source

BILLION = 1e9


@dataclass(frozen=True)
class Released:
    """One published model; numbers of weights in billions."""

    name: str
    denoiser: float
    text: float
    vae: float
    blocks: int
    """Repeated blocks of the denoiser, of which ``--blocks_to_swap`` lets some wait."""
    licence: str
    folder: str | None
    """Hub repository in diffusers' layout."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Flag -> single file, as ``owner/name/path`` on the hub."""
    gated: bool = False
    """True where the hub wants a login and a click on the terms."""
    remark: str = ""
    """What a user of this model must know, for the page."""


def of(family: str) -> tuple[Released, ...]:
    """Published models of a family, the one to begin with first."""
    return tuple(Released(**entry) for entry in source.asset("released.json")[family])


def nearest(family: str, denoiser: float) -> Released:
    """The published model whose denoiser has nearly so many weights (a count, not billions)."""
    return min(of(family), key=lambda one: abs(one.denoiser * BILLION - denoiser))
