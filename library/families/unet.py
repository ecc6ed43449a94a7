"""The U-Net of the SD families: its two spellings, its adapter targets and its blocks.

diffusers and the original (SGM, LDM) code name the same modules differently. ``structure`` lists the correspondence of
a U-Net of any size in the order in which the original code builds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from library.util.records import Target

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ROOT = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
EXTRA = (
    "conv_in",
    "time_embedding.linear_1",
    "time_embedding.linear_2",
    "add_embedding.linear_1",
    "add_embedding.linear_2",
    "conv_out",
)
"""Modules outside the blocks: no adapter by kohya's rule, but presets may ask for them."""
ROLES = {
    "self-attention": (r"\.attn1\.to_(q|k|v|out\.0)$",),
    "cross-attention": (r"\.attn2\.to_(q|k|v|out\.0)$",),
    "feed-forward": (r"\.ff\.net\.",),
    "projection": (r"attentions\.\d+\.proj_(in|out)$",),
    "time": (r"time_emb_proj$", r"^(time|add)_embedding\.linear_[12]$"),
    "conv": (r"resnets\.\d+\.conv", r"samplers\.0\.conv$", r"^conv_(in|out)$"),
}
ATTENTION_CLASSES = frozenset({"Transformer2DModel"})
CONV_CLASSES = frozenset({"ResnetBlock2D", "Downsample2D", "Upsample2D"})


