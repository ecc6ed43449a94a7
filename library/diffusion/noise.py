"""Noise that is mixed into latents: plain, offset, multi-resolution, and the perturbation of the input.

All draws come from torch's global generator (and python's ``random`` for the multi-resolution radii) in the order in
which kohya's trainer draws them, so that the same seed means the same noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NoiseOptions:
    """Strengths of the variants; None switches one off. Names as kohya's flags."""

    offset: float | None = None
    offset_random_strength: bool = False
    adaptive_noise_scale: float | None = None
    multires_iterations: int | None = None
    multires_discount: float = 0.3
    ip_noise_gamma: float | None = None
    ip_noise_gamma_random_strength: bool = False


def add_offset(noise_BCHW: torch.Tensor, latents_BCHW: torch.Tensor, strength: float | torch.Tensor,
               adaptive: float | None) -> torch.Tensor:
    """Add one random number a channel, so that a model learns very dark and bright pictures (Guttenberg 2023)."""
    if adaptive is not None:
        means_BC11 = latents_BCHW.mean(dim=(2, 3), keepdim=True).abs()
        strength = (strength + adaptive * means_BC11).clamp_min(0.0)
    batch, channels = noise_BCHW.shape[:2]
    drawn = torch.randn((batch, channels, 1, 1), device=noise_BCHW.device, dtype=noise_BCHW.dtype)
    return noise_BCHW + strength * drawn


def add_pyramid(noise_BCHW: torch.Tensor, iterations: int, discount: float) -> torch.Tensor:
    """Add noise of ever coarser resolutions and restore unit variance (Whitaker 2023, multi-resolution noise)."""
    batch, channels, height, width = noise_BCHW.shape
    total = noise_BCHW
    for level in range(iterations):
        ratio = random.random() * 2 + 2
        rows, columns = (max(1, int(side / ratio**level)) for side in (height, width))
        coarse = torch.randn((batch, channels, rows, columns), device=total.device, dtype=total.dtype)
        total = total + torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * discount**level
        if rows == 1 or columns == 1:
            break
    return total / total.std()


def draw_noise(latents_BCHW: torch.Tensor, options: NoiseOptions) -> torch.Tensor:
    """Noise of the latents' shape with the offsets that ``options`` ask for."""
    noise = torch.randn_like(latents_BCHW)
    if options.offset:
        strength: float | torch.Tensor = options.offset
        if options.offset_random_strength:
            strength = torch.rand(1, device=latents_BCHW.device) * options.offset
        noise = add_offset(noise, latents_BCHW, strength, options.adaptive_noise_scale)
    if options.multires_iterations:
        noise = add_pyramid(noise, options.multires_iterations, options.multires_discount)
    return noise


def perturb(noise_BCHW: torch.Tensor, options: NoiseOptions) -> torch.Tensor:
    """Noise to mix in, where it shall differ from the noise to predict (Ning et al. 2023, input perturbation)."""
    if not options.ip_noise_gamma:
        return noise_BCHW
    gamma: float | torch.Tensor = options.ip_noise_gamma
    if options.ip_noise_gamma_random_strength:
        gamma = torch.rand(1, device=noise_BCHW.device) * options.ip_noise_gamma
    return noise_BCHW + gamma * torch.randn_like(noise_BCHW)
