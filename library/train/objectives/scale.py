"""A loss that weighs every noise level by what it does to the picture (``--slider_loss scale_free``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from library.diffusion.losses import picture_weight
from library.util.records import StepResult

if TYPE_CHECKING:
    from ..session import Session


def scale_free(objective: Callable[[Session, Any], Iterator[StepResult]]) -> Callable[[Session, Any], Iterator[StepResult]]:
    """The same objective, its errors counted in the clean picture, on top of the weights that the run asks for."""

    def counted(session: Session, batch: Any) -> Iterator[StepResult]:
        in_picture = picture_weight(session.schedule)

        def weigh(timesteps_B: torch.Tensor) -> torch.Tensor:
            return session.weigh(timesteps_B).cpu() * in_picture(timesteps_B)

        yield from objective(replace(session, weigh=weigh), batch)

    return counted
