"""LoRA (arXiv 2106.09685) on linear layers and convolutions: ``--network_module=networks.lora``."""

from __future__ import annotations

from networks.base import Kind
from networks.contract import functions
from networks.lowrank import LowRank, LowRankOptions, rank_of_file

KIND = Kind("lora", LowRank, LowRankOptions, rank_of_file, plus_marks=("lora_up",))

create_network, create_network_from_weights = functions(KIND)
