"""Matched pictures of a slider (``--slider_pairing filename``): who belongs to whom, and their common bucket."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .buckets import BucketRules, Size
from .plan import Item


@dataclass(frozen=True)
class Paired:
    """Items with each positive's partner: index of the positive -> index of its negative."""

    items: tuple[Item, ...]
    partners: dict[int, int]
    by_name: int
    """Pairs whose names match; the others were matched by shape."""


def pair(items: Iterable[Item], rules: tuple[BucketRules, ...]) -> Paired:
    """Match every positive picture with a negative one of its data set, by name, else by the nearest shape.

    Both get the positive's bucket and the larger number of repeats. Where one side has more pictures, those of the other
    are used again; then the picture that is left over takes the bucket of the one that is used again.
    """
    kept: list[Item] = []
    couples: list[tuple[Item, Item]] = []
    by_name = 0
    items = list(items)
    for part, own_rules in enumerate(rules):
        mine = [item for item in items if item.part == part]
        positive = [item for item in mine if (item.strength or 0) > 0 and not item.is_reg]
        negative = [item for item in mine if (item.strength or 0) < 0 and not item.is_reg]
        if not positive or not negative:
            kept += mine
            continue
        kept += [item for item in mine if item not in positive and item not in negative]
        named = _named(positive, negative)
        by_name += len(named)
        couples += _placed([*named, *_shaped(positive, negative, named)], own_rules)
    partners = {len(kept) + 2 * number: len(kept) + 2 * number + 1 for number in range(len(couples))}
    return Paired((*kept, *(item for couple in couples for item in couple)), partners, by_name)


def _named(positive: list[Item], negative: list[Item]) -> list[tuple[Item, Item]]:
    """Pairs of one name, first those whose strengths differ in sign alone."""
    couples: list[tuple[Item, Item]] = []
    keys: tuple[Callable[[Item], tuple], ...] = (
        lambda item: (item.path.stem, abs(item.strength or 0)), lambda item: (item.path.stem,))
    for key in keys:
        taken = {id(item) for couple in couples for item in couple}
        waiting: dict[tuple, list[Item]] = {}
        for item in negative:
            if id(item) not in taken:
                waiting.setdefault(key(item), []).append(item)
        for item in positive:
            if id(item) not in taken and waiting.get(key(item)):
                couples.append((item, waiting[key(item)].pop(0)))
    return couples


def _shaped(positive: list[Item], negative: list[Item], named: list[tuple[Item, Item]]) -> list[tuple[Item, Item]]:
    """Pairs of what names did not match, by the nearest ratio of sides; the shorter side is used again."""
    taken = {id(item) for couple in named for item in couple}
    above, below = ([item for item in side if id(item) not in taken] for side in (positive, negative))
    couples = []
    while above and below:
        one = above.pop(0)
        couples.append((one, below.pop(_nearest(one, below))))
    used = {False: 0, True: 0}
    for rest, others, flipped in ((above, negative, False), (below, positive, True)):
        for one in rest:
            ranked = sorted(others, key=lambda other: _distance(one, other))
            ties = [other for other in ranked if _distance(one, other) == _distance(one, ranked[0])]
            other = ties[used[flipped] % len(ties)]
            used[flipped] += 1
            couples.append((other, one) if flipped else (one, other))
    return couples


def _distance(one: Item, other: Item) -> float:
    return abs(math.log((one.size[0] / one.size[1]) / (other.size[0] / other.size[1])))


def _nearest(one: Item, others: list[Item]) -> int:
    return min(range(len(others)), key=lambda index: _distance(one, others[index]))


def _moved(item: Item, bucket: Size, rules: BucketRules) -> Item:
    return item if item.placement.bucket == bucket else replace(item, placement=rules.placed_in(bucket, item.size))


def _placed(couples: list[tuple[Item, Item]], rules: BucketRules) -> list[tuple[Item, Item]]:
    """Each pair in one bucket; a picture keeps the bucket that it got first, so that one cache serves it."""
    chosen: dict[int, Item] = {}
    found = []
    for positive, negative in couples:
        first, second = chosen.get(id(positive), positive), chosen.get(id(negative), negative)
        lead = second if id(negative) in chosen and id(positive) not in chosen else first
        first, second = (_moved(one, lead.placement.bucket, rules) for one in (first, second))
        chosen[id(positive)], chosen[id(negative)] = first, second
        repeats = max(first.repeats, second.repeats)
        found.append((replace(first, repeats=repeats), replace(second, repeats=repeats)))
    return found
