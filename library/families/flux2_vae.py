"""The VAE of Flux.2: latents of 2x2 places put together, each channel with the statistics that its file carries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from library.families import vae as plain

if TYPE_CHECKING:
    import torch

build, load, is_vae = plain.build, plain.load, plain.is_vae


def gathered(latents_BCHW: torch.Tensor) -> torch.Tensor:
    """B,C,H,W -> B,4C,H/2,W/2, channel before place."""
    import torch

    return torch.nn.functional.pixel_unshuffle(latents_BCHW, 2)


def scattered(latents_BCHW: torch.Tensor) -> torch.Tensor:
    """The inverse of ``gathered``."""
    import torch

    return torch.nn.functional.pixel_shuffle(latents_BCHW, 2)


def _constants(vae: Any, like_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, variance = (v.to(like_BCHW.device, like_BCHW.dtype).view(1, -1, 1, 1) for v in (vae.bn.running_mean, vae.bn.running_var))
    return mean, (variance + vae.config.batch_norm_eps).sqrt()


def encode(vae: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] -> the VAE's own latents B,128,H/16,W/16, sampled from its posterior."""
    return gathered(plain.encode(vae, pixels_BCHW))


def normalise(vae: Any, raw_BCHW: torch.Tensor) -> torch.Tensor:
    """(z - mean) / deviation, channel by channel."""
    mean, deviation = _constants(vae, raw_BCHW)
    return (raw_BCHW - mean) / deviation


def denormalise(vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """The inverse of ``normalise``."""
    mean, deviation = _constants(vae, latents_BCHW)
    return latents_BCHW * deviation + mean


def decode(vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalised latents -> pixels in [-1, 1] (not clamped)."""
    raw = scattered(denormalise(vae, latents_BCHW))
    return vae.decode(raw.to(vae.device, vae.dtype), return_dict=False)[0]