def structure(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(diffusers prefix, original prefix) of every resnet, attention and sampler, in the original's order."""
    levels = len(config["block_out_channels"])
    depth = config["layers_per_block"]
    depths = [depth] * levels if isinstance(depth, int) else list(depth)
    pairs: list[tuple[str, str]] = []
    at = 1
    for i in range(levels):
        attends = "CrossAttn" in config["down_block_types"][i]
        for j in range(depths[i]):
            pairs += _layer(f"down_blocks.{i}", j, f"input_blocks.{at}", attends)
            at += 1
        if i < levels - 1:
            pairs.append((f"down_blocks.{i}.downsamplers.0.conv", f"input_blocks.{at}.0.op"))
            at += 1
    pairs += [
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
    ]
    at = 0
    for i in range(levels):
        attends = "CrossAttn" in config["up_block_types"][i]
        count = depths[levels - 1 - i] + 1
        for j in range(count):
            pairs += _layer(f"up_blocks.{i}", j, f"output_blocks.{at + j}", attends)
        if i < levels - 1:
            pairs.append(
                (f"up_blocks.{i}.upsamplers.0.conv", f"output_blocks.{at + count - 1}.{2 if attends else 1}.conv")
            )
        at += count
    return pairs


def _layer(block: str, j: int, original: str, attends: bool) -> list[tuple[str, str]]:
    pairs = [(f"{block}.resnets.{j}", f"{original}.0")]
    return [*pairs, (f"{block}.attentions.{j}", f"{original}.1")] if attends else pairs


class Spelling:
    """Translates module paths and tensor names of one U-Net from diffusers' spelling to the original one."""

    def __init__(self, config: Mapping[str, Any]):
        self.prefixes = dict(structure(config))
        self.order = {prefix: i for i, prefix in enumerate(self.prefixes)}

    def original(self, path: str) -> str:
        """``down_blocks.0.resnets.0.conv1.weight`` -> ``input_blocks.1.0.in_layers.2.weight``; KeyError if unknown."""
        for prefix in self._heads(path):
            if prefix in ROOT:
                return ROOT[prefix] + path[len(prefix) :]
            if prefix in self.prefixes:
                return self.prefixes[prefix] + self._inner(prefix, path[len(prefix) :])
        raise KeyError(path)

    def rank(self, path: str) -> int:
        """Position of the part of the U-Net that ``path`` lies in, in the original's order of building."""
        return next(self.order[p] for p in self._heads(path) if p in self.order)

    @staticmethod
    def _heads(path: str) -> Iterator[str]:
        pieces = path.split(".")
        return (".".join(pieces[:n]) for n in range(len(pieces), 0, -1))

    @staticmethod
    def _inner(prefix: str, rest: str) -> str:
        if ".resnets." not in prefix:
            return rest
        name, _, leaf = rest[1:].partition(".")
        return f".{RESNET[name]}" + (f".{leaf}" if leaf else "")


def role(path: str, roles: Mapping[str, tuple[str, ...]]) -> str:
    """The role of a module by the first pattern that matches its path; ``other`` where none does."""
    return next((name for name, patterns in roles.items() if any(re.search(p, path) for p in patterns)), "other")


def targets(unet: Any, roles: Mapping[str, tuple[str, ...]] = ROLES) -> list[Target]:
    """Every module of the blocks that may carry an adapter, named as diffusers names it, in diffusers' order."""
    spelling = Spelling(unet.config)
    found = []
    for path, module in unet.named_modules():
        conv = type(module).__name__ in CONV_CLASSES
        if conv or type(module).__name__ in ATTENTION_CLASSES:
            for name, child in sorted(_layers(module), key=lambda pair: _place_in_attention(pair[0])):
                full = f"{path}.{name}"
                names = {"native": spelling.original(full), "block": block_index(full)}
                found.append(Target(lora_name(full), full, "denoiser", child, role(full, roles), conv, **names))
    return found


def _layers(module: Any) -> list[tuple[str, Any]]:
    return [(name, child) for name, child in module.named_modules() if type(child).__name__ in ("Linear", "Conv2d")]


_IN_ATTENTION = re.compile(r"^transformer_blocks\.(\d+)\.(attn1|ff|attn2)\.")


def _place_in_attention(name: str) -> tuple[int, int, int]:
    """Sort key of a layer: kohya's blocks hold the feed-forward between the two attentions, diffusers' after them."""
    inside = _IN_ATTENTION.match(name)
    if inside is None:
        return (1 if name.startswith("proj_out") else 0, 0, 0)
    return (0, 1 + int(inside[1]), ("attn1", "ff", "attn2").index(inside[2]))


def extra_targets(unet: Any, roles: Mapping[str, tuple[str, ...]] = ROLES) -> list[Target]:
    """The modules outside the blocks: first and last convolution, time and size embedding."""
    spelling, modules = Spelling(unet.config), dict(unet.named_modules())
    return [
        Target(lora_name(path), path, "denoiser", modules[path], role(path, roles), native=spelling.original(path))
        for path in EXTRA
        if path in modules
    ]


def lora_name(path: str) -> str:
    """kohya's stem of a module's tensors in a LoRA file."""
    return "lora_unet_" + path.replace(".", "_")


def in_original_spelling(found: list[Target], config: Mapping[str, Any]) -> list[Target]:
    """The same targets as SDXL's files know them: original names, original order of building, SDXL's block numbers."""
    spelling = Spelling(config)
    if all(t.path not in EXTRA for t in found):
        found = sorted(found, key=lambda t: spelling.rank(t.path))
    return [replace(t, name=lora_name(t.native or ""), block=original_block_index(t.native or "")) for t in found]


def original_block_index(path: str) -> int:
    """kohya's index of an SDXL block: 0 time and size embedding, 1..9 input, 10..12 middle, 13..21 output, 22 out."""
    head, number = path.split(".")[:2]
    base = {"time_embed": None, "label_emb": None, "input_blocks": 1, "middle_block": 10, "output_blocks": 13}
    if head == "out":
        return 22
    return 0 if base[head] is None else base[head] + int(number)


_PLACE = re.compile(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions|upsamplers|downsamplers)\.(\d+)")


def block_index(path: str) -> int:
    """kohya's index of a block, 0..24: 1..12 down, 12 also middle, 13..24 up (its 0 has no modules)."""
    found = _PLACE.match(path)
    if found is None:
        return 12
    side, i, kind, j = found[1], int(found[2]), found[3], int(found[4])
    index = 3 * i + (2 if kind.endswith("samplers") else j)
    return index + (1 if side == "down" else 13)
