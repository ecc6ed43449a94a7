"""A change of weight as a product of two thin matrices: its layers, its maths, and the options such kinds share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from library.util.records import Target
from networks import keys
from networks.base import Adapter, Dropouts, Setup, Strength, sizes_of


@dataclass(frozen=True)
class LowRankOptions:
    """``--network_args`` of every low-rank kind."""

    conv_dim: int | None = None
    conv_alpha: float | None = None
    block_dims: str | None = None
    block_alphas: str | None = None
    conv_block_dims: str | None = None
    conv_block_alphas: str | None = None
    down_lr_weight: str | None = None
    mid_lr_weight: str | None = None
    up_lr_weight: str | None = None
    block_lr_zero_threshold: float = 0.0
    rank_dropout: float | None = None
    module_dropout: float | None = None
    loraplus_lr_ratio: float | None = None
    loraplus_unet_lr_ratio: float | None = None
    loraplus_text_encoder_lr_ratio: float | None = None
    include_patterns: str | None = None
    exclude_patterns: str | None = None
    network_reg_dims: str | None = None
    network_reg_lrs: str | None = None
    use_rslora: bool = False
    """Scale alpha / sqrt(dim) (arXiv 2312.03732) instead of alpha / dim; the file's alpha is raised to say so."""
    verbose: bool = False
    """A line of the log for every module."""


def low_rank_layers(layer: nn.Module, dim: int) -> tuple[nn.Module, nn.Module]:
    """(down, up) for a layer: linear, or a convolution of the layer's kernel followed by a 1x1 convolution.

    The down weight is drawn kaiming-uniform with a = sqrt(5), the up weight is zero. Both layers are made by torch's
    own constructors, which draw their default weights first: the three draws (down, up, down) are kohya's.
    """
    inputs, outputs = sizes_of(layer)
    if isinstance(layer, nn.Conv2d):
        assert layer.groups == 1, "low-rank adapters of grouped convolutions are not defined"
        down: nn.Module = nn.Conv2d(inputs, dim, layer.kernel_size, layer.stride, layer.padding, layer.dilation,
                                    bias=False, padding_mode=layer.padding_mode)
        up: nn.Module = nn.Conv2d(dim, outputs, 1, bias=False)
    else:
        down = nn.Linear(inputs, dim, bias=False)
        up = nn.Linear(dim, outputs, bias=False)
    nn.init.kaiming_uniform_(down.weight, a=math.sqrt(5))
    nn.init.zeros_(up.weight)
    return down, up


def drop_ranks(h: torch.Tensor, p: float) -> torch.Tensor:
    """Leave out whole ranks, other ones for each item of the batch, and scale the rest up to the same expectation.

    ``h`` has the rank on its last axis, or on its second where it is an image (4-D).
    """
    ranks = h.shape[1] if h.dim() == 4 else h.shape[-1]
    kept = torch.rand((h.shape[0], ranks), device=h.device) > p
    shape = (h.shape[0], ranks, 1, 1) if h.dim() == 4 else (h.shape[0], *[1] * (h.dim() - 2), ranks)
    return h * kept.view(shape) * (1.0 / (1.0 - p))


def thin(dropouts: Dropouts, h: torch.Tensor) -> torch.Tensor:
    """Dropout in the rank space, while training."""
    if dropouts.neuron is not None:
        h = F.dropout(h, p=dropouts.neuron)
    if dropouts.rank is not None:
        h = drop_ranks(h, dropouts.rank)
    return h


