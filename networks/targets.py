"""Which modules get an adapter, for callers that bring no list of their own.

The trainer passes the list its family gives. Tools and notebooks that call ``create_network`` as kohya's scripts do
pass only the models; for these the rules below find a U-Net's and CLIP text encoders' modules by class name, in the
order and with the names kohya gives them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from library.util.records import Target
from networks.blocks import index_of_name

if TYPE_CHECKING:
    from torch import nn

_DENOISER_CLASSES = {"Transformer2DModel"}
_CONV_CLASSES = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
_TEXT_CLASSES = {"CLIPAttention", "CLIPSdpaAttention", "CLIPFlashAttention2", "CLIPMLP"}
_LAYERS = {"Linear", "Conv2d"}

# Inside a transformer block kohya's U-Net declares attn1, ff, attn2; diffusers declares attn1, attn2, ff.
_WITHIN_BLOCK = re.compile(r"^(.*transformer_blocks\.)(\d+)\.(attn1|ff|attn2)\.")
_PLACE = {"attn1": 0, "ff": 1, "attn2": 2}

_ROLES = (
    (re.compile(r"\.attn1\."), "self-attention"),
    (re.compile(r"\.attn2\."), "cross-attention"),
    (re.compile(r"\.ff\."), "feed-forward"),
    (re.compile(r"\.proj_(in|out)$"), "projection"),
    (re.compile(r"time_emb"), "time"),
    (re.compile(r""), "conv"),
)


def _role(path: str) -> str:
    return next(role for pattern, role in _ROLES if pattern.search(path))


def _layers(root: nn.Module, classes: set[str]) -> Iterator[tuple[str, str, nn.Module]]:
    """(path, class of the block it stands in, module) of every layer inside blocks of the given classes, once each."""
    seen: set[str] = set()
    for block_path, block in root.named_modules():
        block_class = type(block).__name__
        if block_class not in classes:
            continue
        inner = [(f"{block_path}.{path}", module) for path, module in block.named_modules()
                 if type(module).__name__ in _LAYERS]
        for path, module in sorted(inner, key=lambda item: _order(item[0], block_path)):
            if path not in seen:
                seen.add(path)
                yield path, block_class, module


def _order(path: str, block_path: str) -> tuple[int, int, int]:
    """Sort key that is stable but for kohya's order inside transformer blocks."""
    if m := _WITHIN_BLOCK.match(path):
        return (1, int(m[2]), _PLACE[m[3]])
    return (2 if path.endswith("proj_out") and path == f"{block_path}.proj_out" else 0, 0, 0)


def derive_targets(text_encoders: Any, denoiser: nn.Module | None) -> list[Target]:
    """Adapter targets of CLIP text encoders and a U-Net by class names, text encoders first.

    ``text_encoders`` is one model, a sequence of them, or None. One text encoder is ``lora_te_``, several are
    ``lora_te1_``, ``lora_te2_``, ...; their layers keep the name they had before transformers flattened CLIPTextModel.
    """
    encoders = [e for e in _as_list(text_encoders) if e is not None]
    targets: list[Target] = []
    for number, encoder in enumerate(encoders, start=1):
        prefix = "lora_te" if len(encoders) == 1 else f"lora_te{number}"
        root = "text_encoder" if number == 1 else f"text_encoder_{number}"
        for path, _, module in _layers(encoder, _TEXT_CLASSES):
            canonical = path if path.startswith("text_model.") else f"text_model.{path}"
            role = "self-attention" if "attn" in path else "feed-forward"
            targets.append(Target(f"{prefix}_{canonical.replace('.', '_')}", canonical, root, module, role))
    if denoiser is not None:
        for path, block_class, module in _layers(denoiser, _DENOISER_CLASSES | _CONV_CLASSES):
            name = f"lora_unet_{path.replace('.', '_')}"
            targets.append(Target(name, path, "denoiser", module, _role(path), block_class in _CONV_CLASSES,
                                  index_of_name(name)))
    return targets


def _as_list(value: Any) -> Sequence[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
