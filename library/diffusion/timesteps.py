"""Distributions from which flow models draw their sigmas, and the weights that go with them.

Each sampler is (count, latent (height, width)) -> sigmas in (0, 1) from torch's global generator. Names are those of
kohya's ``--timestep_sampling`` and SD3's ``--weighting_scheme`` (Esser et al. 2024, section 3.1 and appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

Sampler = Callable[[int, tuple[int, int]], torch.Tensor]


def shift_sigmas(sigmas: torch.Tensor, shift: float) -> torch.Tensor:
    """Move sigmas towards noise: s sigma / (1 + (s - 1) sigma)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def mu_shift(sigmas: torch.Tensor, mu: float) -> torch.Tensor:
    """The same in Flux's parametrisation: e^mu / (e^mu + 1/sigma - 1), i.e. a shift of e^mu."""
    return shift_sigmas(sigmas, math.exp(mu))


@dataclass(frozen=True)
class MuRange:
    """mu linear in the number of image tokens, between two points (Flux: 256 -> 0.5, 4096 -> 1.15)."""

    tokens: tuple[int, int] = (256, 4096)
    mus: tuple[float, float] = (0.5, 1.15)
    patch: int = 2

    def __call__(self, latent_size: tuple[int, int]) -> float:
        count = (latent_size[0] // self.patch) * (latent_size[1] // self.patch)
        slope = (self.mus[1] - self.mus[0]) / (self.tokens[1] - self.tokens[0])
        return self.mus[0] + slope * (count - self.tokens[0])


def uniform() -> Sampler:
    return lambda count, size: torch.rand(count)


def sigmoid(scale: float = 1.0) -> Sampler:
    return lambda count, size: torch.sigmoid(scale * torch.randn(count))


def shifted(shift: float, scale: float = 1.0) -> Sampler:
    return lambda count, size: shift_sigmas(torch.sigmoid(scale * torch.randn(count)), shift)


def resolution_shifted(mu: Callable[[tuple[int, int]], float], scale: float = 1.0) -> Sampler:
    """Sigmoid draws shifted by a mu that follows from the picture's size (``flux_shift`` and its kin)."""
    return lambda count, size: mu_shift(torch.sigmoid(scale * torch.randn(count)), mu(size))


def uniform_shifted(mu: Callable[[tuple[int, int]], float]) -> Sampler:
    """Uniform draws shifted by a mu that follows from the picture's size (``nextdit_shift``)."""
    return lambda count, size: mu_shift(torch.rand(count), mu(size))


def logit_normal(mean: float = 0.0, std: float = 1.0) -> Sampler:
    return lambda count, size: torch.sigmoid(mean + std * torch.randn(count))


def mode(scale: float = 1.29) -> Sampler:
    """Mode sampling with heavy tails (Esser et al. 2024, equation 20)."""

    def draw(count: int, size: tuple[int, int]) -> torch.Tensor:
        u = torch.rand(count)
        return 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)

    return draw


def discrete(density: Sampler, shift: float = 1.0, count_steps: int = 1000) -> Sampler:
    """Draws rounded to the sigmas of a flow-matching Euler scheduler of 1000 steps (kohya's ``sigma`` sampling)."""
    table = shift_sigmas(torch.linspace(1, 1 / count_steps, count_steps), shift)
    return lambda count, size: table[(density(count, size) * count_steps).long().clamp(0, count_steps - 1)]


def weight_sigma_sqrt(sigmas_B: torch.Tensor) -> torch.Tensor:
    return sigmas_B.float() ** -2.0


def weight_cosmap(sigmas_B: torch.Tensor) -> torch.Tensor:
    return 2 / (math.pi * (1 - 2 * sigmas_B + 2 * sigmas_B**2))


WEIGHTS: dict[str, Callable[[torch.Tensor], torch.Tensor] | None] = {
    "none": None, "uniform": None, "logit_normal": None, "mode": None,
    "sigma_sqrt": weight_sigma_sqrt, "cosmap": weight_cosmap,
}
