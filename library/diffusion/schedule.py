"""Noise schedules: how far a picture is noised, what the network should answer, and how noisy that is.

Every schedule answers the same four questions (draw, add_noise, target, snr) in one convention: a timestep is a
number in 0..1000 that grows with noise, sigma 1 is pure noise. Torch only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

TargetSpace = Literal["eps", "v", "flow"]


@dataclass(frozen=True)
class Noised:
    """A noised batch: ``x_BCHW`` is what the network sees, ``noise_BCHW`` what was mixed in.

    ``timesteps_B`` is int64 in 0..999 for the discrete schedules and float in (0, 1000] for flow, where
    ``sigmas_B`` (float in (0, 1]) is set too.
    """

    x_BCHW: torch.Tensor
    noise_BCHW: torch.Tensor
    timesteps_B: torch.Tensor
    sigmas_B: torch.Tensor | None = None


class Schedule(Protocol):
    """What the training step asks of a schedule."""

    space: TargetSpace

    def draw(self, count: int, latent_size: tuple[int, int]) -> torch.Tensor:
        """Timesteps of ``count`` pictures, on the CPU, from torch's global generator."""

    def add_noise(self, x0_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> Noised: ...

    def target(self, x0_BCHW: torch.Tensor, noised: Noised) -> torch.Tensor:
        """What a perfect network would predict, in ``space``."""

    def compared(self, prediction_BCHW: torch.Tensor, noised: Noised) -> torch.Tensor:
        """What of a prediction the loss compares with ``target``; mostly the prediction itself."""

    def snr(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Signal-to-noise ratio, power of signal over power of noise."""

    def in_picture(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Squared error of the clean picture for one of the answer, float B: what x0 moves when the answer moves."""

    def moved(self, change_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        """How the network's own answer to a noised picture changes where the clean picture is to change by so much."""

    def weight(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        """Loss weight that goes with the way timesteps are drawn, float B; 1 where there is none."""


SMALLEST_BAR = 1 / 400
"""Share of signal below which noise tells nothing of a picture: half of what Stable Diffusion's last timestep has."""


def per_item(values_B: torch.Tensor, like_BCHW: torch.Tensor) -> torch.Tensor:
    """Shape B values so that they multiply a BCHW tensor, in its dtype and on its device."""
    return values_B.to(like_BCHW.device, like_BCHW.dtype).view(-1, *([1] * (like_BCHW.dim() - 1)))


def scaled_linear_betas(start: float = 0.00085, end: float = 0.012, count: int = 1000) -> torch.Tensor:
    """Betas of Stable Diffusion: linear in their square roots (diffusers' ``scaled_linear``)."""
    return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2


def rescale_zero_terminal_snr(betas: torch.Tensor) -> torch.Tensor:
    """Shift and scale betas so that the last timestep is pure noise (Lin et al. 2024, algorithm 1)."""
    root = (1.0 - betas).cumprod(0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    bar = root**2
    alphas = torch.cat([bar[:1], bar[1:] / bar[:-1]])
    return 1.0 - alphas


@dataclass(frozen=True)
class DiscreteSchedule:
    """A DDPM schedule of ``len(alphas_cumprod)`` steps predicting noise or velocity (Ho 2020; Salimans 2022)."""

    alphas_cumprod: torch.Tensor
    space: TargetSpace = "eps"
    first: int = 0
    """Smallest timestep that is drawn."""
    last: int = 1000
    """One above the largest timestep that is drawn."""

    def draw(self, count: int, latent_size: tuple[int, int]) -> torch.Tensor:
        if self.first >= self.last:
            return torch.full((count,), self.last, dtype=torch.int64)
        return torch.randint(self.first, self.last, (count,), device="cpu")

    def _mix(self, timesteps_B: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        bar = self.alphas_cumprod[timesteps_B.cpu()].to(like.dtype)
        return per_item(bar.sqrt(), like), per_item((1.0 - bar).sqrt(), like)

    def add_noise(self, x0_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> Noised:
        signal, sigma = self._mix(timesteps_B, x0_BCHW)
        return Noised(signal * x0_BCHW + sigma * noise_BCHW, noise_BCHW, timesteps_B)

    def target(self, x0_BCHW: torch.Tensor, noised: Noised) -> torch.Tensor:
        if self.space == "eps":
            return noised.noise_BCHW
        signal, sigma = self._mix(noised.timesteps_B, x0_BCHW)
        return signal * noised.noise_BCHW - sigma * x0_BCHW

    def compared(self, prediction_BCHW: torch.Tensor, noised: Noised) -> torch.Tensor:
        return prediction_BCHW

    def snr(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        bar = self.alphas_cumprod[timesteps_B.cpu()]
        return bar / (1.0 - bar)

    def in_picture(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        bar = self.alphas_cumprod[timesteps_B.cpu()]
        return (1.0 - bar) / bar.clamp_min(SMALLEST_BAR) if self.space == "eps" else 1.0 - bar

    def moved(self, change_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        signal, sigma = self._mix(timesteps_B, change_BCHW)
        return -change_BCHW / sigma * (signal if self.space == "eps" else 1.0)

    def weight(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(timesteps_B))


def ddpm(space: TargetSpace = "eps", first: int | None = None, last: int | None = None,
         zero_terminal_snr: bool = False, betas: torch.Tensor | None = None) -> DiscreteSchedule:
    """Make the schedule of an SD-like model; ``first``/``last`` are ``--min_timestep`` / ``--max_timestep``."""
    betas = scaled_linear_betas() if betas is None else betas
    if zero_terminal_snr:
        betas = rescale_zero_terminal_snr(betas)
    bar = (1.0 - betas).cumprod(0)
    return DiscreteSchedule(bar, space, 0 if first is None else first, len(bar) if last is None else last)


@dataclass(frozen=True)
class Reading:
    """What the loss of a flow model compares, as a function of velocity v = noise - x0, noised x and sigma."""

    of: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    of_picture: bool = False
    """True where it is compared with the clean latents instead of with the velocity."""


RAW = Reading(lambda v, x, sigma: v)
PICTURE = Reading(lambda v, x, sigma: x - sigma * v, of_picture=True)
"""The clean latents that a velocity stands for, compared with the true ones: SD3's loss, sigma^2 times the raw one."""
READINGS = {"raw": RAW, "additive": Reading(lambda v, x, sigma: v + x), "sigma_scaled": Reading(lambda v, x, sigma: x - sigma * v)}
"""kohya's ``--model_prediction_type``. Its last two are compared with the velocity all the same, as kohya does."""
REVERSED_READINGS = {
    "raw": RAW, "additive": Reading(lambda v, x, sigma: v - x), "sigma_scaled": Reading(lambda v, x, sigma: -x - sigma * v)
}
"""The same for models that answer x0 - noise: kohya reads their answer before its sign is turned."""


@dataclass(frozen=True)
class FlowSchedule:
    """Rectified flow: x = (1 - sigma) x0 + sigma noise, target noise - x0 (Liu 2022; Esser 2024)."""

    sample: Callable[[int, tuple[int, int]], torch.Tensor]
    """(count, latent (height, width)) -> sigmas in (0, 1), from torch's global generator."""
    space: TargetSpace = "flow"
    first: int = 0
    last: int = 1000
    weigh: Callable[[torch.Tensor], torch.Tensor] | None = None
    """sigmas B -> loss weights B (``--weighting_scheme sigma_sqrt``, ``cosmap``); None = 1."""
    reading: Reading = RAW
    """How the velocity is read before it is compared (``--model_prediction_type``)."""

    def draw(self, count: int, latent_size: tuple[int, int]) -> torch.Tensor:
        sigmas = self.sample(count, latent_size)
        low, high = self.first / 1000, self.last / 1000
        return (low + (high - low) * sigmas) * 1000

    def add_noise(self, x0_BCHW: torch.Tensor, noise_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> Noised:
        sigmas_B = timesteps_B.float() / 1000
        sigma = per_item(sigmas_B, x0_BCHW)
        return Noised((1 - sigma) * x0_BCHW + sigma * noise_BCHW, noise_BCHW, timesteps_B, sigmas_B.to(x0_BCHW.device))

    def target(self, x0_BCHW: torch.Tensor, noised: Noised) -> torch.Tensor:
        return x0_BCHW if self.reading.of_picture else noised.noise_BCHW - x0_BCHW

    def compared(self, prediction_BCHW: torch.Tensor, noised: Noised) -> torch.Tensor:
        assert noised.sigmas_B is not None
        x, velocity = noised.x_BCHW.float(), prediction_BCHW.float()
        return self.reading.of(velocity, x, per_item(noised.sigmas_B, x))

    def snr(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        sigma = timesteps_B.float() / 1000
        return ((1 - sigma) / sigma.clamp_min(1e-6)) ** 2

    def in_picture(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        sigma_B = timesteps_B.cpu().float() / 1000
        return torch.ones_like(sigma_B) if self.reading.of_picture else sigma_B**2

    def moved(self, change_BCHW: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        return -change_BCHW / per_item(timesteps_B.float().clamp_min(1.0) / 1000, change_BCHW)

    def weight(self, timesteps_B: torch.Tensor) -> torch.Tensor:
        sigmas_B = timesteps_B.cpu().float() / 1000
        return torch.ones(len(sigmas_B)) if self.weigh is None else self.weigh(sigmas_B)
