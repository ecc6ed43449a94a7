"""LoRA (arXiv 2106.09685) on linear layers and convolutions: ``--network_module=networks.lora``."""

from __future__ import annotations

from dataclasses import dataclass, field

from library.util.records import Problem, Target, UserError
from networks import keys
from networks.base import Kind, Setup, Strength
from networks.contract import functions
from networks.dora import WeightDecomposed
from networks.lowrank import LowRank, LowRankOptions, rank_of_file
from networks.principal import FromDirections, Principal

STARTS: dict[str, type[LowRank]] = {"normal": LowRank, "pissa": Principal, "svd": FromDirections}


@dataclass(frozen=True)
class LoraOptions(LowRankOptions):
    """``--network_args`` of LoRA."""

    dora_wd: bool = False
    """Learn the length of every output beside its direction (DoRA)."""
    init: str = field(default="normal", metadata={"choices": tuple(STARTS)})
    """How the weights start: at random, as the layer's main singular parts (pissa), or in its main directions (svd)."""


def _adapter(target: Target, setup: Setup, strength: Strength) -> LowRank:
    """One module, as the options have it or as the file that it is made from."""
    if setup.parts:
        return (WeightDecomposed if keys.DORA in setup.parts else LowRank)(target, setup, strength)
    options = setup.options
    if options.dora_wd and options.init != "normal":
        raise UserError(Problem(f"--network_args dora_wd init={options.init}", "DoRA has a start of its own.",
                                "Leave one of the two out."))
    return (WeightDecomposed if options.dora_wd else STARTS[options.init])(target, setup, strength)


KIND = Kind("lora", _adapter, LoraOptions, rank_of_file, plus_marks=("lora_up",))

create_network, create_network_from_weights = functions(KIND)
