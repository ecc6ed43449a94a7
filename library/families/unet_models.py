"""Loading of the models built as U-Net + VAE + CLIP: diffusers folders and single files in the original spelling.

A family hands in a ``Layout``: which text encoders it has and where a single file keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.families import clip, source, unet, vae, weights
from library.families.interface import LoadRequest, Parts
from library.util.header import Header, Place
from library.util.records import Problem, UserError
from library.util.said import say

MODEL_FLAG = "--pretrained_model_name_or_path"
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "unet.", "")
Config = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class TextLayout:
    """One CLIP text encoder: its folders, and its prefixes in a single file (transformers' and OpenCLIP's spelling)."""

    part: str
    tokenizer: str
    transformers: tuple[str, ...]
    open_clip: tuple[str, ...] = ()
    projection: bool = False
    pad_token: str = "<|endoftext|>"


@dataclass(frozen=True)
class Layout:
    """What a family's models consist of; ``configs`` picks the shipped configurations for a single file."""

    texts: Callable[[Config], tuple[TextLayout, ...]]
    configs: Callable[[Header], Config]
    default: Config


def load(request: LoadRequest, layout: Layout) -> Parts:
    """Load the parts asked for from a folder, hub id, link or single file; ``request.vae`` replaces its VAE.

    Peak memory is the weights in ``request.dtype`` plus one tensor. Raises UserError where something is missing.
    """
    folders = wanted_folders(request)
    path = source.locate(request.source, MODEL_FLAG, folders, request.dtype)
    parts = _from_folder(path, request, layout) if path.is_dir() else _from_file(path, request, layout)
    if request.vae and "vae" in request.parts:
        place = source.locate(request.vae, "--vae", (), request.vae_dtype)
        parts.vae = vae.load(place, layout.default["vae"], request.vae_dtype, request.device)
    parts.source, parts.name_or_path = request.source, str(path)
    return parts


def wanted_folders(request: LoadRequest) -> tuple[str, ...]:
    """Sub-folders of a model folder that the parts asked for live in."""
    folders = {
        "denoiser": ("unet",),
        "text": ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
        "vae": () if request.vae else ("vae",),
    }
    return ("scheduler", *(f for part in ("denoiser", "vae", "text") if part in request.parts for f in folders[part]))


def _from_folder(path: Path, request: LoadRequest, layout: Layout) -> Parts:
    wanted = ["unet"] if "denoiser" in request.parts else []
    wanted += ["vae"] if "vae" in request.parts and not request.vae else []
    configs = source.complete(path, MODEL_FLAG, tuple(wanted))
    parts = Parts(None, None, [], [], request.options, dict(configs.get("scheduler") or layout.default["scheduler"]))
    dtype, device = request.dtype, request.device
    if "denoiser" in request.parts:
        parts.denoiser = build_unet(configs["unet"], weights.folder_weights(path / "unet", dtype), dtype, device)
    if "text" in request.parts:
        for text in layout.texts(configs):
            source.complete(path, MODEL_FLAG, (text.part,))
            found = clip.places(weights.folder_weights(path / text.part, dtype), "")
            parts.text_encoders.append(clip.build(configs[text.part], found, dtype, device, text.projection))
            parts.tokenizers.append(clip.load_tokenizer(path / text.tokenizer, text.pad_token))
    if "vae" in request.parts and not request.vae:
        header = weights.folder_weights(path / "vae", request.vae_dtype)
        parts.vae = vae.build({**layout.default["vae"], **configs["vae"]}, header, request.vae_dtype, device)
    return parts


def _from_file(path: Path, request: LoadRequest, layout: Layout) -> Parts:
    header = weights.usable(weights.read_header(path))
    configs = layout.configs(header)
    parts = Parts(None, None, [], [], request.options, dict(configs["scheduler"]))
    dtype, device = request.dtype, request.device
    _complete(path, header, request, layout.texts(configs))
    if "denoiser" in request.parts:
        parts.denoiser = build_unet(configs["unet"], header, dtype, device)
    if "text" in request.parts:
        for text in layout.texts(configs):
            found = text_places(header, text, configs[text.part])
            parts.text_encoders.append(clip.build(configs[text.part], found, dtype, device, text.projection))
            parts.tokenizers.append(clip.shipped_tokenizer(text.pad_token))
    if "vae" in request.parts and not request.vae:
        parts.vae = vae.build(configs["vae"], header, request.vae_dtype, device)
    return parts