def scaled(h: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """Multiply in the rank space, which is narrow: scaling the output would be a pass over all of it."""
    if factor.__class__ is torch.Tensor:
        return h * factor.to(h.dtype)
    return h if factor == 1.0 else h * factor


def product(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The weight that (down, then up) amounts to, in the layer's weight shape, fp32."""
    flat = up.flatten(1).float() @ down.flatten(1).float()
    return flat.reshape(up.shape[0], *down.shape[1:])


def tucker(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """A kernel [outputs, inputs, ...] from a core [dim, dim, ...] between a [dim, outputs] and b [dim, inputs]."""
    return torch.einsum("ij...,ip,jr->pr...", core, a, b).contiguous()


def product_norm(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """Frobenius norm of up @ down from the two small Gram matrices, never forming the product."""
    up, down = up.flatten(1).double(), down.flatten(1).double()
    return ((up.T @ up) * (down @ down.T)).sum().clamp(min=0.0).sqrt().float()


def rank_of_file(parts: Mapping[str, torch.Tensor]) -> int | None:
    """Rank of a module by its tensors in a file; None where it has no down weight."""
    return keys.rank_of(parts) if keys.DOWN in parts else None


class LowRank(Adapter):
    """down, then up: the shared body of LoRA and its kin."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        self.lora_down, self.lora_up = low_rank_layers(self.layer, setup.rank.dim)
        self._drops = setup.dropouts.neuron is not None or setup.dropouts.rank is not None
        self._flattens = type(self.layer) is nn.Linear

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self._flattens or x.dim() == 2 or (self._drops and self.training):
            return super().forward(x, *args, **kwargs)
        # As matrices: the sum of the layer's output and the adapter's is then one matrix product (see joined).
        return super().forward(x.reshape(-1, x.shape[-1]), *args, **kwargs).view(*x.shape[:-1], -1)

    def _narrow(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.lora_down.weight
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(weight.dtype)
        h = self.lora_down(x)
        return thin(self.dropouts, h) if self._drops and self.training else h

    def delta(self, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        return self.lora_up(scaled(self._narrow(x), factor))

    def joined(self, out: torch.Tensor, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        up = self.lora_up.weight
        fused = self._flattens and out.dim() == 2 and out.dtype == up.dtype
        if not fused or torch.is_autocast_enabled(x.device.type) or not self._owns(out):
            return super().joined(out, x, factor)
        h = self._narrow(x)
        if factor.__class__ is torch.Tensor:
            return out.addmm_(scaled(h, factor), up.t())
        return out.addmm_(h, up.t(), alpha=factor)

    def delta_weight(self) -> torch.Tensor:
        return product(self.lora_up.weight, self.lora_down.weight) * self.scale

    def norm(self) -> torch.Tensor:
        return product_norm(self.lora_up.weight, self.lora_down.weight) * self.scale

    def shrink(self, ratio: torch.Tensor) -> None:
        root = ratio.sqrt().to(self.lora_up.weight.dtype)
        self.lora_up.weight.mul_(root)
        self.lora_down.weight.mul_(root)


class FullDelta(Adapter):
    """Kinds whose change of weight is cheap to form but has no two thin factors: the layer's own operation is done with
    the changed part of the weight."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        layer = self.layer
        self._is_conv = isinstance(layer, nn.Conv2d)
        self.kernel: tuple[int, ...] = tuple(layer.kernel_size) if self._is_conv else ()
        inputs, outputs = sizes_of(layer)
        self.weight_shape = (outputs, inputs, *self.kernel)
        self.width = inputs * math.prod(self.kernel)

    def change(self) -> torch.Tensor:
        """The change of weight before scaling, as a matrix [outputs, inputs times kernel]."""
        raise NotImplementedError

    def delta(self, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        weight = self.change().reshape(self.weight_shape)
        if self.dropouts.rank is not None and self.training:
            kept = torch.rand(weight.shape[0], device=weight.device) > self.dropouts.rank
            weight = weight * kept.view(-1, *[1] * (weight.dim() - 1))
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(weight.dtype)
        weight = weight * factor
        if self.dropouts.neuron is not None and self.training:
            x = F.dropout(x, p=self.dropouts.neuron)
        if not self._is_conv:
            return F.linear(x, weight)
        layer = self.layer
        return F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)

    def delta_weight(self) -> torch.Tensor:
        return self.change().float().reshape(self.weight_shape) * self.scale
