"""Learning rates under the scalar names of kohya's logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def logged_rates(optimizer: torch.optim.Optimizer, group_names: list[str]) -> dict[str, float]:
    """``lr/textencoder``, ``lr/unet``, ...; with ``lr/d*lr/NAME`` beside it where the optimizer estimates a step size.

    kohya logs each group a second time as ``lr/groupN``; that copy is left out.
    """
    logged: dict[str, float] = {}
    for name, group in zip(group_names, optimizer.param_groups, strict=True):
        logged[f"lr/{name}"] = float(group["lr"] or 0.0)
        if "d" in group:
            logged[f"lr/d*lr/{name}"] = float(group["d"] * group["lr"])
    return logged
