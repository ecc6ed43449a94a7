"""Random numbers of a run: derived from its seed and the position in the data, so that nothing depends on history.

A resumed run, a run on two processes and an unbroken run then draw the same numbers for the same batch. The other
policy, ``--kohya_order``, lets one stream run on from the start, as kohya's trainer does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

SeedBatch = Callable[[int], None]
"""Called with the global number of a batch (over all epochs and processes) before anything is drawn for it."""


def derive(*parts: int | str) -> int:
    """A 63-bit seed from any mix of numbers and words (blake2b), equal on every platform and Python."""
    import hashlib

    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (every device) with one number, as accelerate's ``set_seed`` does."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def derived_seeds(seed: int) -> SeedBatch:
    """The default policy: every batch has a seed of its own."""
    import torch

    def seed_batch(number: int) -> None:
        own = derive(seed, "batch", number)
        torch.manual_seed(own)
        random.seed(own)

    return seed_batch


def running_stream(_number: int) -> None:
    """kohya's policy: nothing is seeded anew, the stream runs on."""


def skip_uniform_draws(count: int, chunk: int = 1 << 24) -> None:
    """Advance torch's CPU generator by ``count`` uniform float draws (as default initialisation takes)."""
    import torch

    buffer = torch.empty(min(chunk, count))
    for start in range(0, count, chunk):
        buffer[: min(chunk, count - start)].uniform_()


def default_init_draws(model: Any) -> int:
    """How many numbers torch draws to build a model's linear and convolution layers with their default weights."""
    import torch

    layers = (torch.nn.Linear, torch.nn.Conv2d)
    return sum(parameter.numel() for module in model.modules() if isinstance(module, layers)
               for parameter in module.parameters(recurse=False))
