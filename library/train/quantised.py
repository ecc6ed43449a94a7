"""``--base_quantization``: the linear layers of the frozen model's blocks are kept in 4 or 8 bits and widened when used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from library.util.packages import installed
from library.util.records import Problem, UserError
from library.util.said import say

from . import swapping

GROUP = 64
"""Weights that share one scale in 4 bits (QLoRA, Dettmers et al. 2023)."""


def to_nf4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(packed uint8, scales) of a weight in 4-bit NormalFloat."""
    from bitsandbytes.functional import quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), blocksize=GROUP, quant_type="nf4")
    return packed, state.absmax


def from_nf4(packed: torch.Tensor, scales: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes.functional import QuantState, dequantize_4bit

    return dequantize_4bit(packed, QuantState(scales, shape, blocksize=GROUP, quant_type="nf4", dtype=dtype))


def to_int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(int8, scales) of a weight [outputs, inputs]: every row by its largest value."""
    scales = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    return (weight.float() / scales).round().to(torch.int8), scales


def to_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(float8, scales) of a weight [outputs, inputs]: every row by its largest value, which becomes the type's largest."""
    scales = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (weight.float() / scales).to(torch.float8_e4m3fn), scales


def from_fp8(stored: torch.Tensor, scales: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    return (stored.to(scales.dtype) * scales).to(dtype)


def from_int8(stored: torch.Tensor, scales: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    return (stored * scales).to(dtype)


@dataclass(frozen=True)
class Way:
    """How weights are made small, and wide again with the shape and type they had."""

    store: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    widen: Callable[[torch.Tensor, torch.Tensor, torch.Size, torch.dtype], torch.Tensor]
    needs: str | None = None
    """Package that does it."""


WAYS = {"nf4": Way(to_nf4, from_nf4, "bitsandbytes"), "int8": Way(to_int8, from_int8), "fp8": Way(to_fp8, from_fp8)}


class Quantised(nn.Module):
    """Keeps one layer's weight small; it is made so on ``device`` and stays where the layer is."""

    def __init__(self, way: Way, layer: nn.Linear, device: torch.device):
        super().__init__()
        self.way, self.device = way, device
        self.shape, self.dtype = layer.weight.shape, layer.weight.dtype

    def forward(self, stored: torch.Tensor) -> torch.Tensor:
        return self.way.widen(stored, self.scales, self.shape, self.dtype)

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor]:
        stored, scales = self.way.store(weight.detach().to(self.device))
        self.register_buffer("scales", scales.to(weight.device))
        return (stored.to(weight.device),)  # a tuple: torch lets shape and type change only where there might be several


def quantise(model: nn.Module, name: str, device: torch.device) -> int:
    """Make the linear layers of a frozen model's repeated blocks small for good; returns how many layers that are.

    A widened weight lives as long as its gradient needs it: with ``--gradient_checkpointing`` that is one block. Norms,
    embeddings and what lies outside the blocks stay as they are. Raises UserError where a package is missing.
    """
    way = WAYS[name]
    if way.needs and not installed(way.needs):
        raise UserError(Problem(f"--base_quantization {name}", say("{needs} is not installed.", needs=way.needs),
                                say("Run: python -m pip install {needs}; or use --base_quantization int8.", needs=way.needs)))
    layers = [m for block in swapping.blocks(model) for m in block.modules() if isinstance(m, nn.Linear)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Quantised(way, layer, device), unsafe=True)
    return len(layers)
