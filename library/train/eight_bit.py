"""``--fp8_base``: the frozen model's weights wait in 8 bits and are widened layer by layer, when a layer is used."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from library.config.run_config import MachineConfig
from library.families.interface import Parts

STORED = torch.float8_e4m3fn
LAYERS = (nn.Linear, nn.Conv2d)
"""Where nearly all weights are. Norms and embeddings stay as they are: they are small, and 8 bits would show."""


class Widened(nn.Module):
    """Gives a weight that is kept in 8 bits back in the type in which it is computed with."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.to(self.dtype)

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor]:
        return (weight.to(STORED),)  # a tuple: torch lets the type change only where there might be several tensors


def keep_in_8_bits(model: nn.Module) -> int:
    """Store the weights of a frozen model's layers in 8 bits, rounded once; returns how many layers that are.

    A layer's widened weight lives as long as its gradient needs it: with ``--gradient_checkpointing`` that is one block.
    """
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    dtype = layers[0].weight.dtype
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Widened(layer.weight.dtype), unsafe=True)
    tell_dtype(model, dtype)
    return len(layers)


def tell_dtype(model: nn.Module, dtype: torch.dtype) -> None:
    """Let ``model.dtype`` be the type that it computes with: pipelines cast their latents to it, and diffusers' own answer is
    the type of the first weight."""
    kind = type(model)
    model.__class__ = type(kind.__name__, (kind,), {"dtype": property(lambda self: dtype), "__module__": kind.__module__})


def apply(machine: MachineConfig, parts: Parts) -> None:
    """Do it to the parts that the flags name: ``--fp8_base`` all, ``--fp8_base_unet`` the image model alone, ``--fp8_vl`` the
    first text encoder; an image model that is quantised otherwise is left to that."""
    if machine.denoiser_in_8_bits:
        keep_in_8_bits(parts.denoiser)
    if machine.fp8_base and not machine.fp8_base_unet:
        for encoder in parts.text_encoders:
            keep_in_8_bits(encoder)
    elif machine.fp8_vl:
        for encoder in parts.text_encoders[:1]:
            keep_in_8_bits(encoder)
