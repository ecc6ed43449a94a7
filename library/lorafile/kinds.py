"""What the tensors of one module amount to: two thin factors where the kind has them, else a change of the whole weight.

One row of ``FACTORS`` or ``CHANGES`` is one kind of adapter. Kinds are told apart by suffixes (``networks/keys.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.util.records import Problem, UserError
from networks import keys

if TYPE_CHECKING:
    import torch

Parts = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Product:
    """A module's change of weight as ``up @ down``, fp32, its scale folded in.

    ``kernel`` is a convolution's, () for a linear layer; down's columns are inputs times kernel.
    """

    up: torch.Tensor
    down: torch.Tensor
    kernel: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    def weight(self) -> torch.Tensor:
        """The change in the weight's own shape."""
        return (self.up @ self.down).reshape(self.up.shape[0], -1, *self.kernel)


def _scale(parts: Parts, rank: int) -> float:
    # No alpha, or an alpha of 0, means alpha = rank.
    return (keys.alpha_of(parts) or float(rank)) / rank


def _lora(parts: Parts) -> Product:
    down, up = parts[keys.DOWN].float(), parts[keys.UP].float()
    scale = _scale(parts, down.shape[0])
    if keys.MID in parts:
        # up (1x1), mid (kernel), down (1x1): mid and down together are one convolution of the full kernel.
        down = parts[keys.MID].float().movedim(1, -1) @ down.flatten(1)
        down = down.movedim(-1, 1)
    return Product(up.flatten(1) * scale, down.flatten(1), tuple(down.shape[2:]))


def _loha(parts: Parts) -> Product | None:
    if "hada_t1" in parts:
        return None
    (a1, b1), (a2, b2) = ((parts[f"hada_w{n}_a"].float(), parts[f"hada_w{n}_b"].float()) for n in (1, 2))
    # Elementwise product of two products = product of all pairs of their columns and rows.
    up = (a1[:, :, None] * a2[:, None, :]).flatten(1)
    down = (b1[:, None, :] * b2[None, :, :]).flatten(0, 1)
    return Product(up * _scale(parts, b1.shape[0]), down)


def _lokr(parts: Parts) -> Product | None:
    import torch

    if "lokr_t2" in parts:
        return None
    first = parts["lokr_w1"].float() if "lokr_w1" in parts else parts["lokr_w1_a"].float() @ parts["lokr_w1_b"].float()
    low = parts.get("lokr_w2_b", parts.get("lokr_w1_b"))
    scale = 1.0 if low is None else _scale(parts, low.shape[0])
    if "lokr_w2" in parts:
        second = parts["lokr_w2"].float()
        kernel = tuple(second.shape[2:])
        left, right = torch.eye(second.shape[0]), second.flatten(1)
    else:
        left, right, kernel = parts["lokr_w2_a"].float(), parts["lokr_w2_b"].float(), ()
    # kron(A, B C) = kron(A, B) kron(1, C)
    down = torch.kron(torch.eye(first.shape[1]), right)
    if kernel:
        down = down.reshape(len(down), -1)
    return Product(torch.kron(first, left) * scale, down, kernel)


FACTORS: dict[str, Callable[[Parts], Product | None]] = {"lora": _lora, "loha": _loha, "lokr": _lokr}


def product(stem: str, parts: Parts, kernel: tuple[int, ...] | None = None) -> Product:
    """A module as two thin factors; ``kernel``: the layer's, for kinds whose tensors do not tell it.

    Raises UserError for kinds that have no such factors.
    """
    kind = keys.kind_of(parts)
    found = None
    if kind in FACTORS and keys.DORA not in parts:
        found = FACTORS[kind](parts)
    if found is None:
        name = "DoRA" if keys.DORA in parts else kind
        raise UserError(Problem(stem, f"a {name} module is not a product of two thin matrices",
                                "Merge the file into its model instead (merge_lora --sd_model)."))
    return found if kernel is None or found.kernel else Product(found.up, found.down, kernel)


