"""DoRA (arXiv 2402.09353): LoRA turns the rows of a weight, and their lengths are learned by themselves.

The changed weight is ``magnitude * (W + s B A) / |W + s B A|`` row by row. A strength moves linearly from W to it, as
ComfyUI computes and as merging does; the norm counts as a constant for gradients (section 4.3 of the paper).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from library.util.records import Target
from networks.base import Setup, Strength, readable_weight
from networks.lowrank import LowRank


class WeightDecomposed(LowRank):
    """LoRA with a learned length for every output: ``dora_scale`` [outputs, 1, ...]."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        lengths = readable_weight(self, "dora_wd").flatten(1).norm(dim=1)
        shape = (-1, *[1] * (self.layer.weight.dim() - 1))
        self.dora_scale = nn.Parameter(lengths.reshape(shape).clone())
        self.register_buffer("_squares", lengths.double().square(), persistent=False)

    def _row_norms(self) -> torch.Tensor:
        """|W + s B A| of every row without forming the product: three terms of the square."""
        weight = self.layer.weight.detach().flatten(1)
        up, down = self.lora_up.weight.detach().flatten(1).float(), self.lora_down.weight.detach().flatten(1).float()
        with torch.autocast(weight.device.type, enabled=False):
            mixed = (weight @ down.to(weight.dtype).T).double()
            cross = (mixed * up).sum(1)
            own = ((up @ (down @ down.T)) * up).sum(1)
        return (self._squares + 2 * self.scale * cross + self.scale ** 2 * own).clamp(min=1e-20).sqrt()

    def _gain(self) -> torch.Tensor:
        return self.dora_scale.flatten() / self._row_norms().to(self.dora_scale.dtype)

    def joined(self, out: torch.Tensor, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        axis = 1 if isinstance(self.layer, nn.Conv2d) else -1
        shape = [1] * out.dim()
        shape[axis] = -1
        gain = self._gain().to(out.dtype).reshape(shape)
        bias = self.layer.bias
        plain = out if bias is None else out - bias.to(out.dtype).reshape(shape)
        return out + self.multiplier * (gain - 1) * plain + gain * self.delta(x, factor).to(out.dtype)

    @torch.no_grad()
    def delta_weight(self) -> torch.Tensor:
        weight = self.layer.weight.detach().float()
        gain = self._gain().reshape(self.dora_scale.shape)
        return (weight + super().delta_weight()) * gain - weight

    def norm(self) -> torch.Tensor:
        return self.delta_weight().norm()

    def shrink(self, ratio: torch.Tensor) -> None:
        # Of the weight W + ratio (change): its direction is W's plus B A's with other row weights, its lengths follow.
        gain = self._gain()
        rest = 1 - ratio + ratio * gain
        rows = (ratio * gain / rest).reshape(-1, *[1] * (self.lora_up.weight.dim() - 1))
        self.lora_up.weight.mul_(rows)
        self.dora_scale.copy_((rest * self._row_norms().to(rest.dtype)).reshape(self.dora_scale.shape))


def lengths_of(parts: Any) -> torch.Tensor | None:
    """A file's learned lengths; None where it is plain LoRA."""
    return parts.get("dora_scale") if parts else None
