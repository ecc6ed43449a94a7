"""DyLoRA (arXiv 2210.07558): a call uses the first few ranks and trains the last of these: each rank works by itself.

The file is a LoRA's; its first ranks are a LoRA of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks.base import Kind, Setup, Strength
from networks.contract import functions
from networks.lowrank import LowRank, LowRankOptions, rank_of_file, scaled, thin


@dataclass(frozen=True)
class DyLoraOptions(LowRankOptions):
    """``--network_args`` of DyLoRA."""

    unit: int = 1
    """Ranks are trained in blocks of so many; dim must be a multiple of it."""


class Nested(LowRank):
    """LoRA that computes with a random number of its first ranks while training, and trains the last block of these."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        unit = setup.options.unit
        if unit < 1 or setup.rank.dim % unit:
            raise UserError(
                Problem(
                    f"--network_args unit={unit}",
                    say("The dim {dim} is not a multiple of it.", dim=setup.rank.dim),
                    "Give a unit that divides --network_dim (and conv_dim).",
                )
            )
        super().__init__(target, setup, strength)
        self.unit = unit
        self._flattens = False

    def delta(self, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().delta(x, factor)
        # torch's generator: gradient checkpointing gives it back for the recomputation, which must draw the same rank.
        used = self.unit * (1 + int(torch.randint(self.lora_dim // self.unit, (1,))))
        down, up = self.lora_down.weight[:used], self.lora_up.weight[:, :used]
        fixed = used - self.unit
        down = torch.cat((down[:fixed].detach(), down[fixed:]))
        up = torch.cat((up[:, :fixed].detach(), up[:, fixed:]), dim=1)
        if x.dtype != down.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(down.dtype)
        h = scaled(thin(self.dropouts, self._through(x, down)), factor * math.sqrt(self.lora_dim / used))
        return F.conv2d(h, up) if isinstance(self.layer, nn.Conv2d) else F.linear(h, up)

    def _through(self, x: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        if isinstance(layer, nn.Conv2d):
            return F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation)
        return F.linear(x, down)


KIND = Kind("dylora", Nested, DyLoraOptions, rank_of_file, plus_marks=("lora_up",))

create_network, create_network_from_weights = functions(KIND)