def as_lora(svd_factors: tuple[torch.Tensor, torch.Tensor], kernel: tuple[int, ...], alpha: float,
            dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """kohya's three tensors of a module from thin factors [m, r], [r, n]."""
    import torch

    up, down = svd_factors
    if kernel:
        up, down = up.reshape(*up.shape, *(1 for _ in kernel)), down.reshape(len(down), -1, *kernel)
    return {keys.DOWN: down.to("cpu", dtype).contiguous(), keys.UP: up.to("cpu", dtype).contiguous(),
            keys.ALPHA: torch.tensor(alpha, dtype=dtype)}


def change(stem: str, parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    """What a module adds to its layer's ``weight`` at multiplier 1: fp32, in the weight's shape.

    Raises UserError where the module's size is another than the layer's, or its kind is not known here.
    """
    kind = keys.kind_of(parts)
    weight = weight.float()
    if kind in FACTORS:
        found = FACTORS[kind](parts)
        delta = found.up @ found.down if found is not None else _tucker(parts)
    elif kind in CHANGES:
        delta = CHANGES[kind](parts, weight)
    else:
        raise UserError(Problem(stem, f"modules of the kind {kind} cannot be merged into a weight",
                                "Use the file at run time instead of merging it."))
    if delta.numel() != weight.numel():
        what = f"its change has {keys.shape_text(delta.shape)} values, the layer's weight {keys.shape_text(weight.shape)}"
        raise UserError(Problem(stem, what, "Use a LoRA that was made for this model's architecture."))
    delta = delta.reshape(weight.shape)
    return _dora(parts, weight, delta) if keys.DORA in parts else delta


def _tucker(parts: Parts) -> torch.Tensor:
    """LoHa and LoKr with a core tensor for convolutions (lycoris' use_tucker)."""
    import torch

    if "hada_t1" in parts:
        sides = [torch.einsum("ijkl,jr,ip->prkl", *(parts[f"hada_{n}"].float() for n in (f"t{i}", f"w{i}_b", f"w{i}_a")))
                 for i in (1, 2)]
        return sides[0] * sides[1] * _scale(parts, parts["hada_w1_b"].shape[0])
    core, a, b = (parts[f"lokr_{n}"].float() for n in ("t2", "w2_a", "w2_b"))
    second = torch.einsum("ijkl,jr,ip->prkl", core, b, a)
    first = parts["lokr_w1"].float() if "lokr_w1" in parts else parts["lokr_w1_a"].float() @ parts["lokr_w1_b"].float()
    return torch.kron(first[:, :, None, None], second) * _scale(parts, b.shape[0])


def _dora(parts: Parts, weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """DoRA (arXiv 2402.09353): the changed weight is brought to learned norms, per output or (lycoris) per input."""
    merged, magnitude = weight + delta, parts[keys.DORA].float()
    per_output = magnitude.shape[0] == weight.shape[0] and magnitude.numel() == weight.shape[0]
    if per_output:
        norm = merged.flatten(1).norm(dim=1).reshape(-1, *[1] * (weight.dim() - 1))
    else:
        norm = merged.transpose(0, 1).flatten(1).norm(dim=1).reshape(1, -1, *[1] * (weight.dim() - 2))
    return merged * (magnitude.reshape(norm.shape) / norm) - weight


def _full(parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    return parts["diff"].float()


def _ia3(parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    factor = parts["weight"].float().flatten()
    along_input = bool(parts["on_input"]) if "on_input" in parts else False
    shape = (1, -1, *[1] * (weight.dim() - 2)) if along_input else (-1, *[1] * (weight.dim() - 1))
    return weight * factor.reshape(shape)


def _norm(parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    return parts["w_norm"].float()


def _oft(parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    from networks import oft

    if "rescale" in parts or parts[oft.BLOCKS].dim() != 3:
        raise UserError(Problem("OFT", "this is lycoris' diag-oft, whose rules differ from kohya's OFT",
                                "Use the file at run time instead of merging it."))
    alpha = keys.alpha_of(parts)
    bound = (oft.DEFAULT_BOUND if alpha is None else alpha) * weight.shape[0]
    return oft.turned(oft.turn(parts[oft.BLOCKS].float(), bound), weight)


CHANGES: dict[str, Callable[[Parts, torch.Tensor], torch.Tensor]] = {"full": _full, "ia3": _ia3, "norms": _norm,
                                                                          "oft": _oft}


def bias_change(parts: Parts) -> torch.Tensor | None:
    """What a module adds to its layer's bias; None where nothing."""
    return parts.get("diff_b", parts.get("b_norm"))
