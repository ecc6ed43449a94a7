"""LoRA-FA (arXiv 2308.03303): the down weights stay as drawn, only the up weights are trained.

Half the trained parameters, and no activation of full width has to be kept for the down weights' gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from library.util.records import Target
from networks.base import Kind, Setup, Strength
from networks.contract import functions
from networks.lowrank import LowRank, LowRankOptions, rank_of_file


class FrozenDown(LowRank):
    """LoRA whose down weight is normal with variance 2 / (inputs + dim) and fixed."""

    def __init__(self, target: Target, setup: Setup, strength: Strength):
        super().__init__(target, setup, strength)
        nn.init.xavier_normal_(self.lora_down.weight)
        self.lora_down.requires_grad_(False)

    def fixed_parameters(self) -> Iterable[nn.Parameter]:
        return (self.lora_down.weight,)


KIND = Kind("lora_fa", FrozenDown, LowRankOptions, rank_of_file, plus_marks=("lora_up",))

create_network, create_network_from_weights = functions(KIND)
