"""Work over the layers of a file: several at a time, with a progress bar, in the layers' order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
FEW = 64
"""Fewer layers than this need no progress bar."""


def each(what: str, items: Sequence[Item], function: Callable[[Item], Result], device: str | None = None,
         most: int | None = None) -> Iterator[Result]:
    """``function`` of every item, in order; on the CPU as many at once as torch has threads (``most``), each with one thread.

    Many thin layers leave most of a product's threads idle; a layer to a thread does not.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, most or threads) if (device or "cpu").startswith("cpu") else 1
    if workers < 2 or len(items) < 2:
        yield from shown(what, map(_without_gradients(function), items), len(items))
        return
    from concurrent.futures import ThreadPoolExecutor

    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(workers, initializer=lambda: torch.set_num_threads(1)) as pool:
            yield from shown(what, pool.map(_without_gradients(function), items), len(items))
    finally:
        torch.set_num_threads(threads)


def _without_gradients(function: Callable[[Item], Result]) -> Callable[[Item], Result]:
    import torch

    def quiet(item: Item) -> Result:
        with torch.no_grad():
            return function(item)

    return quiet


def shown(what: str, results: Iterator[Result], count: int) -> Iterator[Result]:
    """``results`` behind a progress bar, where they are many and somebody looks."""
    if count < FEW or not sys.stderr.isatty():
        return results
    from tqdm import tqdm

    return iter(tqdm(results, desc=what, total=count, leave=False))
