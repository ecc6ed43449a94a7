"""What flow-matching families share: timestep sampling by kohya's names, and 2x2 packing of latents into tokens."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Schedule
    from library.diffusion.timesteps import Sampler


@dataclass(frozen=True)
class FlowOptions:
    """How noise levels are drawn, named like kohya's flags."""

    timestep_sampling: str = "sigma"
    sigmoid_scale: float = 1.0
    discrete_flow_shift: float = 3.0
    weighting_scheme: str = "none"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    model_prediction_type: str = "raw"


Mu = Callable[[tuple[int, int]], float]
"""How far noise levels are moved, as a power of e, from latent (height, width)."""


def schedule(options: FlowOptions, noise: Any, curves: Mapping[str, Mu], reverse: bool = False) -> Schedule:
    """Rectified flow with the sampling that ``options`` names; ``curves``: a family's curves of ``mu`` by their names.

    ``noise``: the record of the timestep range. ``reverse``: the model answers x0 - noise. Raises UserError for an
    unknown name.
    """
    from library.diffusion.schedule import READINGS, REVERSED_READINGS, FlowSchedule
    from library.diffusion.timesteps import WEIGHTS

    first = 0 if noise.min_timestep is None else noise.min_timestep
    last = 1000 if noise.max_timestep is None else noise.max_timestep
    readings = REVERSED_READINGS if reverse else READINGS
    name = _known("--model_prediction_type", options.model_prediction_type, tuple(readings))
    return FlowSchedule(sampler(options, curves), first=first, last=last, weigh=WEIGHTS.get(options.weighting_scheme),
                        reading=readings[name])  # fmt: skip


def sampler(options: FlowOptions, curves: Mapping[str, Mu]) -> Sampler:
    """The distribution of sigmas that the options name."""
    from library.diffusion import timesteps as t

    table: dict[str, Callable[[], Sampler]] = {
        "uniform": t.uniform,
        "sigmoid": lambda: t.sigmoid(options.sigmoid_scale),
        "shift": lambda: t.shifted(options.discrete_flow_shift, options.sigmoid_scale),
        "nextdit_shift": lambda: t.uniform_shifted(curves["flux_shift"]),
        "sigma": lambda: t.discrete(density(options), options.discrete_flow_shift),
        **{name: partial(t.resolution_shifted, mu, options.sigmoid_scale) for name, mu in curves.items()},
    }
    return table[_known("--timestep_sampling", options.timestep_sampling, tuple(table))]()


def density(options: FlowOptions) -> Sampler:
    from library.diffusion import timesteps as t

    table: dict[str, Callable[[], Sampler]] = {
        "logit_normal": lambda: t.logit_normal(options.logit_mean, options.logit_std),
        "mode": lambda: t.mode(options.mode_scale),
        **dict.fromkeys(("none", "uniform", "sigma_sqrt", "cosmap"), t.uniform),
    }
    return table[_known("--weighting_scheme", options.weighting_scheme, tuple(table))]()


def _known(flag: str, value: str, names: tuple[str, ...]) -> str:
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, 3, 0.4) or names
    raise UserError(Problem(flag, say("{value!r} is not known.", value=value), say("Choose one of {near}.", near=near)))


def packed(latents_BCHW: torch.Tensor) -> torch.Tensor:
    """B,C,H,W -> tokens of 2x2 latents, B,(H/2*W/2),4C, channel before place."""
    b, c, h, w = latents_BCHW.shape
    squares = latents_BCHW.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(b, (h // 2) * (w // 2), 4 * c)


def unpacked(tokens_BNC: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The inverse of ``packed``; ``size`` is the latents' (height, width)."""
    h, w = size
    b, _, c = tokens_BNC.shape
    squares = tokens_BNC.reshape(b, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(b, c // 4, h, w)


def grid_ids(size: tuple[int, int], columns: int = 3) -> torch.Tensor:
    """Position ids of packed latents, N,columns: row in column 1, column in column 2."""
    import torch

    h, w = size[0] // 2, size[1] // 2
    ids = torch.zeros(h, w, columns)
    ids[..., 1] = torch.arange(h)[:, None]
    ids[..., 2] = torch.arange(w)[None]
    return ids.reshape(h * w, columns)
