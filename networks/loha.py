"""LoHa (arXiv 2108.06098): the change of weight is the elementwise product of two low-rank matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from library.util.records import Target
from networks.base import Kind, Setup, Strength, sizes_of
from networks.contract import functions
from networks.lowrank import FullDelta, LowRankOptions, tucker


@dataclass(frozen=True)
class LoHaOptions(LowRankOptions):
    """``--network_args`` of LoHa."""

    use_tucker: bool = False
    """Kernels above 1x1 get a core of their own (dim x dim x kernel) between two matrices: far fewer values."""


class Hadamard(FullDelta):
    """(w1_a @ w1_b) * (w2_a @ w2_b), each of rank dim: up to rank dim squared from two pairs of thin matrices.

    Shapes: ``a`` [outputs, dim], ``b`` [dim, inputs times kernel]; with cores ``t`` [dim, dim, kernel] ``a`` is [dim,
    outputs] and ``b`` [dim, inputs]. One of the ``a`` starts at zero: lycoris' order.
    """

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        dim, (inputs, outputs) = setup.rank.dim, sizes_of(self.layer)
        wide = any(k > 1 for k in self.kernel)
        self._has_core = "hada_t1" in setup.parts if setup.parts else wide and setup.options.use_tucker
        if self._has_core:
            self.hada_t1 = nn.Parameter(torch.randn(dim, dim, *self.kernel) * 0.1)
            self.hada_t2 = nn.Parameter(torch.randn(dim, dim, *self.kernel) * 0.1)
            shapes = ((dim, outputs), (dim, inputs))
        else:
            shapes = ((outputs, dim), (dim, self.width))
        drawn, zero = torch.randn(shapes[0]) * 0.1, torch.zeros(shapes[0])
        self.hada_w1_a = nn.Parameter(zero if self._has_core else drawn)
        self.hada_w1_b = nn.Parameter(torch.randn(shapes[1]))
        self.hada_w2_a = nn.Parameter(drawn if self._has_core else zero)
        self.hada_w2_b = nn.Parameter(torch.randn(shapes[1]))

    def change(self) -> torch.Tensor:
        if self._has_core:
            both = (tucker(self.hada_t1, self.hada_w1_a, self.hada_w1_b), tucker(self.hada_t2, self.hada_w2_a, self.hada_w2_b))
            return (both[0] * both[1]).flatten(1)
        return (self.hada_w1_a @ self.hada_w1_b) * (self.hada_w2_a @ self.hada_w2_b)

    def shrink(self, ratio: torch.Tensor) -> None:
        weights = list(self.parameters())
        for weight in weights:
            weight.mul_(ratio ** (1 / len(weights)))


def _rank(parts: Mapping[str, torch.Tensor]) -> int | None:
    return int(parts["hada_w1_b"].shape[0]) if "hada_w1_b" in parts else None


KIND = Kind("loha", Hadamard, LoHaOptions, _rank, plus_marks=("hada_w1_a", "hada_w2_a"))

create_network, create_network_from_weights = functions(KIND)
