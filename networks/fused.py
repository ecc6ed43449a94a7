"""Adapters of layers that an original checkpoint holds as one: put together without loss, and taken apart again.

The q, k and v that diffusers keeps apart are one ``qkv`` in many original checkpoints, and programs that read LoRA
files by the original's names expect one adapter for it. The parts' adapters become its blocks on the diagonal: the
change of weight is the same number by number, the rank is the sum of the parts' ranks. What acts on outputs one by one
(DoRA's lengths, (IA)^3's factors) is put below each other; kohya's OFT numbers its parts (``oft_blocks.0``, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, "torch.Tensor"]
Rows = Sequence[tuple[int, int]]
"""(first row, number of rows) of every part in the whole, in order."""

ALPHA, LENGTHS = "alpha", "dora_scale"
FACTOR, ON_INPUT, BLOCKS = "weight", "on_input", "oft_blocks"
FACTORS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "lora": (("lora_up.weight", "lora_down.weight"),),
    "loha": (("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b")),
}
"""Kind of adapter -> its pairs (outputs x rank, rank x inputs); kinds that are no such product are not put together."""


def is_plain(kind: str | None, parts: Tensors) -> bool:
    """Tell whether a module's tensors are such pairs, factors or rotations of a linear layer's outputs, and nothing else."""
    if kind == "ia3":
        return set(parts) == {FACTOR, ON_INPUT} and not parts[ON_INPUT] and parts[FACTOR].dim() == 1
    if kind == "oft":
        numbered = {f"{BLOCKS}.{n}" for n in range(len(parts) - 1)}
        return bool(parts) and (set(parts) - {ALPHA} in ({BLOCKS}, numbered)) and all(t.dim() in (0, 3) for t in parts.values())
    pairs = FACTORS.get(kind or "", ())
    wanted = {name for pair in pairs for name in pair}
    return bool(pairs) and set(parts) - {ALPHA, LENGTHS} == wanted and all(parts[name].dim() == 2 for name in wanted)


def goes_together(parts: Sequence[Tensors | None]) -> bool:
    """Whether parts can be one: lengths of outputs (DoRA) must be known of all of them or of none."""
    found = [part is not None and LENGTHS in part for part in parts]
    return all(found) or not any(found)


def join(kind: str, parts: Sequence[Tensors | None], rows: Rows) -> dict[str, torch.Tensor]:
    """The adapter of the whole from those of its parts; None = a part without adapter, which becomes zeros."""
    return {"ia3": _join_factors, "oft": _join_rotations}.get(kind, lambda p, r: _join_pairs(kind, p, r))(parts, rows)


def _join_factors(parts: Sequence[Tensors | None], rows: Rows) -> dict[str, torch.Tensor]:
    import torch

    first = next(p for p in parts if p is not None)
    return {FACTOR: torch.cat([first[FACTOR].new_zeros(count) if p is None else p[FACTOR]
                               for p, (_, count) in zip(parts, rows, strict=True)]), ON_INPUT: first[ON_INPUT]}


def _join_rotations(parts: Sequence[Tensors | None], rows: Rows) -> dict[str, torch.Tensor]:
    first = next(p for p in parts if p is not None)
    blocks = len(first[BLOCKS])
    whole = {f"{BLOCKS}.{n}": first[BLOCKS].new_zeros(blocks, count // blocks, count // blocks) if p is None else p[BLOCKS]
             for n, (p, (_, count)) in enumerate(zip(parts, rows, strict=True))}
    return whole | ({ALPHA: first[ALPHA]} if ALPHA in first else {})


def _join_pairs(kind: str, parts: Sequence[Tensors | None], rows: Rows) -> dict[str, torch.Tensor]:
    """Every part gets the largest rank of them all, filled up with zeros, so that readers that divide the rank by the
    number of parts find the blocks again."""
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
    lengths = {LENGTHS: torch.cat([part[LENGTHS] for part in present])} if LENGTHS in first else {}
    return whole | {ALPHA: torch.tensor(alpha * rank * len(parts) / own_rank, dtype=kept)} | lengths


def _scale(kind: str, part: Tensors) -> float:
    rank = part[FACTORS[kind][0][1]].shape[0]
    return float(part[ALPHA]) / rank if ALPHA in part else 1.0


def split(kind: str, whole: Tensors, rows: Rows) -> list[dict[str, torch.Tensor] | None]:
    """The parts' adapters from that of the whole; the inverse of ``join``, None where it holds nothing of a part.

    An adapter that is not of blocks (trained on the whole) goes to every part at its full rank, with the part's rows.
    """
    if kind in ("ia3", "oft"):
        return _split_rows(kind, whole, rows)
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
        if LENGTHS in whole:
            part[LENGTHS] = whole[LENGTHS][start : start + count].clone()
        found.append(part if own_rank else None)
    return found


def _split_rows(kind: str, whole: Tensors, rows: Rows) -> list[dict[str, torch.Tensor] | None]:
    """Parts of (IA)^3 and OFT; one of zeros has no adapter, unless all are zero: those are untrained."""
    if kind == "ia3":
        parts = [{FACTOR: whole[FACTOR][start : start + count].clone(), ON_INPUT: whole[ON_INPUT]} for start, count in rows]
    else:
        alpha = {ALPHA: whole[ALPHA]} if ALPHA in whole else {}
        parts = [{BLOCKS: whole[f"{BLOCKS}.{n}"], **alpha} for n in range(len(rows))]
    mark = FACTOR if kind == "ia3" else BLOCKS
    trained = [bool(part[mark].any()) for part in parts]
    return [part if full or not any(trained) else None for part, full in zip(parts, trained, strict=True)]


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

    lefts = {left for left, _ in FACTORS.get(kind, ())} | {LENGTHS, FACTOR}
    return {name: torch.cat(t.chunk(2)[::-1]) if name in lefts else t for name, t in parts.items()}
