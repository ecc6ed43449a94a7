"""LoHa (arXiv 2108.06098): the change of weight is the elementwise product of two low-rank matrices."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from library.util.records import Target
from networks.base import Kind, Setup, Strength, sizes_of
from networks.contract import functions
from networks.lowrank import FullDelta, LowRankOptions


class Hadamard(FullDelta):
    """(w1_a @ w1_b) * (w2_a @ w2_b), each of rank dim: up to rank dim squared from two pairs of thin matrices.

    Shapes: ``a`` [outputs, dim], ``b`` [dim, inputs times kernel]. One of the four starts at zero.
    """

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        dim = setup.rank.dim
        outputs = sizes_of(self.layer)[1]
        width = self.width
        self.hada_w1_a = nn.Parameter(torch.randn(outputs, dim) * 0.1)
        self.hada_w1_b = nn.Parameter(torch.randn(dim, width))
        self.hada_w2_a = nn.Parameter(torch.zeros(outputs, dim))
        self.hada_w2_b = nn.Parameter(torch.randn(dim, width))

    def change(self) -> torch.Tensor:
        return (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)

    def shrink(self, ratio: torch.Tensor) -> None:
        for weight in self.parameters():
            weight.mul_(ratio ** 0.25)


def _rank(parts: Mapping[str, torch.Tensor]) -> int | None:
    return int(parts["hada_w1_b"].shape[0]) if "hada_w1_b" in parts and "hada_t1" not in parts else None


KIND = Kind("loha", Hadamard, LowRankOptions, _rank, plus_marks=("hada_w1_a", "hada_w2_a"))

create_network, create_network_from_weights = functions(KIND)
