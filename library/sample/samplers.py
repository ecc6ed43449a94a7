"""The samplers of ``--sample_sampler``: kohya's names -> diffusers' schedulers over the model's own noise schedule.

Settings are those of Stable Diffusion's own scheduler files (leading timesteps with offset 1, x0 not clipped), so a
picture is the one that a diffusers pipeline draws. kohya clips x0 to [-1, 1], which flattens latents.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from library.util.near import near
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import DiscreteSchedule

FLAG = "--sample_sampler"


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler: the module under ``diffusers.schedulers``, its class, its settings."""

    module: str
    cls: str
    settings: Mapping[str, Any] = field(default_factory=dict)


LMS = Sampler("scheduling_lms_discrete", "LMSDiscreteScheduler")
EULER = Sampler("scheduling_euler_discrete", "EulerDiscreteScheduler")
EULER_A = Sampler("scheduling_euler_ancestral_discrete", "EulerAncestralDiscreteScheduler")
DPM_2 = Sampler("scheduling_k_dpm_2_discrete", "KDPM2DiscreteScheduler")
DPM_2_A = Sampler("scheduling_k_dpm_2_ancestral_discrete", "KDPM2AncestralDiscreteScheduler")
MULTISTEP = ("scheduling_dpmsolver_multistep", "DPMSolverMultistepScheduler")

SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("scheduling_ddim", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": Sampler("scheduling_pndm", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "lms": LMS,
    "euler": EULER,
    "euler_a": EULER_A,
    "heun": Sampler("scheduling_heun_discrete", "HeunDiscreteScheduler"),
    "dpm_2": DPM_2,
    "dpm_2_a": DPM_2_A,
    "dpmsolver": Sampler(*MULTISTEP, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    "dpmsolver++": Sampler(*MULTISTEP, {"algorithm_type": "dpmsolver++"}),
    "dpmsingle": Sampler("scheduling_dpmsolver_singlestep", "DPMSolverSinglestepScheduler",
                         {"lower_order_final": True}),
    "k_lms": LMS,
    "k_euler": EULER,
    "k_euler_a": EULER_A,
    "k_dpm_2": DPM_2,
    "k_dpm_2_a": DPM_2_A,
}

SMALLEST_SIGNAL = 2.0**-24
"""Share of signal at pure noise that samplers in sigma space can still divide by (diffusers' own value)."""


def find(name: str) -> Sampler:
    """Look a sampler up; UserError with the near names."""
    sampler = SAMPLERS.get(name.strip().lower())
    if sampler is None:
        raise UserError(Problem(FLAG, say('There is no sampler "{name}".', name=name), near(name, SAMPLERS), check="sampler"))
    return sampler


def make(name: str, schedule: DiscreteSchedule) -> Any:
    """Make the diffusers scheduler ``name`` over the model's betas; zero-terminal ones start at the last step."""
    sampler = find(name)
    cls = getattr(importlib.import_module(f"diffusers.schedulers.{sampler.module}"), sampler.cls)
    zero_terminal = bool(schedule.alphas_cumprod[-1] < SMALLEST_SIGNAL)
    common = {"num_train_timesteps": len(schedule.alphas_cumprod), "trained_betas": betas(schedule).numpy(),
              "prediction_type": "v_prediction" if schedule.space == "v" else "epsilon",
              "timestep_spacing": "trailing" if zero_terminal else "leading", "steps_offset": 1}
    known = inspect.signature(cls.__init__).parameters
    settings = {key: value for key, value in (common | dict(sampler.settings)).items() if key in known}
    with warnings.catch_warnings():
        # diffusers advises against the first of the two DPM-Solvers, which kohya offers.
        warnings.simplefilter("ignore", FutureWarning)
        scheduler = cls(**settings)
    if sampler is LMS:
        scheduler.get_lms_coefficient = lambda order, t, current: lms_coefficient(scheduler.sigmas, order, t, current)
    return scheduler


def lms_coefficient(sigmas: Any, order: int, t: int, current: int) -> float:
    """Weight of the derivative at step ``t - current`` in a linear multistep of ``order`` from step ``t`` to t + 1.

    The integral of a Lagrange polynomial; Gauss-Legendre of 4 points is exact for it. diffusers integrates
    numerically with scipy, which nothing else here needs.
    """
    import numpy as np

    start, end = float(sigmas[t]), float(sigmas[t + 1])
    points, weights = np.polynomial.legendre.leggauss(4)
    tau = (end - start) / 2 * points + (end + start) / 2
    here = float(sigmas[t - current])
    values = np.ones_like(tau)
    for other in (float(sigmas[t - k]) for k in range(order) if k != current):
        values *= (tau - other) / (here - other)
    return float((end - start) / 2 * (weights * values).sum())


def betas(schedule: DiscreteSchedule) -> torch.Tensor:
    """Betas whose cumulative product is the schedule's, pure noise lifted to the smallest signal."""
    import torch

    bar = schedule.alphas_cumprod.double().clamp_min(SMALLEST_SIGNAL)
    return (1 - torch.cat([bar[:1], bar[1:] / bar[:-1]])).float()


def takes_generator(scheduler: Any) -> bool:
    """Whether its step draws random numbers that can be told where to come from."""
    return "generator" in inspect.signature(scheduler.step).parameters
