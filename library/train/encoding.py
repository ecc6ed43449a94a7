"""Pictures to latents in this run's precision, with an eye on VAEs that overflow in half precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from library.families.interface import Family, Parts
from library.preflight.guards import LatentGuard
from library.util import frame
from library.util.records import UserError


class ImageEncoder:
    """pixels BCHW in [-1, 1] -> normalised latents, without gradients.

    Half precision is checked: where numbers overflow (SDXL's own VAE, GTX 16xx cards), the VAE goes on in full
    precision, with one warning. Where they still are no numbers, the picture among ``keys`` is named (UserError).
    """

    def __init__(self, family: Family, parts: Parts, device: torch.device):
        self.family, self.parts, self.device = family, parts, device
        self.dtype = torch.float32 if parts.vae is None else next(parts.vae.parameters()).dtype
        self.guard = LatentGuard(half=self.dtype != torch.float32)

    @torch.no_grad()
    def __call__(self, pixels_BCHW: torch.Tensor, keys: Sequence[str] = ()) -> torch.Tensor:
        checked = self.guard.half
        latents = self._encode(pixels_BCHW)
        if not checked or bool(torch.isfinite(latents).all()):
            return latents
        frame.show([self.guard.check(", ".join(keys))], begun=True)
        self.dtype = torch.float32
        self.parts.vae.to(torch.float32)
        latents = self._encode(pixels_BCHW)
        finite_B = torch.isfinite(latents).flatten(1).all(1).tolist()
        bad = [key for key, finite in zip(keys, finite_B, strict=False) if not finite]
        if bad:
            raise UserError(self.guard.check(", ".join(bad)))
        return latents

    def _encode(self, pixels_BCHW: torch.Tensor) -> Any:
        latents = self.family.encode_image(self.parts, pixels_BCHW.to(self.device, self.dtype))
        return latents.contiguous()  # noise is drawn in the order of memory: cached or not, it must be the same
