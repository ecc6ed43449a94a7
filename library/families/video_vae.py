"""VAEs of video models (Wan, Qwen-Image) used for pictures: one frame, a mean and a deviation for every channel."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import weights
from library.util.header import Header
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

CLASSES = {
    "AutoencoderKLQwenImage": "diffusers.models.autoencoders.autoencoder_kl_qwenimage",
    "AutoencoderKLWan": "diffusers.models.autoencoders.autoencoder_kl_wan",
}
PREFIXES = ("", "vae.", "first_stage_model.")
MARKS = ("decoder.conv_in.weight", "decoder.conv1.weight")
"""A tensor in diffusers' spelling, and the same one in the original's."""


def is_vae(header: Header) -> bool:
    """Tell whether a file holds such a VAE (perhaps among other things)."""
    return any(len(header.shapes.get(p + m, ())) == 5 for p in PREFIXES for m in MARKS)


def build(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """The VAE that ``config`` names (``_class_name``) with the weights in ``header``, in either spelling."""
    kind = config["_class_name"]
    module = importlib.import_module(CLASSES[kind])
    model = weights.empty(lambda: module.__dict__[kind].from_config(dict(config)))
    return weights.fill(model, places(header, list(model.state_dict())), weights.torch_dtype(dtype), device, "the VAE")


def places(header: Header, names: list[str]) -> dict[str, Any]:
    """Where each tensor lies; missing ones are left out."""
    prefix = next((p for p in PREFIXES for m in MARKS if p + m in header.places), "")
    if prefix + MARKS[1] not in header.places:
        return {n: header.places[prefix + n] for n in names if prefix + n in header.places}
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    # diffusers' table only renames, so it serves for places as well as for tensors.
    bare = {n[len(prefix) :]: place for n, place in header.places.items() if n.startswith(prefix)}
    renamed = convert_wan_vae_to_diffusers({n: place for n, place in bare.items() if not _NESTED.match(n)})
    renamed |= {residual_name(n): place for n, place in bare.items() if _NESTED.match(n)}
    return {n: renamed[n] for n in names if n in renamed}


_NESTED = re.compile(r"(en|de)coder\.(down|up)samples\.(\d+)\.(?:down|up)samples\.(\d+)\.(.*)")
_INSIDE = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2",
           "shortcut": "conv_shortcut"}  # fmt: skip
"""Module of a residual block: original path, diffusers' path."""


def residual_name(original: str) -> str:
    """diffusers' name of a tensor in a stage of Wan 2.2's VAE, whose blocks lie in one list with the stage's resampling."""
    side, way, stage, place, rest = _NESTED.match(original).groups()  # type: ignore[union-attr]
    inner, _, leaf = rest.rpartition(".")
    block = f"{side}coder.{way}_blocks.{stage}"
    return f"{block}.resnets.{place}.{_INSIDE[inner]}.{leaf}" if inner in _INSIDE else f"{block}.{way}sampler.{rest}"


def load(path: Path, default_config: Mapping[str, Any], dtype: str, device: str) -> Any:
    """``--vae``: a file in either spelling, or a folder, ``vae/`` or above it."""
    if path.is_file():
        header = weights.usable(weights.read_header(path))
        if not is_vae(header):
            raise UserError(
                Problem("--vae", say("{path} holds no VAE of this kind.", path=path), "Choose this model's own VAE file.")
            )
        return build(default_config, header, dtype, device)
    folder = path / "vae" if (path / "vae" / "config.json").is_file() else path
    if not (folder / "config.json").is_file():
        raise UserError(Problem("--vae", say("{path} is no VAE folder: it holds no config.json.", path=path),
                                "Give the VAE's file, its diffusers folder or the folder of a whole model."))  # fmt: skip
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return build({**default_config, **config}, weights.folder_weights(folder, dtype), dtype, device)


def encode(vae: Any, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] -> the VAE's own latents of one frame, B,C,H,W, sampled from its posterior."""
    return vae.encode(pixels_BCHW[:, :, None].to(vae.device, vae.dtype)).latent_dist.sample()[:, :, 0]


def _constants(vae: Any, like_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    mean, std = (torch.tensor(v, dtype=like_BCHW.dtype, device=like_BCHW.device).view(1, -1, 1, 1)
                 for v in (vae.config.latents_mean, vae.config.latents_std))  # fmt: skip
    return mean, std


def normalise(vae: Any, raw_BCHW: torch.Tensor) -> torch.Tensor:
    """(z - mean) / deviation, channel by channel."""
    mean, std = _constants(vae, raw_BCHW)
    return (raw_BCHW - mean) / std


def denormalise(vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """The inverse of ``normalise``."""
    mean, std = _constants(vae, latents_BCHW)
    return latents_BCHW * std + mean


def decode(vae: Any, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalised latents -> pixels in [-1, 1] (not clamped)."""
    raw = denormalise(vae, latents_BCHW)[:, :, None]
    return vae.decode(raw.to(vae.device, vae.dtype), return_dict=False)[0][:, :, 0]
