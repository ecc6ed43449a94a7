"""What tells a slider's two ends apart in a picture, found in latents alone.

A latent is described by a few numbers that do not depend on where things happen to stand: mean and spread of each
channel, and where what stands out from the mean lies (its centre and extent). Fisher's linear discriminant over these
is the axis. How far apart the ends lie on it is measured on pictures that were left out when it was found, so that few
pictures do not make it look longer than it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RIDGE = 0.3
"""Added to the discriminant's scatter, in parts of its mean variance: there are about as many pictures as numbers."""
CERTAIN = 4.0
"""Standard errors by which the ends must differ on left-out pictures; below, the axis is chance."""


@dataclass(frozen=True)
class Axis:
    """A direction in descriptions of latents."""

    weights_F: torch.Tensor
    half: float
    """Half the way between the ends: what strength 1 is asked to do."""
    certainty: float
    """The ends' distance on left-out pictures, in standard errors."""
    way_F: torch.Tensor
    """Half the difference of the ends' means, everything that comes along included."""

    @property
    def certain(self) -> bool:
        return self.half > 0 and self.certainty >= CERTAIN

    def along(self, described_NF: torch.Tensor) -> torch.Tensor:
        """Where each picture lies, N, in units of ``half``; only differences mean something."""
        return described_NF @ self.weights_F / self.half


def between(positive: Sequence[torch.Tensor], negative: Sequence[torch.Tensor], paired: bool = False) -> Axis | None:
    """The axis from ``negative`` to ``positive`` (latents CHW); None with fewer than three of a side.

    ``paired``: the pictures match one by one, and only what differs within a pair counts as scatter.
    """
    import torch

    if min(len(positive), len(negative)) < 3:
        return None
    above_NF, below_NF = described(positive), described(negative)
    inner_NF = torch.cat([above_NF - above_NF.mean(0), below_NF - below_NF.mean(0)])
    scale_F = inner_NF.std(0) + 1e-6
    way_F = (above_NF.mean(0) - below_NF.mean(0)) / 2
    above_NF, below_NF = above_NF / scale_F, below_NF / scale_F
    found = []
    for number in range(max(len(above_NF), len(below_NF))):
        one, other = number % len(above_NF), number % len(below_NF)
        weights_F = _direction(_without(above_NF, one), _without(below_NF, other), paired)
        found.append((above_NF[one] - below_NF[other]) @ weights_F)
    gaps = torch.stack(found)
    error = float(gaps.std()) / min(len(above_NF), len(below_NF)) ** 0.5
    return Axis(_direction(above_NF, below_NF, paired) / scale_F, float(gaps.mean()) / 2,
                float(gaps.mean()) / max(error, 1e-12), way_F)


def _without(rows_NF: torch.Tensor, number: int) -> torch.Tensor:
    import torch

    return torch.cat([rows_NF[:number], rows_NF[number + 1:]])


def _direction(above_NF: torch.Tensor, below_NF: torch.Tensor, paired: bool) -> torch.Tensor:
    """Fisher's discriminant with a ridge, of length 1."""
    import torch

    difference_F = above_NF.mean(0) - below_NF.mean(0)
    if paired:
        within_NF = above_NF - below_NF - difference_F
    else:
        within_NF = torch.cat([above_NF - above_NF.mean(0), below_NF - below_NF.mean(0)])
    scatter_FF = within_NF.T @ within_NF / len(within_NF)
    ridge = RIDGE * float(scatter_FF.trace()) / len(scatter_FF) + 1e-9
    weights_F = torch.linalg.solve(scatter_FF + ridge * torch.eye(len(scatter_FF), dtype=scatter_FF.dtype), difference_F)
    return weights_F / weights_F.norm().clamp_min(1e-12)


def described(latents: Sequence[torch.Tensor]) -> torch.Tensor:
    """Latents CHW, of any sizes -> NF on the CPU: means and log spreads of the channels, centre and extent of what stands out."""
    import torch

    return torch.stack([_described(one.detach().double().cpu()) for one in latents])


def _described(latent_CHW: torch.Tensor) -> torch.Tensor:
    import torch

    mean_C = latent_CHW.mean((1, 2))
    rest_CHW = latent_CHW - mean_C[:, None, None]
    energy_HW = (rest_CHW**2).sum(0)
    energy_HW = energy_HW / energy_HW.sum().clamp_min(1e-12)
    x_W, y_H = (torch.linspace(-1, 1, side, dtype=energy_HW.dtype) for side in (energy_HW.shape[1], energy_HW.shape[0]))
    columns_W, rows_H = energy_HW.sum(0), energy_HW.sum(1)
    centre_2 = torch.stack([columns_W @ x_W, rows_H @ y_H])
    extent_2 = (torch.stack([columns_W @ x_W**2, rows_H @ y_H**2]) - centre_2**2).clamp_min(0).sqrt()
    return torch.cat([mean_C, (rest_CHW**2).mean((1, 2)).clamp_min(1e-12).log() / 2, centre_2, extent_2])
