"""kohya's order of pictures with every draw where kohya makes it, for comparisons (``--kohya_order``).

Three habits make its order its own. Shuffles are cumulative: an epoch shuffles what the one before left. The epoch's
number reaches the data only after its first batch was fetched, so that batch still comes from the former order (a picture
may come twice and another not at all). And a batch is fetched before the step on the batch before it runs, so captions see
an older step. All draws come from Python's and torch's global generators, as the trainer's own do; a step of training may
draw in between (multires noise does). One process of loading, in the main thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

from .captions import Moment
from .plan import DatasetPlan, Item

Made = TypeVar("Made")
Make = Callable[[tuple[int, ...], Moment], Made]
"""(indices of the items, moment of their captions) -> what a batch is made of; draws from Python's global generator."""


class PartOrder:
    """One data set's buckets and batches, in the order that the shuffles so far have made."""

    def __init__(self, items: list[tuple[int, Item]], batch_size: int, buckets_sorted: bool):
        buckets: dict[tuple[int, int], list[int]] = {}
        for index, item in items:
            buckets.setdefault(item.placement.bucket, []).extend([index] * item.repeats)
        names = sorted(buckets) if buckets_sorted else list(buckets)
        self.buckets = [buckets[name] for name in names]
        self.batch_size = batch_size
        self.batches = [(bucket, batch) for bucket, content in enumerate(self.buckets)
                        for batch in range(-(-len(content) // batch_size))]

    def shuffle(self, seed: int) -> None:
        """Shuffle batches, then the pictures in each bucket, both on top of their present order."""
        random.seed(seed)
        random.shuffle(self.batches)
        for content in self.buckets:
            random.shuffle(content)

    def pictures(self, index: int) -> tuple[int, ...]:
        bucket, batch = self.batches[index]
        return tuple(self.buckets[bucket][batch * self.batch_size:(batch + 1) * self.batch_size])


class KohyaOrder:
    """The order of one run. ``epoch`` gives its batches; epochs must be asked for one after another."""

    def __init__(self, plan: DatasetPlan, seed: int, max_steps: int, accumulation: int = 1, share: tuple[int, int] = (0, 1)):
        """``seed`` is the run's; ``share`` is (rank, number of processes)."""
        before = random.getstate()
        self.dataset_seed = random.Random(seed).randint(0, 2**31) if plan.kohya_seed is None else plan.kohya_seed
        self.parts = _orders(plan, plan.items)
        for part in self.parts:
            part.shuffle(0)
        for part in _orders(plan, plan.validation):  # kohya prepares these too, and its generator goes on from there
            part.shuffle(0)
        self._stream = random.getstate()
        self._started = False
        random.setstate(before)
        self.max_steps, self.accumulation, self.rank, self.world = max_steps, accumulation, *share
        self.epoch_seen = self.step_seen = self.step_shared = 0

    @property
    def batches(self) -> int:
        """Batches of an epoch over all processes."""
        return sum(len(part.batches) for part in self.parts)

    def epoch(self, number: int, first_batch: int, make: Make[Made]) -> Iterator[Made]:
        """The batches of epoch ``number`` (from 0) for this process, one fetched ahead."""
        indices = self._shared(self._permutation())[first_batch // self.world:]
        steps = -(-len(self._shared(list(range(self.batches)))) // self.accumulation)
        ahead = [self._fetch(indices[0], number, make)] if indices else []
        for position in range(len(indices)):
            if position + 1 < len(indices):
                ahead.append(self._fetch(indices[position + 1], number, make))
            self.step_shared = number * steps + (position + first_batch // self.world) // self.accumulation
            yield ahead.pop(0)

    def _fetch(self, index: int, number: int, make: Make[Made]) -> Made:
        if not self._started:
            random.setstate(self._stream)
            self._started = True
        made = make(self._pictures(index), Moment(self.epoch_seen, self.step_seen, self.max_steps))
        while self.epoch_seen < number + 1:  # only now, behind the fetch, does the data set hear of the epoch
            self.epoch_seen += 1
            for part in self.parts:
                part.shuffle(self.dataset_seed + self.epoch_seen)
        self.step_seen = self.step_shared
        return made

    def _pictures(self, index: int) -> tuple[int, ...]:
        for part in self.parts:
            if index < len(part.batches):
                return part.pictures(index)
            index -= len(part.batches)
        raise AssertionError("index beyond the last batch")

    def _permutation(self) -> list[int]:
        """The sampler's order: one draw for worker seeds that nobody uses, one that seeds the permutation."""
        import torch

        torch.empty((), dtype=torch.int64).random_()
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
        return torch.randperm(self.batches, generator=generator).tolist()

    def _shared(self, indices: list[int]) -> list[int]:
        """Every ``world``-th batch; where they do not divide evenly the first ones come again (accelerate's rule)."""
        spare = -len(indices) % self.world
        padded = indices + [indices[i % len(indices)] for i in range(spare)]
        return padded[self.rank::self.world]


def _orders(plan: DatasetPlan, items: tuple[Item, ...]) -> list[PartOrder]:
    found = []
    for number, part in enumerate(plan.parts):
        own = [(index, item) for index, item in enumerate(items) if item.part == number]
        if own:
            found.append(PartOrder(own, part.batch_size, part.enable_bucket))
    return found
