"""Gradient checkpointing that remembers the adapter's multiplier.

A block is run again while backward is under way. Were the multiplier read at that moment, a loss that holds several
strengths would recompute all of them with the last one, and a symmetric slider loss would have gradient exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol


class HasMultiplier(Protocol):
    multiplier: Any

    def set_multiplier(self, multiplier: Any) -> None: ...


def checkpoint_function(network: HasMultiplier, offload_to_cpu: bool = False) -> Callable[..., Any]:
    """A replacement for torch's checkpoint as diffusers and transformers call it: f(block, *args, **kwargs).

    Sets the multiplier that the forward saw for each block's recomputation, and restores the current one after.
    ``offload_to_cpu`` keeps the blocks' inputs in main memory (``--cpu_offload_checkpointing``).
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    def run(block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        seen = network.multiplier

        def forward(*inner_args: Any, **inner_kwargs: Any) -> Any:
            before = network.multiplier
            if before is seen:
                return block(*inner_args, **inner_kwargs)
            network.set_multiplier(seen)
            try:
                return block(*inner_args, **inner_kwargs)
            finally:
                network.set_multiplier(before)

        pin = torch.cuda.is_available()
        keep = torch.autograd.graph.save_on_cpu(pin_memory=pin) if offload_to_cpu else nullcontext()
        with keep:
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run


def enable(denoiser: Any, text_encoders: list[Any], function: Callable[..., Any]) -> None:
    """Turn checkpointing on in a diffusers model and in transformers text encoders (those that are trained).

    transformers' layers checkpoint in training mode only, so these encoders are put into it; their dropout is set
    to 0 first, as a frozen model must not drop anything.
    """
    import torch

    denoiser.enable_gradient_checkpointing(gradient_checkpointing_func=function)
    for encoder in text_encoders:
        encoder._set_gradient_checkpointing(enable=True, gradient_checkpointing_func=function)
        for module in encoder.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        encoder.train()
