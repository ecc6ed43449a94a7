"""LoKr: the change of weight is a Kronecker product of a small full matrix and a larger one, low-rank where it pays.

Sizes are split into two factors as evenly as they go (LyCORIS, arXiv 2309.14859, whose tensor names these are).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from library.util.records import Target
from networks.base import Kind, Setup, Strength, sizes_of
from networks.contract import functions
from networks.lowrank import FullDelta, LowRankOptions, tucker

Parts = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class LoKrOptions(LowRankOptions):
    """``--network_args`` of LoKr."""

    factor: int = -1
    """Upper bound of the smaller factor of each size; -1 splits as evenly as possible."""
    decompose_both: bool = False
    """Low rank for the small matrix too, where dim is below half its size."""
    full_matrix: bool = False
    """No low rank at all."""
    use_tucker: bool = False
    """Kernels above 1x1 get a core of their own (dim x dim x kernel) between two matrices."""


def split(size: int, factor: int = -1) -> tuple[int, int]:
    """Two factors of a size, the smaller first: ``factor`` itself where it divides, else the largest not above it."""
    if factor > 0 and size % factor == 0:
        return tuple(sorted((factor, size // factor)))
    bound = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    small = next(n for n in range(bound, 0, -1) if size % n == 0)
    return small, size // small


@dataclass(frozen=True)
class Shapes:
    """Rows and columns of the two matrices, and whether each is held whole."""

    first: tuple[int, int]
    second: tuple[int, int]
    whole_first: bool
    whole_second: bool
    has_core: bool = False


def shapes_for(sizes: tuple[int, int], dim: int, options: LoKrOptions) -> Shapes:
    """Shapes for a layer of ``sizes`` (inputs, outputs); the second matrix' columns do not count the kernel."""
    (in_small, in_large), (out_small, out_large) = split(sizes[0], options.factor), split(sizes[1], options.factor)
    low_first = options.decompose_both and not options.full_matrix and dim < max(out_small, in_small) / 2
    low_second = not options.full_matrix and dim < max(out_large, in_large) / 2
    return Shapes((out_small, in_small), (out_large, in_large), not low_first, not low_second)


def shapes_in(parts: Parts, sizes: tuple[int, int]) -> Shapes:
    """Shapes as a file has them."""
    whole_first, whole_second, has_core = "lokr_w1" in parts, "lokr_w2" in parts, "lokr_t2" in parts
    first = tuple(parts["lokr_w1"].shape) if whole_first else (
        parts["lokr_w1_a"].shape[0], parts["lokr_w1_b"].shape[1])
    return Shapes(first, (sizes[1] // first[0], sizes[0] // first[1]), whole_first, whole_second, has_core)


class Kronecker(FullDelta):
    """kron(w1, w2); ``w1`` and ``w2`` whole, or each a product a @ b of rank dim. w2 starts at zero.

    With a core ``lokr_t2`` [dim, dim, kernel] ``w2_a`` is [dim, rows] and ``w2_b`` [dim, columns], as lycoris has it.
    """

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        sizes = sizes_of(target.module)
        dim = setup.rank.dim
        shapes = shapes_in(setup.parts, sizes) if setup.parts else shapes_for(sizes, dim, setup.options)
        if not setup.parts and setup.options.use_tucker and any(k > 1 for k in _kernel(target.module)):
            shapes = replace(shapes, has_core=not shapes.whole_second)
        if shapes.whole_first and shapes.whole_second:
            # Nothing is of rank dim: the scale is 1 whatever alpha was asked for.
            setup = replace(setup, rank=replace(setup.rank, alpha=float(dim)))
        super().__init__(target, setup, strength)
        kernel = math.prod(self.kernel)
        (rows, columns), (large_rows, large_columns) = shapes.first, shapes.second
        if shapes.whole_first:
            self.lokr_w1 = _drawn(rows, columns)
        else:
            self.lokr_w1_a, self.lokr_w1_b = _drawn(rows, dim), _drawn(dim, columns)
        if shapes.whole_second:
            self.lokr_w2 = nn.Parameter(torch.zeros(large_rows, large_columns, *self.kernel))
        elif shapes.has_core:
            self.lokr_t2 = _drawn(dim, dim, *self.kernel)
            self.lokr_w2_a = _drawn(dim, large_rows)
            self.lokr_w2_b = nn.Parameter(torch.zeros(dim, large_columns))
        else:
            self.lokr_w2_a = _drawn(large_rows, dim)
            self.lokr_w2_b = nn.Parameter(torch.zeros(dim, large_columns * kernel))
        self._shapes = shapes

    def _first(self) -> torch.Tensor:
        return self.lokr_w1 if self._shapes.whole_first else self.lokr_w1_a @ self.lokr_w1_b

    def _second(self) -> torch.Tensor:
        """w2 as a matrix [rows, columns times kernel]."""
        if self._shapes.whole_second:
            return self.lokr_w2.flatten(1)
        if self._shapes.has_core:
            return tucker(self.lokr_t2, self.lokr_w2_a, self.lokr_w2_b).flatten(1)
        return self.lokr_w2_a @ self.lokr_w2_b

    def change(self) -> torch.Tensor:
        return torch.kron(self._first(), self._second())

    def norm(self) -> torch.Tensor:
        # The norm of a Kronecker product is the product of the norms.
        return self._first().float().norm() * self._second().float().norm() * self.scale

    def shrink(self, ratio: torch.Tensor) -> None:
        weights = list(self.parameters())
        for weight in weights:
            weight.mul_(ratio ** (1 / len(weights)))


def _kernel(layer: nn.Module) -> tuple[int, ...]:
    return tuple(layer.kernel_size) if isinstance(layer, nn.Conv2d) else ()


def _drawn(*shape: int) -> nn.Parameter:
    weight = torch.empty(shape)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
    return nn.Parameter(weight)


def _rank(parts: Parts) -> int | None:
    if not any(suffix.startswith("lokr_w") for suffix in parts):
        return None
    low = parts.get("lokr_w2_b", parts.get("lokr_w1_b"))
    # Where both are whole there is no rank; the file's alpha then makes the scale 1.
    return int(low.shape[0]) if low is not None else max(1, round(float(parts.get("alpha", 1.0))))


KIND = Kind("lokr", Kronecker, LoKrOptions, _rank, plus_marks=("lokr_w2",))

create_network, create_network_from_weights = functions(KIND)