def _complete(path: Path, header: Header, request: LoadRequest, texts: tuple[TextLayout, ...]) -> None:
    """Say at once all that a single file lacks of what is asked of it."""
    lacks = []
    if "denoiser" in request.parts and unet_prefix(header) is None:
        lacks.append("the U-Net")
    if "vae" in request.parts and not request.vae and not vae.is_vae(header):
        lacks.append("the VAE (it can be given with --vae)")
    if "text" in request.parts and not all(
        any(n.startswith((*t.transformers, *t.open_clip)) for n in header.shapes) for t in texts
    ):
        lacks.append("the text encoder")
    if lacks:
        raise UserError(
            Problem(
                MODEL_FLAG,
                say("{path} lacks {lacks}.", path=path.name, lacks=lacks),
                "Choose the full checkpoint that you make pictures with (2 GB or more), or a diffusers folder.",
            )
        )


def unet_prefix(header: Header) -> str | None:
    """What stands in front of the U-Net's names in a single file; None where it holds no U-Net."""
    return next(
        (
            p
            for p in UNET_PREFIXES
            for first in ("input_blocks.0.0.weight", "conv_in.weight")
            if p + first in header.shapes
            and (first != "conv_in.weight" or p + "down_blocks.0.resnets.0.conv1.weight" in header.shapes)
        ),
        None,
    )


FOREIGN = (
    "encoder_hid_proj",
    "input_hint_block.",
    "controlnet_cond_embedding.",
    "time_stack",
    "down_blocks.0.motion_modules",
)
"""Pieces of names that U-Nets of other families (Kolors, video, ControlNet) have."""


def unet_shapes(header: Header) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the U-Net's tensors without what stands in front of their names; {} where there is no U-Net."""
    prefix = unet_prefix(header)
    if prefix is None:
        return {}
    return {n[len(prefix) :]: s for n, s in header.shapes.items() if n.startswith(prefix)}


def context_width(header: Header) -> int:
    """Width of the text states that the cross-attention reads; 0 where there is none."""
    widths = (s[1] for n, s in unet_shapes(header).items() if n.endswith("transformer_blocks.0.attn2.to_k.weight"))
    return next(widths, 0)


def in_channels(header: Header) -> int:
    """Channels that the U-Net takes: 4, or more in inpainting, depth and pix2pix models."""
    shapes = unet_shapes(header)
    return (shapes.get("input_blocks.0.0.weight") or shapes.get("conv_in.weight") or (0, 4))[1]


def channel_hint(header: Header) -> dict[str, Any]:
    """``in_channels``, where it is not the ordinary 4."""
    count = in_channels(header)
    return {"in_channels": count} if count != 4 else {}


def build_unet(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """UNet2DConditionModel of ``config`` with the weights in ``header``, in either spelling."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    module = weights.empty(lambda: UNet2DConditionModel.from_config(dict(config)))
    prefix = unet_prefix(header) or ""
    found = _unet_places(header, prefix, list(module.state_dict()), config)
    return weights.fill(module, found, weights.torch_dtype(dtype), device, "the U-Net")


def _unet_places(header: Header, prefix: str, names: list[str], config: Mapping[str, Any]) -> dict[str, Place]:
    if prefix + "conv_in.weight" in header.places:
        spelled = {n: prefix + n for n in names}
    else:
        spelling = unet.Spelling(config)
        spelled = {n: prefix + spelling.original(n) for n in names}
    return {n: header.places[s] for n, s in spelled.items() if s in header.places}


def text_places(header: Header, text: TextLayout, config: Mapping[str, Any]) -> dict[str, Place]:
    """Where a single file keeps one text encoder, by canonical name."""
    for prefix in text.transformers:
        if f"{prefix}encoder.layers.0.self_attn.q_proj.weight" in header.places:
            return clip.places(header, prefix)
    for prefix in text.open_clip:
        if f"{prefix}transformer.resblocks.0.ln_1.weight" in header.places:
            return clip.open_clip_places(header, prefix, config["num_hidden_layers"])
    return {}


def run_dtype(module: Any) -> Any:
    """The type in which a module's inputs are wanted: its weights', or where all of those are 8-bit the autocast type."""
    import torch

    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point() and p.itemsize > 1), None)
    if dtype is not None:
        return dtype
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else torch.bfloat16
