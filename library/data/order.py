"""Which pictures form which batch, in which order. The default order is a pure function of (seed, epoch).

Workers, processes and a stop in the middle change nothing: every process makes the same list and takes its share of it,
and everything random about a picture comes from a seed of its own, made of the run's seed, the epoch and its place.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from .plan import DatasetPlan, Item

Sign = Literal["positive", "negative", "neutral"]
CYCLE: tuple[Sign, ...] = ("positive", "negative", "neutral")
Source = tuple[int, int]
"""(part, subset)"""


@dataclass(frozen=True)
class BatchRef:
    """A batch before its pictures are read: indices of items, and the seed of everything random about each."""

    part: int
    items: tuple[int, ...]
    seeds: tuple[str, ...]
    epoch: int
    number: int
    """Its place in the epoch, over all processes."""


@dataclass(frozen=True)
class Group:
    """What the pictures of a batch share. ``subset`` is -1 where pictures of several subsets may share one."""

    part: int
    bucket: tuple[int, int]
    strength: float | None
    subset: int


def sign(strength: float | None) -> Sign:
    """Which turn of the slider cycle a strength belongs to."""
    if not strength:
        return "neutral"
    return "positive" if strength > 0 else "negative"


def batch_counts(plan: DatasetPlan) -> int:
    """Batches of one epoch."""
    return sum(sign_counts(plan).values())


def sign_counts(plan: DatasetPlan) -> dict[Sign, int]:
    """Batches of one epoch by sign; pairs count as positive. Without a slider all are neutral."""
    counts: dict[Sign, int] = dict.fromkeys(CYCLE, 0)
    for group, indices in _groups(plan).items():
        counts[sign(group.strength)] += -(-len(indices) // plan.parts[group.part].batch_size)
    if balances(plan) and counts["positive"] and counts["negative"]:
        counts["positive"] = counts["negative"] = max(counts["positive"], counts["negative"])
    return counts


def balances(plan: DatasetPlan) -> bool:
    """Whether the sign with fewer batches is gone through again; pairs are in balance by themselves."""
    return plan.config.slider.balance and not plan.partners


def epoch_order(plan: DatasetPlan, seed: int, epoch: int) -> list[BatchRef]:
    """The batches of an epoch: every picture as often as its repeats say, buckets mixed, the last of a bucket maybe smaller.

    With slider strengths the batches come positive, negative, neutral in turn; a sign that has run out drops out.
    """
    rng = random.Random(f"{seed}/order/{epoch}")
    batches: list[tuple[Group, tuple[int, ...]]] = []
    for group, indices in _groups(plan).items():
        batches += _cut(plan, group, indices, rng)
    rng.shuffle(batches)
    if balances(plan):
        batches += _recycled(plan, batches, rng)
    if plan.has_strengths:
        batches = _cycled(plan, batches, rng)
    refs, position = [], 0
    for number, (group, items) in enumerate(batches):
        seeds = tuple(f"{seed}/{epoch}/{position + place}" for place in range(len(items)))
        if items[0] in plan.partners:  # a pair shares all that is random
            items, seeds = (*items, *(plan.partners[item] for item in items)), seeds * 2
        refs.append(BatchRef(group.part, items, seeds, epoch, number))
        position += len(items)
    return refs


def _cut(plan: DatasetPlan, group: Group, indices: list[int], rng: random.Random) -> list[tuple[Group, tuple[int, ...]]]:
    """A group's pictures in random order as batches."""
    rng.shuffle(indices)
    size = plan.parts[group.part].batch_size
    return [(group, tuple(indices[start:start + size])) for start in range(0, len(indices), size)]


def _recycled(plan: DatasetPlan, batches: list[tuple[Group, tuple[int, ...]]],
              rng: random.Random) -> list[tuple[Group, tuple[int, ...]]]:
    """Further batches of the sign that has fewer: its pictures again, in a new order each time."""
    have = {name: sum(sign(group.strength) == name for group, _ in batches) for name in ("positive", "negative")}
    short = min(have, key=lambda name: have[name])
    missing, more = max(have.values()) - have[short], []
    groups = {group: indices for group, indices in _groups(plan).items() if sign(group.strength) == short}
    while groups and len(more) < missing:
        again = [batch for group, indices in groups.items() for batch in _cut(plan, group, indices, rng)]
        rng.shuffle(again)
        more += again
    return more[:missing]


def _probability(plan: DatasetPlan, item: Item) -> float:
    return plan.parts[item.part].subsets[item.subset].probability


def _groups(plan: DatasetPlan) -> dict[Group, list[int]]:
    """Items, repeats counted, by what a batch must share.

    In slider runs a set of probability 0 is left out (a neutral one too, where ``--slider_neutral skip`` says so), and sets
    of one sign with different probabilities share no batch.
    """
    chances: dict[Sign, set[float]] = {}
    slides, skips = plan.has_strengths, plan.config.slider.neutral == "skip"
    if slides:
        for item in plan.items:
            chances.setdefault(sign(item.strength), set()).add(_probability(plan, item))
    groups: dict[Group, list[int]] = {}
    negatives = set(plan.partners.values())
    for index, item in enumerate(plan.items):
        if index in negatives:
            continue
        drawn_by = chances.get(sign(item.strength), {1.0})
        if slides and (_probability(plan, item) <= 0 or (skips and item.strength == 0)):
            continue
        group = Group(item.part, item.placement.bucket, item.strength, item.subset if len(drawn_by) > 1 else -1)
        groups.setdefault(group, []).extend([index] * item.repeats)
    in_order = sorted(groups, key=lambda one: (one.part, one.bucket, one.strength or 0.0, one.subset))
    return {group: groups[group] for group in in_order}


def _cycled(plan: DatasetPlan, batches: list[tuple[Group, tuple[int, ...]]],
            rng: random.Random) -> list[tuple[Group, tuple[int, ...]]]:
    """Deal batches positive, negative, neutral; inside a sign by the weights of its sets, as long as a set has batches."""
    waiting: dict[Sign, dict[Source, deque]] = {name: {} for name in CYCLE}
    weights: dict[Source, float] = {}
    for batch in batches:
        group, items = batch
        source = group.part, group.subset
        weights[source] = _probability(plan, plan.items[items[0]]) if group.subset >= 0 else 1.0
        waiting[sign(group.strength)].setdefault(source, deque()).append(batch)
    dealt = []
    while any(waiting.values()):
        for name in CYCLE:
            sources = waiting[name]
            if not sources:
                continue
            source = _drawn(sources, weights, rng)
            dealt.append(sources[source].popleft())
            if not sources[source]:
                del sources[source]
    return dealt


def _drawn(sources: Mapping[Source, deque], weights: Mapping[Source, float], rng: random.Random) -> Source:
    names = list(sources)
    if len(names) == 1:
        return names[0]
    shares = [weights[name] if name[1] >= 0 else weights[name] * len(sources[name]) for name in names]
    return rng.choices(names, shares)[0]
