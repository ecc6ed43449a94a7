"""Distances between prediction and target, and weights by timestep. Formulas as kohya's trainer has them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .schedule import Schedule, per_item

Threshold = Callable[[torch.Tensor], torch.Tensor]
"""timesteps B -> huber threshold B."""
Distance = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(prediction BCHW, target BCHW, timesteps B) -> loss BCHW, element by element."""
SNR_CAP = 1000.0
SNR_FLOOR = 1e-8


def huber_threshold(kind: str, c: float, scale: float, schedule: Schedule) -> Threshold:
    """How far a difference counts squared: constant, falling exponentially with the timestep, or with the SNR."""

    def constant(timesteps_B: torch.Tensor) -> torch.Tensor:
        return torch.full((len(timesteps_B),), c * scale)

    def exponential(timesteps_B: torch.Tensor) -> torch.Tensor:
        return torch.exp(timesteps_B.cpu().float() * (math.log(c) / 1000)) * scale

    def snr(timesteps_B: torch.Tensor) -> torch.Tensor:
        sigma = schedule.snr(timesteps_B.cpu()).clamp_min(SNR_FLOOR) ** -0.5
        return (1 - c) / (1 + sigma) ** 2 + c

    return {"constant": constant, "exponential": exponential, "snr": snr}[kind]


def distance(kind: str, threshold: Threshold) -> Distance:
    """One of ``l2``, ``l1``, ``huber``, ``smooth_l1`` (pseudo-Huber, Charbonnier 1994), unreduced."""

    def l2(prediction: torch.Tensor, target: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        return F.mse_loss(prediction, target, reduction="none")

    def l1(prediction: torch.Tensor, target: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        return F.l1_loss(prediction, target, reduction="none")

    def pseudo(prediction: torch.Tensor, target: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return torch.sqrt((prediction - target) ** 2 + c**2) - c

    def huber(prediction: torch.Tensor, target: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        c = per_item(threshold(timesteps_B), prediction)
        return 2 * c * pseudo(prediction, target, c)

    def smooth_l1(prediction: torch.Tensor, target: torch.Tensor, timesteps_B: torch.Tensor) -> torch.Tensor:
        return 2 * pseudo(prediction, target, per_item(threshold(timesteps_B), prediction))

    return {"l2": l2, "l1": l1, "huber": huber, "smooth_l1": smooth_l1}[kind]


@dataclass(frozen=True)
class WeightOptions:
    """Which weights by timestep apply; names as kohya's flags."""

    min_snr_gamma: float | None = None
    debiased_estimation: bool = False
    scale_v_pred_loss_like_noise_pred: bool = False
    v_pred_like_loss: float | None = None


def timestep_weight(options: WeightOptions, schedule: Schedule) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product of the schedule's own weight and all that are asked for, as a function timesteps B -> weights B.

    min-SNR: Hang et al. 2023; debiased estimation: Yu et al. 2024. At zero terminal SNR the min-SNR weight of noise
    prediction takes its limit, 1.
    """
    velocity = schedule.space == "v"
    factors: list[Callable[[torch.Tensor], torch.Tensor]] = []
    if options.min_snr_gamma:
        gamma = options.min_snr_gamma
        factors.append(lambda snr: snr.clamp_max(gamma) / (snr + 1 if velocity else snr))
    if options.scale_v_pred_loss_like_noise_pred:
        factors.append(_velocity_scale)
    if options.v_pred_like_loss:
        share = options.v_pred_like_loss
        factors.append(lambda snr: 1 + share / _velocity_scale(snr))
    if options.debiased_estimation:
        factors.append(lambda snr: 1 / (snr.clamp_max(SNR_CAP) + 1) if velocity else snr.clamp_max(SNR_CAP) ** -0.5)

    def weigh(timesteps_B: torch.Tensor) -> torch.Tensor:
        snr_B = schedule.snr(timesteps_B.cpu()).clamp_min(SNR_FLOOR)
        return math.prod((factor(snr_B) for factor in factors), start=schedule.weight(timesteps_B))

    return weigh


def picture_weight(schedule: Schedule) -> Callable[[torch.Tensor], torch.Tensor]:
    """Weights, as a function timesteps B -> weights B, under which the loss is the error of the clean picture.

    Their mean over all timesteps is 1. Noise prediction's plain loss counts that error times the SNR, so that what is
    decided in strong noise (where something is, how bright it is) is next to nothing in it.
    """
    mean = schedule.in_picture(torch.arange(1000)).mean()
    return lambda timesteps_B: schedule.in_picture(timesteps_B) / mean


def _velocity_scale(snr_B: torch.Tensor) -> torch.Tensor:
    capped = snr_B.clamp_max(SNR_CAP)
    return capped / (capped + 1)
