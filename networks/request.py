"""What a network is to be made from: the one record that the trainer hands to any adapter, ours or foreign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from library.util.records import Target


@dataclass(frozen=True)
class NetworkRequest:
    """What a network is to be made from."""

    targets: Sequence[Target]
    dim: int | None = None
    alpha: float | None = 1.0
    dropout: float | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    vae: Any = None
    text_encoders: Sequence[Any] = ()
    denoiser: Any = None
    multiplier: float = 1.0
    weights: Path | None = None
    """File to go on from (``--network_weights``)."""
    dim_from_weights: bool = False
    extra_targets: Sequence[Target] = ()
    """Modules that get no adapter by default but have a name in files: by an argument, a file, or a foreign module they may."""
    exact: bool = False
    """The targets were chosen one by one: a foreign module adapts these and no others."""
    train_denoiser: bool = True
    train_text_encoder: bool = True
