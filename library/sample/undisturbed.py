"""Drawing in the middle of a training run without leaving a trace in it."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from library.families.interface import Parts


@contextmanager
def undisturbed(parts: Parts, device: Any, more: Sequence[Any] = ()) -> Iterator[None]:
    """Run a block without gradients, in evaluation mode, on ``device``; afterwards all is as it was.

    Kept and put back: the states of all random generators, the training flag of every module (``more`` are modules
    beside the model's own: the adapter), the devices of VAE and text encoders, the caller's autocast.
    """
    import torch

    modules = [module for module in (parts.denoiser, parts.vae, *parts.text_encoders, *more) if module is not None]
    flags = [(part, part.training) for module in modules for part in module.modules()]
    homes = [(module, next(module.parameters()).device) for module in (parts.vae, *parts.text_encoders)
             if module is not None]
    device = torch.device(device)
    with random_states_kept(), torch.no_grad(), torch.autocast(device.type, enabled=False):
        try:
            for module in modules:
                module.eval()
            for module, _ in homes:
                module.to(device)
            yield
        finally:
            for module, home in homes:
                module.to(home)
            for part, flag in flags:
                part.training = flag


@contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the states of Python's, numpy's and torch's generators back after the block."""
    import torch

    numpy = sys.modules.get("numpy")
    python_state, torch_state = random.getstate(), torch.get_rng_state()
    numpy_state = numpy.random.get_state() if numpy is not None else None
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python_state)
        torch.set_rng_state(torch_state)
        if numpy is not None:
            numpy.random.set_state(numpy_state)
        if cuda_states is not None:
            torch.cuda.set_rng_state_all(cuda_states)
