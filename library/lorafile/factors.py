"""Thin matrices: the singular values of a product without ever forming it, randomised SVD, how many to keep.

A change of weight is ``up @ down`` with ``up`` [m, r] and ``down`` [r, n], r much smaller than m and n. QR of each leaves
an r x r core whose singular values are the product's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import torch

DynamicMethod = Literal["sv_ratio", "sv_fro", "sv_cumulative"]
SLICE = 1 << 22
"""Values of a matrix that are looked at in one piece."""
NOTHING = 1e-6
"""A matrix whose largest singular value is not above this counts as zero (kohya's bound)."""


class Svd(NamedTuple):
    """``left @ diag(values) @ right`` with left [m, k], values [k] from large to small, right [k, n]."""

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor

    def cut(self, rank: int) -> Svd:
        """The first ``rank`` parts."""
        return Svd(self.left[:, :rank], self.values[:rank], self.right[:rank])

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(up [m, k], down [k, n]) with the values on the up side, as kohya's tools have them."""
        return self.left * self.values, self.right


def thin_svd(up: torch.Tensor, down: torch.Tensor) -> Svd:
    """SVD of ``up @ down`` in fp32 at the cost of two thin QRs and an SVD of r x r (where r is not the larger side)."""
    import torch

    up, down = up.float(), down.float()
    if up.shape[1] >= min(up.shape[0], down.shape[1]):
        return full_svd(up @ down)
    q_up, r_up = torch.linalg.qr(up)
    q_down, r_down = torch.linalg.qr(down.T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return Svd(q_up @ left, values, right @ q_down.T)


def full_svd(matrix: torch.Tensor) -> Svd:
    """SVD of the whole matrix in fp32."""
    import torch

    return Svd(*torch.linalg.svd(matrix.float(), full_matrices=False))


def random_svd(matrix: torch.Tensor, rank: int, power: int = 4, spare: int = 16, seed: int = 0) -> Svd:
    """The first ``rank`` parts of a matrix' SVD, by a random projection refined with power iterations.

    Halko, Martinsson, Tropp, arXiv 0909.4061, algorithm 4.4: every iteration multiplies the gap between wanted and
    unwanted singular values; QR between them keeps the small ones alive. The projection is drawn from ``seed`` alone.
    """
    import torch

    matrix = matrix.float()
    rows, columns = matrix.shape
    width = min(rank + spare, rows, columns)
    if width >= 0.5 * min(rows, columns):
        return full_svd(matrix).cut(rank)
    generator = torch.Generator().manual_seed(seed)
    probe = torch.randn(columns, width, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ probe).Q
    for _ in range(power):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ basis).Q).Q
    left, values, right = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    return Svd(basis @ left, values, right).cut(rank)


def lost(matrix: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> tuple[float, float]:
    """Squared Frobenius norms of (matrix - up @ down, matrix)."""
    rest = whole = 0.0
    # In slices of rows: sums want fp64, of which a whole layer is four times the file's share.
    step = max(1, SLICE // matrix.shape[1])
    for rows, left in zip(matrix.split(step), up.split(step), strict=True):
        wanted = rows.float()
        rest += float((wanted - left.float() @ down.float()).double().pow(2).sum())
        whole += float(wanted.double().pow(2).sum())
    return rest, whole


@dataclass(frozen=True)
class RankRule:
    """How many singular values are kept: ``most``, or as many as ``method`` asks for and one, ``most`` at the most."""

    most: int
    method: DynamicMethod | None = None
    param: float = 0.0

    def rank(self, values: torch.Tensor) -> int:
        """Number of values to keep, at least 1. ``values`` from large to small."""
        if float(values[0]) <= NOTHING:
            return 1
        if self.method is None:
            return min(self.most, len(values))
        # kohya's tool keeps the values that reach the aim and one more, at least two.
        wanted = max(1, _METHODS[self.method](values.double(), self.param)) + 1
        return min(wanted, len(values), self.most)


def _by_ratio(values: torch.Tensor, param: float) -> int:
    return int((values > values[0] / param).sum())


def _by_energy(values: torch.Tensor, param: float) -> int:
    import torch

    squares = values.pow(2)
    return int(torch.searchsorted(squares.cumsum(0) / squares.sum(), param ** 2)) + 1


def _by_sum(values: torch.Tensor, param: float) -> int:
    import torch

    return int(torch.searchsorted(values.cumsum(0) / values.sum(), param)) + 1


_METHODS = {"sv_ratio": _by_ratio, "sv_fro": _by_energy, "sv_cumulative": _by_sum}


def retained(values: torch.Tensor, rank: int) -> tuple[float, float, float]:
    """(part of the sum kept, part of the Frobenius norm kept, largest / smallest kept value)."""
    values = values.double()
    if float(values[0]) <= NOTHING:
        return 1.0, 1.0, 1.0
    kept = values[:rank]
    smallest = float(kept[-1])
    ratio = float(kept[0]) / smallest if smallest > 0 else float("inf")
    return float(kept.sum() / values.sum()), float((kept.pow(2).sum() / values.pow(2).sum()).sqrt()), ratio


def clamped(up: torch.Tensor, down: torch.Tensor, quantile: float) -> tuple[torch.Tensor, torch.Tensor]:
    """kohya's ``--clamp_quantile``: both factors limited to the quantile of all their values; 1 leaves them alone."""
    import torch

    if quantile >= 1:
        return up, down
    every = torch.cat((up.flatten(), down.flatten()))
    place = quantile * (len(every) - 1)
    low = int(place)
    # Two order statistics instead of torch.quantile, which refuses more than 16 million values.
    ordered = torch.sort(every).values
    high = float(torch.lerp(ordered[low], ordered[min(low + 1, len(every) - 1)], place - low))
    return up.clamp(-high, high), down.clamp(-high, high)
