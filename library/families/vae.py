"""The VAE of the image families: loading in either spelling, pixels to normalised latents and back."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import weights
from library.util.header import Header, Place
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

CLASSES = {"AutoencoderKL": "autoencoder_kl", "AutoencoderKLFlux2": "autoencoder_kl_flux2"}
"""Classes of diffusers whose original spelling is the same, and their modules."""
PREFIXES = ("first_stage_model.", "vae.", "")
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
"""diffusers' spelling before 0.18, still found in model folders."""


def original_name(name: str, levels: int) -> str:
    """A tensor's name in diffusers' spelling -> in the original (LDM) one; ``levels`` = number of resolutions."""
    name = re.sub(r"^(encoder)\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1.down.\2.block.\3.", name)
    name = re.sub(r"^(encoder)\.down_blocks\.(\d+)\.downsamplers\.0\.", r"\1.down.\2.downsample.", name)
    name = re.sub(
        r"^(decoder)\.up_blocks\.(\d+)\.resnets\.(\d+)\.",
        lambda m: f"decoder.up.{levels - 1 - int(m[2])}.block.{m[3]}.",
        name,
    )
    name = re.sub(
        r"^(decoder)\.up_blocks\.(\d+)\.upsamplers\.0\.",
        lambda m: f"decoder.up.{levels - 1 - int(m[2])}.upsample.",
        name,
    )
    name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda m: f".mid.block_{int(m[1]) + 1}.", name)
    name = re.sub(
        r"\.mid_block\.attentions\.0\.(group_norm|to_[qkv]|to_out\.0)", lambda m: f".mid.attn_1.{ATTENTION[m[1]]}", name
    )
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def old_name(name: str) -> str:
    """A tensor's name in diffusers' spelling -> in its older one."""
    return re.sub(r"(\.attentions\.0)\.(to_[qkv]|to_out\.0)", lambda m: f"{m[1]}.{OLD_ATTENTION[m[2]]}", name)


def places(header: Header, names: list[str], levels: int) -> dict[str, Place]:
    """Where each tensor of a VAE lies in a file of any spelling, alone or in a checkpoint; missing ones left out."""
    found = {}
    for name in names:
        for spelled in (name, old_name(name), original_name(name, levels)):
            place = next((header.places[p + spelled] for p in PREFIXES if p + spelled in header.places), None)
            if place is not None:
                found[name] = place
                break
    return found


def build(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """The VAE of ``config`` with the weights in ``header``. Raises UserError where they do not fit."""
    kind = config.get("_class_name", "AutoencoderKL")
    module = importlib.import_module(f"diffusers.models.autoencoders.{CLASSES[kind]}")
    vae = weights.empty(lambda: module.__dict__[kind].from_config(dict(config)))
    found = places(header, list(vae.state_dict()), len(config["block_out_channels"]))
    return weights.fill(vae, found, weights.torch_dtype(dtype), device, "the VAE")


def is_vae(header: Header) -> bool:
    """Tell whether a file holds a VAE (perhaps among other things)."""
    return any(p + "decoder.conv_in.weight" in header.shapes for p in PREFIXES)


Builder = Callable[[Mapping[str, Any], Header, str, str], Any]


def load(path: Path, default_config: Mapping[str, Any], dtype: str, device: str, make: Builder = build) -> Any:
    """``--vae``: a file in either spelling (``default_config`` is the family's), or a folder, ``vae/`` or above it."""
    import json

    if path.is_file():
        header = weights.usable(weights.read_header(path))
        if not is_vae(header):
            raise UserError(
                Problem(
                    "--vae", say("{path} holds no VAE.", path=path), "Choose a VAE file, or leave --vae out to use the model's own."
                )
            )
        return make(default_config, header, dtype, device)
    folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise UserError(
            Problem(
                "--vae",
                say("{path} is no VAE folder: it holds no config.json.", path=path),
                "Give the VAE's file, its diffusers folder or the folder of a whole model.",
            )
        )
    config = {**default_config, **json.loads((folder / "config.json").read_text(encoding="utf-8"))}
    return make(config, weights.folder_weights(folder, dtype), dtype, device)


def encode(vae: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] -> the VAE's own latents, sampled from its posterior."""
    return vae.encode(pixels_BCHW.to(vae.device, vae.dtype)).latent_dist.sample()


def normalise(vae: Any, raw_BCHW: torch.Tensor) -> torch.Tensor:
    """(z - shift) * scale, with the VAE's own constants."""
    shift = vae.config.shift_factor or 0.0
    return (raw_BCHW - shift) * vae.config.scaling_factor if shift else raw_BCHW * vae.config.scaling_factor


def denormalise(vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """The inverse of ``normalise``."""
    raw = latents_BCHW / vae.config.scaling_factor
    return raw + vae.config.shift_factor if vae.config.shift_factor else raw


def decode(vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalised latents -> pixels in [-1, 1] (not clamped)."""
    raw = denormalise(vae, latents_BCHW)
    return vae.decode(raw.to(vae.device, vae.dtype), return_dict=False)[0]
