"""OFT (arXiv 2306.07280): the outputs of a layer are rotated in blocks; kohya's names and meanings of dim and alpha.

``--network_dim`` is the number of blocks, ``--network_alpha`` bounds the rotation (times the layer's outputs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks import keys, peft_files
from networks.base import Adapter, AdapterNetwork, Kind, NetworkPlan, Setup, Strength, sizes_of
from networks.options import read_options
from networks.ranks import DEFAULT_DIM, Rank, is_small
from networks.targets import derive_targets

BLOCKS = "oft_blocks"
DEFAULT_BOUND = 1e-3
PREFIX = "oft_unet_"


@dataclass(frozen=True)
class OftOptions:
    """``--network_args`` of OFT."""

    enable_all_linear: bool = False
    """Every linear layer and 1x1 convolution of the attention blocks, not only q, k, v and out."""
    enable_conv: bool = False
    """The layers of resnets and samplers too."""


def turn(blocks_KNN: torch.Tensor, bound: float) -> torch.Tensor:
    """R - 1 by blocks (K,N,N): Cayley's rotation of the skew part of ``blocks``, whose norm is bounded."""
    skew = (blocks_KNN - blocks_KNN.transpose(1, 2)).float()
    norm = skew.norm()
    skew = skew * ((norm.clamp(max=bound) + 1e-8) / (norm + 1e-8))
    one = torch.eye(skew.shape[1], device=skew.device)
    return torch.linalg.solve(one - skew, one + skew, left=False) - one


def turned(turn_KNN: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What turning adds to a layer's weight, in its shape, fp32."""
    count, size, _ = turn_KNN.shape
    rows = weight.float().reshape(count, size, -1)
    return torch.einsum("knm,knp->kmp", turn_KNN, rows).reshape(weight.shape)


class Orthogonal(Adapter):
    """Turns a layer's outputs (without the bias) block by block; the layer's weights are not read."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        self.outputs = sizes_of(self.layer)[1]
        size = self.outputs // setup.rank.dim
        self.oft_blocks = nn.Parameter(torch.zeros(setup.rank.dim, size, size))

    def _turn(self) -> torch.Tensor:
        return turn(self.oft_blocks, float(self.alpha) * self.outputs)

    def joined(self, out: torch.Tensor, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        # The factor holds alpha / dim, which means nothing here: alpha is the bound.
        strength = self.multiplier
        axis = 1 if isinstance(self.layer, nn.Conv2d) else -1
        bias = self.layer.bias
        y = out.movedim(axis, -1)
        plain = y if bias is None else y - bias
        change = self._turn()
        with torch.autocast(out.device.type, enabled=False):
            blocks = plain.float().unflatten(-1, change.shape[:2])
            delta = torch.einsum("...kn,knm->...km", blocks, change).flatten(-2) * strength
        return (y + delta.to(y.dtype)).movedim(-1, axis)

    def delta_weight(self) -> torch.Tensor:
        return turned(self._turn(), self.layer.weight)

    def shrink(self, ratio: torch.Tensor) -> None:
        # R - 1 is twice the skew part to first order.
        self.oft_blocks.mul_(ratio)


def _blocks_of(parts: Mapping[str, torch.Tensor]) -> int | None:
    return int(parts[BLOCKS].shape[0]) if BLOCKS in parts and "rescale" not in parts else None


KIND = Kind("oft", Orthogonal, OftOptions, _blocks_of)


def named(targets: Sequence[Target]) -> list[Target]:
    """The denoiser's targets under OFT's names."""
    return [replace(t, name=PREFIX + t.name.removeprefix("lora_unet_")) for t in targets if t.root == "denoiser"]


def plain_name(name: str) -> str:
    """The name that other kinds have for an OFT module's layer."""
    return name.replace(PREFIX, "lora_unet_", 1) if name.startswith(PREFIX) else name


def _wanted(target: Target, options: OftOptions) -> bool:
    if target.conv_only:
        return options.enable_conv
    if not is_small(target):
        return options.enable_conv and options.enable_all_linear
    return options.enable_all_linear or target.role in ("self-attention", "cross-attention")


def _refuse_uneven(targets: Sequence[Target], dim: int) -> None:
    uneven = [t for t in targets if sizes_of(t.module)[1] % dim]
    if dim < 1 or uneven:
        some = (say("{path} has {outputs} outputs", path=uneven[0].path, outputs=sizes_of(uneven[0].module)[1])
                if uneven and dim > 0 else say("it is below 1"))  # fmt: skip
        raise UserError(
            Problem(
                f"--network_dim {dim}",
                say("For OFT this is the number of equal blocks of outputs, but {some}.", some=some),
                "Give a number that divides every layer's outputs: 2, 4 or 8.",
            )
        )


def create_network(multiplier: float, network_dim: int | None, network_alpha: float | None, vae: Any, text_encoder: Any,
                   unet: Any, neuron_dropout: float | None = None, *, targets: Sequence[Target] | None = None,
                   **network_args: Any) -> AdapterNetwork:
    """Make the network on the denoiser's attention layers (more by ``network_args``).

    Raises UserError for unknown arguments, a dim that does not divide the layers, and dropout, which OFT has not.
    """
    options = read_options(OftOptions, network_args, "networks.oft")
    if neuron_dropout:
        raise UserError(Problem(f"--network_dropout {neuron_dropout}", "OFT has no inner values that could be left out.",
                                "Leave --network_dropout out."))
    dim = DEFAULT_DIM if network_dim is None else network_dim
    alpha = DEFAULT_BOUND if network_alpha is None else float(network_alpha)
    found = targets if targets is not None else derive_targets(text_encoder, unet)
    chosen = [t for t in named(found) if _wanted(t, options)]
    if not chosen:
        raise UserError(Problem("--network_module networks.oft", "No layer of this model is adapted by it.",
                                "Give --network_args enable_all_linear=true, or another module."))
    _refuse_uneven(chosen, dim)
    ranks = {t.name: Rank(dim, alpha) for t in chosen}
    return AdapterNetwork(NetworkPlan(KIND, chosen, ranks, options=options, multiplier=multiplier))


def create_network_from_weights(multiplier: float, file: Path | str | None, vae: Any, text_encoder: Any, unet: Any,
                                weights_sd: Mapping[str, Any] | None = None, for_inference: bool = False, *,
                                targets: Sequence[Target] | None = None, **network_args: Any
                                ) -> tuple[AdapterNetwork, dict[str, Any]]:
    """Make a network with a file's modules, blocks and bounds; its weights are not loaded yet.

    Returns the network and the file's tensors. Raises UserError where the file does not fit the model.
    """
    options = read_options(OftOptions, network_args, "networks.oft")
    tensors = dict(weights_sd) if weights_sd is not None else peft_files.read(file)
    own = named(targets if targets is not None else derive_targets(text_encoder, unet))
    modules, unknown = keys.to_kohya(tensors, keys.Names.of(own))
    ranks = {name: Rank(blocks, alpha if (alpha := keys.alpha_of(parts)) is not None else DEFAULT_BOUND)
             for name, parts in modules.items() if (blocks := _blocks_of(parts)) is not None}
    if not ranks:
        seen = say(" (it has {name})", name=unknown[0]) if unknown else ""
        raise UserError(Problem("--network_weights", say("This file has no OFT module of this model{seen}.", seen=seen),
                                "Use an OFT file that was made for this model's architecture."))
    chosen = [t for t in own if t.name in ranks]
    return AdapterNetwork(NetworkPlan(KIND, chosen, ranks, options=options, multiplier=multiplier)), tensors
