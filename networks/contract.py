"""kohya's two module-level functions, made once for every kind of low-rank adapter."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks import blocks, keys, peft_files, ranks, role_dims, role_rates
from networks.base import AdapterNetwork, Dropouts, Kind, NetworkPlan
from networks.groups import GroupPlan
from networks.lowrank import LowRankOptions
from networks.options import read_options
from networks.targets import derive_targets

logger = logging.getLogger(__name__)


def _lr_weights(options: LowRankOptions, targets: Sequence[Target]) -> tuple[float, ...] | None:
    layout = blocks.layout_of(t.name for t in targets)
    return blocks.lr_weights(layout, options.down_lr_weight, options.mid_lr_weight, options.up_lr_weight,
                             options.block_lr_zero_threshold)


def _groups(kind: Kind, options: LowRankOptions, weights: Sequence[float] | None) -> GroupPlan:
    return GroupPlan(weights, options.loraplus_lr_ratio, options.loraplus_unet_lr_ratio,
                     options.loraplus_text_encoder_lr_ratio, kind.plus_marks, options.network_reg_lrs)


def _dropouts(neuron: float | None, options: LowRankOptions) -> Dropouts:
    asked = {"--network_dropout": neuron, "rank_dropout": options.rank_dropout,
             "module_dropout": options.module_dropout}
    wrong = [Problem(name, say("{p} is not a probability.", p=p), "Give a number from 0 to below 1.")
             for name, p in asked.items() if p is not None and not 0 <= p < 1]
    if wrong:
        raise UserError(*wrong)
    return Dropouts(*(p or None for p in asked.values()))


def _rank_request(options: LowRankOptions, size: tuple[int | None, float | None],
                  weights: Sequence[float] | None) -> ranks.RankRequest:
    words = blocks.BlockWords(options.block_dims, options.block_alphas, options.conv_block_dims,
                              options.conv_block_alphas)
    return ranks.RankRequest(*size, options.conv_dim, options.conv_alpha, words, weights,
                             options.network_reg_dims, options.include_patterns, options.exclude_patterns)


def _rank_stabilised(plan: dict[str, ranks.Rank]) -> dict[str, ranks.Rank]:
    return {name: replace(rank, alpha=rank.alpha * math.sqrt(rank.dim)) for name, rank in plan.items()}


def _by_role(args: Mapping[str, Any], targets: Sequence[Target]) -> dict[str, Any]:
    """The arguments with what they say of roles turned into patterns on these targets' paths."""
    return role_rates.translated(role_dims.translated(args, targets), targets)


def build(kind: Kind, targets: Sequence[Target], size: tuple[int | None, float | None], neuron_dropout: float | None,
          args: Mapping[str, Any], multiplier: float = 1.0) -> AdapterNetwork:
    """Make a network of a kind on a model's targets from ``--network_args``; ``size`` is (dim, alpha).

    Raises UserError for unknown or wrong arguments, and where no module is left to adapt.
    """
    options = read_options(kind.options, _by_role(args, targets), f"networks.{kind.name}")
    weights = _lr_weights(options, targets)
    plan = ranks.plan(targets, _rank_request(options, size, weights))
    if options.use_rslora:
        plan = _rank_stabilised(plan)
    if not plan:
        raise UserError(
            Problem(
                "--network_dim",
                say("No module of this model gets an adapter (dim {size}, arguments {args}).", size=size[0], args=dict(args)),
                "Give a dim above 0, and patterns or blocks that leave some module.",
            )
        )
    if options.verbose:
        for name, rank in plan.items():
            logger.info("%s: dim %d, alpha %g", name, rank.dim, rank.alpha)
    return AdapterNetwork(NetworkPlan(kind, targets, plan, _dropouts(neuron_dropout, options), options,
                                      _groups(kind, options, weights), multiplier))


def build_from_weights(kind: Kind, targets: Sequence[Target], tensors: Mapping[str, Any], args: Mapping[str, Any],
                       multiplier: float = 1.0, for_inference: bool = False) -> AdapterNetwork:
    """Make a network with the modules, ranks and alphas that a file has; its weights are not loaded yet.

    Raises UserError where the file holds another kind of adapter or none of this model's modules.
    """
    options = read_options(kind.options, _by_role(args, targets), f"networks.{kind.name}")
    modules, unknown = keys.to_kohya(tensors, keys.Names.of(targets))
    modules = {name: parts for name, parts in modules.items() if kind.rank_of(parts) is not None}
    if not modules:
        what = keys.identify(tensors)
        part = say(" (it has {name})", name=unknown[0]) if unknown else ""
        seen = (say("This is a {kind} file of another architecture{part}.", kind=what.kind, part=part) if what.kind
                else say("This is not an adapter file{part}.", part=part))  # fmt: skip
        raise UserError(Problem("--network_weights", seen,
                                "Use a LoRA that was made for this model's architecture."))
    weights = _lr_weights(options, targets)
    dropouts = Dropouts() if for_inference else _dropouts(None, options)
    found = ranks.from_modules(modules, kind.rank_of, keys.alpha_of)
    groups = _groups(kind, options, weights)
    return AdapterNetwork(NetworkPlan(kind, targets, found, dropouts, options, groups, multiplier, modules))


def functions(kind: Kind) -> tuple[Callable[..., AdapterNetwork], Callable[..., tuple[AdapterNetwork, dict[str, Any]]]]:
    """kohya's ``create_network`` and ``create_network_from_weights`` for one kind of adapter."""

    def create_network(multiplier: float, network_dim: int | None, network_alpha: float | None, vae: Any,
                       text_encoder: Any, unet: Any, neuron_dropout: float | None = None, *,
                       targets: Sequence[Target] | None = None, **network_args: Any) -> AdapterNetwork:
        """Make the network.

        ``targets`` are the modules to adapt as a model family lists them; without them a U-Net's and CLIP text
        encoders' modules are found by class. Raises UserError for unknown or wrong ``network_args``.
        """
        found = targets if targets is not None else derive_targets(text_encoder, unet)
        return build(kind, found, (network_dim, network_alpha), neuron_dropout, network_args, multiplier)

    def create_network_from_weights(multiplier: float, file: Path | str | None, vae: Any, text_encoder: Any, unet: Any,
                                    weights_sd: Mapping[str, Any] | None = None, for_inference: bool = False, *,
                                    targets: Sequence[Target] | None = None, **network_args: Any
                                    ) -> tuple[AdapterNetwork, dict[str, Any]]:
        """Make a network with a file's modules, ranks and alphas; its weights are not loaded yet.

        Returns the network and the file's tensors. Raises UserError where the file does not fit the model.
        """
        tensors = dict(weights_sd) if weights_sd is not None else peft_files.read(file)
        found = targets if targets is not None else derive_targets(text_encoder, unet)
        return build_from_weights(kind, found, tensors, network_args, multiplier, for_inference), tensors

    return create_network, create_network_from_weights
