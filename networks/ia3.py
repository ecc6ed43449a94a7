"""(IA)^3 (arXiv 2205.05638): one learned factor for every key and value, and for every inner value of the feed-forward.

The smallest adapter there is. Tensor names and shapes are lycoris' (``weight``, ``on_input``); the factor is
``1 + strength * weight``. There is no rank: ``--network_dim`` and ``--network_alpha`` have nothing to act on.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks import keys, peft_files
from networks.base import Adapter, AdapterNetwork, Kind, NetworkPlan, Setup, Strength, readable_weight, sizes_of
from networks.options import read_options
from networks.ranks import Rank, RankRequest, hit, patterns, plan
from networks.targets import derive_targets

logger = logging.getLogger(__name__)

KEYS_AND_VALUES = re.compile(r"(^|[._])(to_|add_)?[kv](_proj)?$")
FACTOR, ON_INPUT = "weight", "on_input"


@dataclass(frozen=True)
class IA3Options:
    """``--network_args`` of (IA)^3."""

    include_patterns: str | None = None
    """Regular expressions on module paths: these beside the paper's keys, values and feed-forward."""
    exclude_patterns: str | None = None


class Factors(Adapter):
    """Multiplies a layer's outputs (without the bias), or its inputs, value by value."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        del self.alpha  # the file has none
        self.register_buffer(keys.ALPHA, torch.tensor(1.0), persistent=False)
        self.takes_inputs = bool(setup.parts[ON_INPUT]) if setup.parts and ON_INPUT in setup.parts else reads_inner(target)
        count = sizes_of(self.layer)[0 if self.takes_inputs else 1]
        kernel = [1, 1] if isinstance(self.layer, nn.Conv2d) else []
        self.weight = nn.Parameter(torch.zeros([1, count, *kernel] if kernel else [count]))
        self.register_buffer(ON_INPUT, torch.tensor(int(self.takes_inputs)))

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self.takes_inputs:
            return super().forward(x, *args, **kwargs)
        if not self.enabled or self._is_left_out():
            return self._original(x, *args, **kwargs)
        return self._original(x * (1 + self.multiplier * self.weight).to(x.dtype), *args, **kwargs)

    def joined(self, out: torch.Tensor, x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
        bias = self.layer.bias
        if bias is not None and isinstance(self.layer, nn.Conv2d):
            bias = bias.reshape(-1, 1, 1)
        plain = out if bias is None else out - bias.to(out.dtype)
        return out + plain * (self.weight * factor).to(out.dtype)

    @torch.no_grad()
    def delta_weight(self) -> torch.Tensor:
        weight = readable_weight(self, "merging")
        axes = [1] * weight.dim()
        axes[1 if self.takes_inputs else 0] = -1
        return weight * self.weight.float().reshape(axes)

    def shrink(self, ratio: torch.Tensor) -> None:
        self.weight.mul_(ratio)


def reads_inner(target: Target) -> bool:
    """Whether a layer is a feed-forward's second, whose inputs are scaled: it narrows."""
    inputs, outputs = sizes_of(target.module)
    return target.role == "feed-forward" and inputs > outputs


def _rank_of(parts: Mapping[str, torch.Tensor]) -> int | None:
    return 1 if FACTOR in parts and keys.kind_of(parts) == "ia3" else None


KIND = Kind("ia3", Factors, IA3Options, _rank_of)


def _chosen(targets: Sequence[Target], options: IA3Options) -> list[Target]:
    included = patterns("include_patterns", options.include_patterns)
    targets = [t for t in targets if hit(t, included)
               or (not t.conv_only and (KEYS_AND_VALUES.search(t.path) or reads_inner(t)))]
    ranks = plan(targets, RankRequest(dim=1, conv_dim=1, include=options.include_patterns, exclude=options.exclude_patterns))
    return [t for t in targets if t.name in ranks]


def create_network(multiplier: float, network_dim: int | None, network_alpha: float | None, vae: Any, text_encoder: Any,
                   unet: Any, neuron_dropout: float | None = None, *, targets: Sequence[Target] | None = None,
                   **network_args: Any) -> AdapterNetwork:
    """Make the network on keys, values and feed-forwards, and others by ``include_patterns``.

    Raises UserError for unknown arguments, for dropout, which (IA)^3 has not, and where no module is left.
    """
    options = read_options(IA3Options, network_args, "networks.ia3")
    if neuron_dropout:
        raise UserError(Problem(f"--network_dropout {neuron_dropout}", "(IA)^3 has no inner values that could be left out.",
                                "Leave --network_dropout out."))
    if network_dim is not None:
        logger.info("(IA)^3 has no rank: --network_dim and --network_alpha do nothing")
    chosen = _chosen(targets if targets is not None else derive_targets(text_encoder, unet), options)
    if not chosen:
        raise UserError(
            Problem(
                "--network_module networks.ia3",
                say("No module of this model is adapted (arguments {network_args}).", network_args=network_args),
                "Give patterns that leave some module.",
            )
        )
    return _network(chosen, options, multiplier)


def _network(chosen: Sequence[Target], options: IA3Options, multiplier: float,
             parts: Mapping[str, Mapping[str, torch.Tensor]] | None = None) -> AdapterNetwork:
    ranks = {t.name: Rank(1, 1.0) for t in chosen}
    return AdapterNetwork(NetworkPlan(KIND, chosen, ranks, options=options, multiplier=multiplier, parts=parts or {}))


def create_network_from_weights(multiplier: float, file: Path | str | None, vae: Any, text_encoder: Any, unet: Any,
                                weights_sd: Mapping[str, Any] | None = None, for_inference: bool = False, *,
                                targets: Sequence[Target] | None = None, **network_args: Any
                                ) -> tuple[AdapterNetwork, dict[str, Any]]:
    """Make a network with a file's modules; its weights are not loaded yet.

    Returns the network and the file's tensors. Raises UserError where the file does not fit the model.
    """
    options = read_options(IA3Options, network_args, "networks.ia3")
    tensors = dict(weights_sd) if weights_sd is not None else peft_files.read(file)
    own = list(targets if targets is not None else derive_targets(text_encoder, unet))
    modules, unknown = keys.to_kohya(tensors, keys.Names.of(own))
    mine = {name: parts for name, parts in modules.items() if _rank_of(parts)}
    if not mine:
        seen = say(" (it has {name})", name=unknown[0]) if unknown else ""
        raise UserError(Problem("--network_weights", say("This file has no (IA)^3 module of this model{seen}.", seen=seen),
                                "Use an (IA)^3 file that was made for this model's architecture."))
    return _network([t for t in own if t.name in mine], options, multiplier, mine), tensors
