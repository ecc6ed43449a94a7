"""LoRA (arXiv 2106.09685) on linear layers and convolutions: ``--network_module=networks.lora``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from library.util.records import Target
from networks import contract
from networks.base import AdapterNetwork, Kind
from networks.lowrank import LowRank, LowRankOptions

KIND = Kind("lora", LowRank, LowRankOptions, plus_marks=("lora_up",))


def create_network(multiplier: float, network_dim: int | None, network_alpha: float | None, vae: Any, text_encoder: Any,
                   unet: Any, neuron_dropout: float | None = None, *, targets: Sequence[Target] | None = None,
                   **network_args: Any) -> AdapterNetwork:
    """Make the network (kohya's contract).

    ``targets`` are the modules to adapt as a model family lists them; without them a U-Net's and CLIP text encoders'
    modules are found by class. Raises UserError for unknown or wrong ``network_args``.
    """
    found = contract.targets_or_derived(targets, text_encoder, unet)
    return contract.build(KIND, found, network_dim, network_alpha, neuron_dropout, network_args, multiplier)


def create_network_from_weights(multiplier: float, file: Path | str | None, vae: Any, text_encoder: Any, unet: Any,
                                weights_sd: Mapping[str, Any] | None = None, for_inference: bool = False, *,
                                targets: Sequence[Target] | None = None, **network_args: Any
                                ) -> tuple[AdapterNetwork, dict[str, Any]]:
    """Make a network with a file's modules, ranks and alphas (kohya's contract); weights are not loaded yet.

    Returns the network and the file's tensors. Raises UserError where the file does not fit the model.
    """
    tensors = contract.weights_of(file, weights_sd)
    found = contract.targets_or_derived(targets, text_encoder, unet)
    network = contract.build_from_weights(KIND, found, tensors, network_args, multiplier, for_inference)
    return network, tensors
