"""Batches in the order of an epoch, read ahead of the step that needs them."""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from library.util.records import Batch

from .captions import Moment
from .kohya_order import KohyaOrder
from .loading import Pictures
from .order import BatchRef, epoch_order

In = TypeVar("In")
Out = TypeVar("Out")


def read_ahead(work: Callable[[In], Out], inputs: Iterable[In], ahead: int) -> Iterator[Out]:
    """``map(work, inputs)`` in order, up to ``ahead`` results made beforehand by threads.

    Pillow and numpy let go of Python's lock while they decode and scale, so threads do here what worker processes do,
    at no start-up cost, on Windows too.
    """
    if ahead < 1:
        yield from map(work, inputs)
        return
    source = iter(inputs)
    waiting: deque[Future[Out]] = deque()
    with ThreadPoolExecutor(min(ahead, 4), thread_name_prefix="pictures") as pool:
        try:
            for one in source:
                waiting.append(pool.submit(work, one))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@dataclass
class Feed:
    """Batches of an epoch for one process, from a position on."""

    pictures: Pictures
    rank: int = 0
    processes: int = 1
    workers: int | None = None
    """Worker processes of torch's DataLoader; None: two batches are read ahead by threads of this process."""
    pin_memory: bool = False

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """The batches of epoch ``number`` (from 0); ``first_batch`` counts those of all processes."""
        refs = epoch_order(self.pictures.plan, self.pictures.setting.seed, number)
        mine = refs[first_batch:][self.rank::self.processes]
        if self.workers is None:
            return read_ahead(self.pictures.__getitem__, mine, ahead=2)
        return iter(self._loader(mine))

    def _loader(self, refs: list[BatchRef]) -> Any:
        from torch.utils.data import DataLoader

        return DataLoader(self.pictures, batch_size=None, sampler=refs, pin_memory=self.pin_memory,
                          num_workers=min(self.workers or 0, len(refs), os.cpu_count() or 1))


class KohyaFeed:
    """Batches in kohya's order, with kohya's draws from Python's global generator, faults included."""

    def __init__(self, pictures: Pictures, order: KohyaOrder):
        self.pictures, self.order = pictures, order

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        return self.order.epoch(number, first_batch, self._make)

    def _make(self, items: tuple[int, ...], moment: Moment) -> Batch:
        made = [self.pictures.one(index, random, moment) for index in items]
        part = self.pictures.plan.items[items[0]].part
        return self.pictures.collate(BatchRef(part, items, (), 0, 0), made)
