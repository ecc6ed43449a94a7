"""What each layer of a denoiser is for, told from its path: one table for every architecture that diffusers has.

Presets of adapter targets are sets of these roles, so that a preset means the same on a U-Net, on a transformer with two
streams and on one whose blocks read text and picture together, a family of this program or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

SELF, CROSS, TEXT = "self-attention", "cross-attention", "text-stream"
LAYER_CLASSES = frozenset({"Linear", "Conv2d", "Conv3d"})

_ATTENTION = r"to_(q|k|v|query|key|value|qkv|out|out\.0|qkv_mlp_proj)|img_qkv_proj|out_layer"
ROLES: Mapping[str, tuple[str, ...]] = {
    TEXT: (
        r"\.(add_[qkv]_proj|to_add_out)$", r"_context\b", r"(^|\.)context_embedder", r"context_refiner", r"token_refiner",
        r"(^|\.)(txt|text)_", r"_txt\.", r"_t$", r"\.ff_t\.", r"^cap_embedder", r"caption_(projection|embedder)", r"^llm_cond_proj",
        r"kv_mapper", r"^clip_", r"^(add_embedding|pooled_text_embeddings)\.", r"pooled_embedder", r"image_cond",
    ),
    "time": (
        r"time_emb_proj$", r"(timestep|guidance|t|condition)_embedder\.(?!time_proj|text_)",
        r"^time_embed(ding|dings)?\.(linear_[12]|\w+_layer)$", r"^(time_in|t_embedding|time_step_proj|time_token)\.",
    ),
    CROSS: (r"\.attn2\.to_(q|k|v|out\.0)$", r"\.cross_attention\."),
    "feed-forward": (
        r"\.(ff|ffn|mlp|img_mlp|feed_forward|ff_i|channelwise)\.", r"\.(proj_mlp|gate_proj|up_proj|down_proj)$",
        r"^single_transformer_blocks\.\d+\.(proj_out|attn\.to_out)$",
    ),
    SELF: (rf"\.(attn1?|attn2|self_attn|self_attention|attention)\.({_ATTENTION})$",),
    "projection": (r"attentions\.\d+\.proj_(in|out)$",),
    "in-out": (
        r"^(conv_in|conv_out|proj_in|proj_out|img_in|x_embedder|patch_embedding|input_proj|final_linear)$",
        r"^(pos_embed|patch_embed|x_embedder)\.proj$", r"^x_embedders\.", r"^all_x_embedder\.", r"^final_layer\.linear$",
        r"^all_final_layer\.[^.]+\.linear$", r"^visual_embeddings\.in_layer$", r"^out_layer\.out_layer$",
        r"^(embedding|clf)\.1$", r"^patch_embedding\.\w+$",
    ),
    "conv": (r"resnets\.\d+\.conv", r"samplers\.\d+\.conv$", r"depthwise$", r"scalers\."),
    "modulation": (r"norm", r"mod", r"adaln", r"adaLN", r"mapper", r"\.to_gate$", r"^distilled_guidance_layer\.", r"_proj$",
                   r"^(time_embed|adaln_single)\.linear$"),
}
"""role -> patterns on dotted paths in diffusers' spelling; the first role that matches holds.

``in-out`` are the first and last layers, ``projection`` the layers around a U-Net's attention, ``text-stream`` all that works
on words alone (or on reference pictures). SD 3.5's second attention, ``attn2``, reads the picture alone: ``role`` knows it by
its block, which has no ``attn1``.
"""


def role(path: str, paths: Iterable[str] = ()) -> str:
    """The role of a layer; ``paths`` are all of the model's (a set), which tell a second self-attention from a cross-attention."""
    found = next((name for name, patterns in ROLES.items() if any(re.search(p, path) for p in patterns)), "other")
    if found == CROSS and ".attn2." in path and path.replace(".attn2.", ".attn1.") not in paths:
        return SELF
    return found


def layers(denoiser: Any) -> dict[str, Any]:
    """Every linear and convolution layer of a model by its path."""
    return {path: module for path, module in denoiser.named_modules() if type(module).__name__ in LAYER_CLASSES}


_BLOCK = re.compile(r"^(.*(?:blocks|layers|resnets|attentions|refiner|samplers|scalers|\.image)\.\d+(?:\.\d+)*)\.")


def block(path: str) -> str | None:
    """The innermost block that a layer stands in (``transformer_blocks.3``); None for layers outside all blocks."""
    found = _BLOCK.match(path)
    return found[1] if found else None
