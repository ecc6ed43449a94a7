"""Exponential moving average of the adapter's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Decay = Callable[[int], float]
"""Number of updates so far (from 1) -> share of the old average that is kept."""


def constant_decay(decay: float) -> Decay:
    """A fixed decay, reached gradually so that the random start does not linger: min(decay, (1 + t) / (10 + t))."""
    return lambda step: min(decay, (1 + step) / (10 + step))


def power_decay(sigma_rel: float) -> Decay:
    """Power-function averaging: the profile's width is ``sigma_rel`` of the run so far (Karras et al. 2024, EDM2)."""
    exponent = _exponent(sigma_rel)
    return lambda step: (1 - 1 / step) ** (exponent + 1)


def _exponent(sigma_rel: float) -> float:
    """Solve sigma_rel^2 = (g + 1) / ((g + 2)^2 (g + 3)) for g by bisection; it falls as g grows."""
    assert 0 < sigma_rel < 0.28, "the relative width must lie between 0 and 0.28"
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        if (middle + 1) / ((middle + 2) ** 2 * (middle + 3)) > sigma_rel**2:
            low = middle
        else:
            high = middle
    return (low + high) / 2


class Ema:
    """Averages of parameters, kept in fp32 beside them; ``applied`` puts them in place for saving and samples."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: Decay) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.decay = decay
        self.restart()

    def restart(self) -> None:
        """Begin anew with the present parameters."""
        self.steps = 0
        self.averages = [parameter.detach().float().clone() for parameter in self.parameters]

    def update(self) -> None:
        """Take the present parameters in, once after each optimizer step."""
        import torch

        self.steps += 1
        keep = self.decay(self.steps)
        with torch.no_grad():
            for average, parameter in zip(self.averages, self.parameters, strict=True):
                average.lerp_(parameter.detach().to(average), 1 - keep)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the parameters hold the averages; afterwards they are what they were, bit for bit."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        self._write(self.averages)
        try:
            yield
        finally:
            self._write(before)

    def _write(self, values: list[torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "averages": self.averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state; the parameters must be the same ones in the same order."""
        assert len(state["averages"]) == len(self.averages), "the averages belong to another adapter"
        self.steps = state["steps"]
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)
