"""The VAE of HunyuanImage 2.1: factor 32, diffusers' and the original spelling."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from library.families import vae as plain, weights
from library.util.header import Header

is_vae, encode = plain.is_vae, plain.encode
ATTENTION = {"norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "proj": "proj_out"}


def normalise(vae: Any, raw_BCHW: Any) -> Any:
    """z * scale: this VAE has no shift."""
    return raw_BCHW * vae.config.scaling_factor


def denormalise(vae: Any, latents_BCHW: Any) -> Any:
    """The inverse of ``normalise``."""
    return latents_BCHW / vae.config.scaling_factor


def decode(vae: Any, latents_BCHW: Any) -> Any:
    """Normalised latents -> pixels in [-1, 1] (not clamped)."""
    raw = denormalise(vae, latents_BCHW)
    return vae.decode(raw.to(vae.device, vae.dtype), return_dict=False)[0]


def original_name(name: str, per_level: int) -> str:
    """A tensor's name in diffusers' spelling -> in the original one.

    diffusers counts the residual blocks of all levels and the samplers between them in one list; ``per_level`` is the
    number of residual blocks of the encoder's levels, the decoder has one more.
    """

    def placed(found: re.Match[str]) -> str:
        way, place = found[1], int(found[2])
        count = per_level + (way == "up")
        level, within = divmod(place, count + 1)
        return f".{way}.{level}.block.{within}." if within < count else f".{way}.{level}.{way}sample."

    name = re.sub(r"\.(down|up)_blocks\.(\d+)\.", placed, name)
    name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda m: f".mid.block_{int(m[1]) + 1}.", name)
    name = re.sub(r"\.mid_block\.attentions\.0\.(\w+)\.", lambda m: f".mid.attn_1.{ATTENTION[m[1]]}.", name)
    return name.replace("conv_shortcut", "nin_shortcut")


def build(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """AutoencoderKLHunyuanImage of ``config`` with the weights in ``header``, in either spelling."""
    from diffusers.models.autoencoders.autoencoder_kl_hunyuanimage import AutoencoderKLHunyuanImage

    vae = weights.empty(lambda: AutoencoderKLHunyuanImage.from_config(dict(config)))
    found = {}
    for name in vae.state_dict():
        spelled = (name, original_name(name, config["layers_per_block"]))
        place = next((header.places[p + s] for s in spelled for p in plain.PREFIXES if p + s in header.places), None)
        if place is not None:
            found[name] = place
    return weights.fill(vae, found, weights.torch_dtype(dtype), device, "the VAE")


def load(path: Path, default_config: Mapping[str, Any], dtype: str, device: str) -> Any:
    """``--vae``: a file in either spelling, or a folder, ``vae/`` or above it."""
    return plain.load(path, default_config, dtype, device, build)
