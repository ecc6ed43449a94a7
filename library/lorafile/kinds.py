"""What the tensors of one module amount to: two thin factors where the kind has them, else a change of the whole weight.

One row of ``FACTORS`` or ``CHANGES`` is one kind of adapter. Kinds are told apart by suffixes (``networks/keys.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.util.records import Problem, UserError
from library.util.said import say
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
        raise UserError(Problem(stem, say("A {name} module is not a product of two thin matrices.", name=name),
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


def change(stem: str, parts: Parts, weight: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """What a module adds to its layer's ``weight`` at a strength: fp32, in the weight's shape.

    Raises UserError where the module's size is another than the layer's, or its kind is not known here.
    """
    kind = "rotation" if keys.kind_of(parts) == "oft" and not keys.is_kohyas_oft(stem) else keys.kind_of(parts)
    weight = weight.float()
    if kind in FACTORS:
        found = FACTORS[kind](parts)
        delta = found.up @ found.down if found is not None else _tucker(parts)
    elif kind in CHANGES:
        return _fitting(stem, CHANGES[kind](parts, weight) * strength, weight)
    elif kind == "rotation":
        return _fitting(stem, _rotated(stem, parts, weight, strength), weight)
    else:
        raise UserError(Problem(stem, say("Modules of the kind {kind} cannot be merged into a weight.", kind=kind),
                                "Use the file at run time instead of merging it."))
    delta = _fitting(stem, delta, weight)
    return (_dora(parts, weight, delta) if keys.DORA in parts else delta) * strength


def _fitting(stem: str, delta: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    if delta.numel() != weight.numel():
        what = say(
            "Its change has {shape_text} values, the layer's weight {shape_text2}.",
            shape_text=keys.shape_text(delta.shape),
            shape_text2=keys.shape_text(weight.shape),
        )
        raise UserError(Problem(stem, what, "Use a LoRA that was made for this model's architecture."))
    return delta.reshape(weight.shape)


def _rotated(stem: str, parts: Parts, weight: torch.Tensor, strength: float) -> torch.Tensor:
    """lycoris' diag-oft (blocks [k, n, n]) and BOFT (stages of blocks [m, k, n, n]) with its rule for strengths.

    Each stage is moved from the identity towards its rotation by the strength; ``rescale`` then acts whole.
    """
    import torch

    blocks = parts["oft_blocks"].float()
    skew = blocks - blocks.transpose(-1, -2)
    bound = (keys.alpha_of(parts) or 0.0) * weight.shape[0]
    norm = skew.norm() + 1e-8
    if 0 < bound < norm:
        skew = skew * (bound / norm)
    one = torch.eye(skew.shape[-1], device=skew.device)
    turns = strength * ((one + skew) @ torch.linalg.inv(one - skew) - one) + one
    if weight.shape[0] != turns.shape[-3] * turns.shape[-1]:
        raise UserError(
            Problem(
                stem,
                say(
                    "It turns {value} outputs, the layer has {shape}.",
                    value=turns.shape[-3] * turns.shape[-1],
                    shape=weight.shape[0],
                ),
                "Use a file that was made for this model's architecture.",
            )
        )
    flat = weight.flatten(1)
    if turns.dim() == 3:
        turned = torch.einsum("knm,knp->kmp", turns, flat.reshape(*turns.shape[:2], -1)).reshape(flat.shape)
    else:
        turned = flat
        for number, stage in enumerate(turns):
            stride = 2 ** number * (stage.shape[-1] // 2)
            rows = turned.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2).unflatten(0, (-1, stage.shape[-1]))
            rows = torch.einsum("bij,bjp->bip", stage, rows).flatten(0, 1)
            turned = rows.unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
    if "rescale" in parts:
        turned = turned * parts["rescale"].float().reshape(-1, 1)
    return turned - flat


def _tucker(parts: Parts) -> torch.Tensor:
    """LoHa and LoKr with a core tensor for convolutions (lycoris' use_tucker)."""
    import torch

    if "hada_t1" in parts:
        sides = [torch.einsum("ijkl,jr,ip->prkl", *(parts[f"hada_{n}"].float() for n in (f"t{i}", f"w{i}_b", f"w{i}_a")))
                 for i in (1, 2)]
        return sides[0] * sides[1] * _scale(parts, parts["hada_w1_b"].shape[0])
    core, a, b = (parts[f"lokr_{n}"].float() for n in ("t2", "w2_a", "w2_b"))
    second = torch.einsum("ijkl,jr,ip->prkl", core, b, a).contiguous()
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

    alpha = keys.alpha_of(parts)
    bound = (oft.DEFAULT_BOUND if alpha is None else alpha) * weight.shape[0]
    return oft.turned(oft.turn(parts[oft.BLOCKS].float(), bound), weight)


def _glora(parts: Parts, weight: torch.Tensor) -> torch.Tensor:
    """GLoRA (arXiv 2306.07967): W A1 A2 + B1 B2, both of low rank."""
    import torch

    a1, a2, b1, b2 = (parts[f"{name}.weight"].float().flatten(1) for name in ("a1", "a2", "b1", "b2"))
    inner = torch.einsum("oi...,ij,jk->ok...", weight, a1, a2)
    return (inner + (b1 @ b2).reshape(weight.shape)) * _scale(parts, len(a2))


CHANGES: dict[str, Callable[[Parts, torch.Tensor], torch.Tensor]] = {"full": _full, "ia3": _ia3, "norms": _norm,
                                                                          "oft": _oft, "glora": _glora}


def bias_change(parts: Parts) -> torch.Tensor | None:
    """What a module adds to its layer's bias; None where nothing."""
    return parts.get("diff_b", parts.get("b_norm"))
