"""Which pictures form which batch, in which order. The default order is a pure function of (seed, epoch)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .plan import DatasetPlan

Sign = str
CYCLE: tuple[Sign, ...] = ("positive", "negative", "neutral")


@dataclass(frozen=True)
class BatchRef:
    """A batch before its pictures are read: indices of items, and the seed of everything random about each."""

    part: int
    items: tuple[int, ...]
    seeds: tuple[str, ...]
    epoch: int
    number: int
    """Its place in the epoch, over all processes."""


def sign(strength: float | None) -> Sign:
    """Which group of the slider cycle a strength belongs to."""
    if not strength:
        return "neutral"
    return "positive" if strength > 0 else "negative"


def batch_counts(plan: DatasetPlan) -> int:
    """Batches of one epoch."""
    return sum(-(-len(indices) // plan.parts[key[0]].batch_size) for key, indices in _groups(plan).items())


def _groups(plan: DatasetPlan) -> dict[tuple, list[int]]:
    """Items, repeats counted, by what a batch must share: part, bucket, slider strength."""
    groups: dict[tuple, list[int]] = {}
    for index, item in enumerate(plan.items):
        key = (item.part, item.placement.bucket, item.strength)
        groups.setdefault(key, []).extend([index] * item.repeats)
    return dict(sorted(groups.items(), key=lambda pair: (pair[0][0], pair[0][1], pair[0][2] or 0.0)))


def epoch_order(plan: DatasetPlan, seed: int, epoch: int) -> list[BatchRef]:
    """The batches of an epoch: every picture as often as its repeats say, buckets mixed, in an order of their own.

    With slider strengths the batches come positive, negative, neutral in turn; a group that has run out drops out.
    """
    rng = random.Random(f"{seed}/order/{epoch}")
    batches: list[tuple[int, float | None, tuple[int, ...]]] = []
    for (part, _, strength), indices in _groups(plan).items():
        shuffled = list(indices)
        rng.shuffle(shuffled)
        size = plan.parts[part].batch_size
        batches += [(part, strength, tuple(shuffled[start:start + size])) for start in range(0, len(shuffled), size)]
    rng.shuffle(batches)
    if plan.has_strengths:
        batches = _cycled(plan, batches, rng)
    refs, position = [], 0
    for number, (part, _, items) in enumerate(batches):
        seeds = tuple(f"{seed}/{epoch}/{position + place}" for place in range(len(items)))
        refs.append(BatchRef(part, items, seeds, epoch, number))
        position += len(items)
    return refs


def _cycled(plan: DatasetPlan, batches: Sequence[tuple], rng: random.Random) -> list[tuple]:
    """Deal batches positive, negative, neutral; inside a group by the ``probability`` of their subsets."""
    waiting: dict[Sign, list[tuple]] = {name: [] for name in CYCLE}
    for batch in batches:
        waiting[sign(batch[1])].append(batch)
    dealt: list[tuple] = []
    while any(waiting.values()):
        for name in CYCLE:
            if waiting[name]:
                dealt.append(waiting[name].pop(_drawn(plan, waiting[name], rng)))
    return dealt


def _drawn(plan: DatasetPlan, group: Sequence[tuple], rng: random.Random) -> int:
    """Index of the batch that comes next: the first of a subset drawn by its weight."""
    weights: dict[int, float] = {}
    first: dict[int, int] = {}
    for index, (part, _, items) in enumerate(group):
        subset = plan.items[items[0]].subset
        first.setdefault(subset, index)
        weights[subset] = plan.parts[part].subsets[subset].probability
    if len(weights) == 1:
        return 0
    return first[rng.choices(list(weights), list(weights.values()))[0]]
