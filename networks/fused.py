"""Adapters of layers that an original checkpoint holds as one: put together without loss, and taken apart again.

The q, k and v that diffusers keeps apart are one ``qkv`` in many original checkpoints, and programs that read LoRA
files by the original's names expect one adapter for it. The parts' adapters become its blocks on the diagonal: the
change of weight is the same number by number, the rank is the sum of the parts' ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]
Rows = Sequence[tuple[int, int]]
"""(first row, number of rows) of every part in the whole, in order."""

ALPHA = "alpha"
FACTORS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "lora": (("lora_up.weight", "lora_down.weight"),),
    "loha": (("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")),
}
"""Kind of adapter -> its pairs (outputs x rank, rank x inputs); kinds that are no such product are not put together."""


def is_plain(kind: str | None, parts: Tensors) -> bool:
    """Tell whether a module's tensors are such pairs and an alpha, of a linear layer, and nothing else."""
    pairs = FACTORS.get(kind or "", ())
    wanted = {name for pair in pairs for name in pair}
    return bool(pairs) and set(parts) - {ALPHA} == wanted and all(parts[name].dim() == 2 for name in wanted)


def join(kind: str, parts: Sequence[Tensors | None], rows: Rows) -> dict[str, torch.Tensor]:
    """The adapter of the whole from those of its parts; None = a part without adapter, which becomes zeros.

    Every part gets the largest rank of them all, filled up with zeros, so that readers that divide the rank by the
    number of parts find the blocks again.
    """
    import torch

    pairs, present = FACTORS[kind], [p for p in parts if p is not None]
    first = present[0]
    rank = max(p[pairs[0][1]].shape[0] for p in present)
    whole: dict[str, torch.Tensor] = {}
    for n, (left, right) in enumerate(pairs):
        wide = torch.zeros(rank * len(parts), first[right].shape[1], dtype=first[right].dtype)
        tall = torch.zeros(sum(count for _, count in rows), rank * len(parts), dtype=first[left].dtype)
        for i, (part, (start, count)) in enumerate(zip(parts, rows, strict=True)):
            if part is not None:
                own = slice(i * rank, i * rank + part[right].shape[0])
                ratio = _scale(kind, part) / _scale(kind, first) if n == 0 else 1.0
                wide[own] = part[right]
                tall[start : start + count, own] = part[left] if ratio == 1.0 else part[left] * ratio
        whole[right], whole[left] = wide, tall
    own_rank = first[pairs[0][1]].shape[0]
    alpha = float(first[ALPHA]) if ALPHA in first else own_rank
    kept = first[ALPHA].dtype if ALPHA in first else torch.float32
    return whole | {ALPHA: torch.tensor(alpha * rank * len(parts) / own_rank, dtype=kept)}


def _scale(kind: str, part: Tensors) -> float:
    rank = part[FACTORS[kind][0][1]].shape[0]
    return float(part[ALPHA]) / rank if ALPHA in part else 1.0


def split(kind: str, whole: Tensors, rows: Rows) -> list[dict[str, torch.Tensor] | None]:
    """The parts' adapters from that of the whole; the inverse of ``join``, None where it holds nothing of a part.

    An adapter that is not of blocks (trained on the whole) goes to every part at its full rank, with the part's rows.
    """
    import torch

    pairs = FACTORS[kind]
    rank = whole[pairs[0][1]].shape[0]
    alpha = float(whole[ALPHA]) if ALPHA in whole else float(rank)
    size = rank // len(rows) if _in_blocks(pairs, whole, rows) else None
    found: list[dict[str, torch.Tensor] | None] = []
    for i, (start, count) in enumerate(rows):
        columns = slice(None) if size is None else slice(i * size, i * size + _used(pairs, whole, i, size))
        part = {right: whole[right][columns].clone() for _, right in pairs}
        part |= {left: whole[left][start : start + count, columns].clone() for left, _ in pairs}
        own_rank = part[pairs[0][1]].shape[0]
        part[ALPHA] = torch.tensor(alpha * own_rank / rank, dtype=whole[ALPHA].dtype if ALPHA in whole else torch.float32)
        found.append(part if own_rank else None)
    return found


def _in_blocks(pairs: Sequence[tuple[str, str]], whole: Tensors, rows: Rows) -> bool:
    rank = whole[pairs[0][1]].shape[0]
    if rank % len(rows):
        return False
    size = rank // len(rows)
    for left, _ in pairs:
        for i, (start, count) in enumerate(rows):
            part = whole[left][start : start + count]
            if part[:, : i * size].any() or part[:, (i + 1) * size :].any():
                return False
    return True


def _used(pairs: Sequence[tuple[str, str]], whole: Tensors, index: int, size: int) -> int:
    """Rank of one block without the zeros that filled it up; an untrained pair has zeros on one side alone."""
    block = slice(index * size, (index + 1) * size)
    used = sum(whole[left][:, block].any(0).int() + whole[right][block].any(1).int() for left, right in pairs).nonzero()
    return int(used.max()) + 1 if len(used) else 0


def swap_halves(kind: str, parts: Tensors) -> dict[str, torch.Tensor]:
    """The adapter of a layer whose first and second half of rows stand in the other order."""
    import torch

    lefts = {left for left, _ in FACTORS[kind]}
    return {name: torch.cat(t.chunk(2)[::-1]) if name in lefts else t for name, t in parts.items()}
