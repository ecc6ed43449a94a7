"""LoRA files and tiny models for the tests of the tools."""

from __future__ import annotations

import torch

from library.families import registry
from library.util.tensorfile import write_tensors

STEM = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_{}"


def product(modules, stem):
    """up @ down * alpha / rank of one module of a file, independent of the tools."""
    down, up = modules[f"{stem}.lora_down.weight"].double(), modules[f"{stem}.lora_up.weight"].double()
    scale = float(modules[f"{stem}.alpha"]) / down.shape[0]
    return up.flatten(1) @ down.flatten(1) * scale


def lora(rank=8, alpha=4.0, seed=0, sizes=(24, 20), convolution=True):
    """Tensors of a small LoRA in kohya's names: q, k and v, and a 3x3 convolution."""
    g = torch.Generator().manual_seed(seed)
    tensors = {}
    for letter in "qkv":
        stem = STEM.format(letter)
        tensors |= {f"{stem}.lora_down.weight": torch.randn(rank, sizes[1], generator=g),
                    f"{stem}.lora_up.weight": torch.randn(sizes[0], rank, generator=g),
                    f"{stem}.alpha": torch.tensor(float(alpha))}
    if convolution:
        stem = "lora_unet_down_blocks_0_resnets_0_conv1"
        tensors |= {f"{stem}.lora_down.weight": torch.randn(rank, 6, 3, 3, generator=g),
                    f"{stem}.lora_up.weight": torch.randn(10, rank, 1, 1, generator=g),
                    f"{stem}.alpha": torch.tensor(float(alpha))}
    return tensors


def stems(tensors):
    return sorted({key.split(".")[0] for key in tensors})


def saved(path, tensors, metadata=None):
    """Write tensors as a LoRA file; returns the path."""
    write_tensors(path, tensors, metadata if metadata is not None else {"ss_base_model_version": "sd_v1"})
    return path


def families():
    return registry.names()
