"""``--blocks_to_swap``: some of the frozen model's blocks wait in main memory and visit the device when they compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from library.util.records import Problem, UserError
from library.util.said import say


def blocks(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a diffusers model: what gradient checkpointing runs again one by one."""
    if names := model._repeated_blocks:
        return [module for module in model.modules() if type(module).__name__ in names]
    return [block for child in model.children() if isinstance(child, nn.ModuleList) for block in child]


def visiting(home: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy of a tensor on the device."""
    return home.to(device, copy=True)


class Visitor:
    """One block that waits: its tensors are on the device from the beginning of a forward to its end.

    The block must be checkpointed where a gradient is wanted: the recomputation is a forward too, and the copies that
    visit then stay for as long as its gradient needs them. That is why a visit puts other tensors in the parameters'
    places: autograd keeps a frozen weight itself, and would find it gone home. Adapters are no part of the block.
    """

    def __init__(self, block: nn.Module, device: torch.device):
        self.places = [(table, name, home) for module in block.modules() for table in (module._parameters, module._buffers)
                       for name, home in table.items() if home is not None]
        self.device = device
        self.visits = 0
        block.register_forward_pre_hook(self.come)
        # Always: a recomputation ends by an exception as soon as it has what the gradient needs.
        block.register_forward_hook(self.go, always_call=True)

    def come(self, *_: Any) -> None:
        self.visits += 1
        for table, name, home in self.places:
            table[name] = visiting(home, self.device)

    def go(self, *_: Any) -> None:
        for table, name, home in self.places:
            table[name] = home


def check(model: nn.Module, count: int) -> None:
    """Raise UserError where a model has fewer than ``count`` blocks."""
    most = len(blocks(model)) if count else 0
    if count > most:
        raise UserError(Problem("--blocks_to_swap", say("{count} was asked for, but the model has {most} blocks.", count=count,
                                                        most=most), say("Give {most} or less.", most=most)))


def swap(model: nn.Module, count: int, device: torch.device) -> list[Visitor]:
    """Let the ``count`` largest blocks of a frozen model on the CPU wait there, and put all else on the device.

    Raises UserError where the model has fewer blocks.
    """
    check(model, count)
    found = blocks(model)
    waiting = sorted(found, key=lambda block: -sum(p.nbytes for p in block.parameters()))[:count]
    kept = {id(tensor) for block in waiting for tensor in (*block.parameters(), *block.buffers())}
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) not in kept:
            tensor.data = tensor.data.to(device)
    return [Visitor(block, device) for block in waiting]
