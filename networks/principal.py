"""LoRA that starts in a layer's own main directions: PiSSA (arXiv 2404.02948), and the milder start by singular vectors.

PiSSA trains the largest singular parts of the weight themselves. The paper takes them out of the layer; here the layer
stays and the adapter adds ``B A - B0 A0``, the same sum. The file holds both products, an ordinary LoRA of rank 2 dim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks import keys
from networks.base import Setup, Strength, readable_weight
from networks.lowrank import LowRank, product, product_norm, scaled

SPARE, POWER = 8, 4
"""Extra directions and power iterations of the randomised decomposition (arXiv 0909.4061)."""
DOWN0, UP0 = "start_down", "start_up"


def main_directions(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The first ``rank`` singular parts (U [m, r], S [r], V [n, r]) of a weight [m, n, ...]."""
    matrix = weight.flatten(1).float()
    left, values, right = torch.svd_lowrank(matrix, min(rank + SPARE, *matrix.shape), POWER)
    if rank > len(values):
        raise UserError(
            Problem(
                f"--network_dim {rank}",
                say(
                    "A layer of {shape_text} has only {values} singular directions.",
                    shape_text=keys.shape_text(matrix.shape),
                    values=len(values),
                ),
                "Give a smaller dim, or leave init out.",
            )
        )
    return left[:, :rank], values[:rank], right[:, :rank]


class FromDirections(LowRank):
    """LoRA whose down weight starts as the layer's first right singular vectors, at the usual length; up is zero."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        weight = self.lora_down.weight
        if not weight.is_meta:
            directions = main_directions(readable_weight(self, "init=svd"), self.lora_dim)[2].T
            # Rows drawn kaiming-uniform with a = sqrt(5) have the expected length 1 / sqrt(3).
            weight.data.copy_(directions.reshape(weight.shape) / math.sqrt(3))


class Principal(LowRank):
    """PiSSA: both factors start as the layer's main singular parts, whose product is taken off again."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        if setup.dropouts.neuron is not None or setup.dropouts.rank is not None:
            raise UserError(Problem("--network_args init=pissa", "Dropout inside the adapter would leave out parts of the "
                                    "base model.", "Leave --network_dropout and rank_dropout out, or init=pissa."))
        super().__init__(target, setup, strength)
        self._flattens = False
        down, up = self.lora_down.weight, self.lora_up.weight
        if not down.is_meta:
            left, values, right = main_directions(readable_weight(self, "init=pissa"), self.lora_dim)
            root = (values / self.scale).sqrt()
            down.data.copy_((right * root).T.reshape(down.shape))
            up.data.copy_((left * root).reshape(up.shape))
        self.register_buffer(DOWN0, down.detach().clone())
        self.register_buffer(UP0, up.detach().clone())

    def delta(self, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        down = torch.cat((self.lora_down.weight, self.start_down))
        up = torch.cat((self.lora_up.weight, -self.start_up), dim=1)
        if x.dtype != down.dtype and not torch.is_autocast_enabled(x.device.type):
            x = x.to(down.dtype)
        layer = self.layer
        if down.dim() == 4:
            return F.conv2d(scaled(F.conv2d(x, down, None, layer.stride, layer.padding, layer.dilation), factor), up)
        return F.linear(scaled(F.linear(x, down), factor), up)

    def _both(self) -> tuple[torch.Tensor, torch.Tensor]:
        return (torch.cat((self.lora_up.weight, -self.start_up), dim=1), torch.cat((self.lora_down.weight, self.start_down)))

    def delta_weight(self) -> torch.Tensor:
        return product(*self._both()) * self.scale

    def norm(self) -> torch.Tensor:
        return product_norm(*self._both()) * self.scale

    def shrink(self, ratio: torch.Tensor) -> None:
        # ratio (B A - B0 A0) with B A of the same rank: the start is scaled, too.
        root = ratio.sqrt().to(self.lora_up.weight.dtype)
        for weight in (self.lora_up.weight, self.lora_down.weight, self.start_up, self.start_down):
            weight.mul_(root)

    def as_file(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {keys.ALPHA: parts[keys.ALPHA] * 2, keys.DOWN: torch.cat((parts[keys.DOWN], parts[DOWN0])),
                keys.UP: torch.cat((parts[keys.UP], -parts[UP0]), dim=1)}

    def from_file(self, parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if keys.DOWN not in parts or len(parts[keys.DOWN]) != 2 * self.lora_dim:
            return dict(parts)
        dim = self.lora_dim
        return {keys.ALPHA: parts[keys.ALPHA] / 2, keys.DOWN: parts[keys.DOWN][:dim], DOWN0: parts[keys.DOWN][dim:],
                keys.UP: parts[keys.UP][:, :dim], UP0: -parts[keys.UP][:, dim:]}
