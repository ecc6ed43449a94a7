"""The LoRAs inside a DyLoRA: its first ranks, cut after every so many."""

from __future__ import annotations

import math
from collections.abc import Iterator

from library.lorafile.file import LoraFile
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys


def cuts(lora: LoraFile, unit: int) -> Iterator[tuple[int, keys.Modules, dict[str, str]]]:
    """(rank, modules, metadata) for every multiple of ``unit`` below the file's rank.

    Alpha is what training used: a call with the first n of r ranks was scaled by alpha / r * sqrt(r / n). Raises
    UserError where unit does not divide the rank, or the file is no LoRA.
    """
    ranks = {keys.rank_of(parts) for parts in lora.modules.values() if keys.DOWN in parts}
    if lora.identity.kind != "lora" or len(ranks) != 1:
        seen = (say("ranks {ranks}", ranks=sorted(ranks)) if ranks
                else say("a {kind} file", kind=lora.identity.kind))  # fmt: skip
        raise UserError(
            Problem(str(lora.path), say("A DyLoRA has one rank throughout; this has {seen}.", seen=seen), "Give a DyLoRA file.")
        )
    rank = ranks.pop()
    if unit < 1 or rank % unit:
        raise UserError(Problem(f"--unit {unit}", say("It does not divide the file's rank {rank}.", rank=rank),
                                "Give the unit that it was trained with."))
    for used in range(unit, rank, unit):
        factor = math.sqrt(rank / used) * used / rank
        modules = {stem: {**parts, keys.DOWN: parts[keys.DOWN][:used].contiguous(),
                          keys.UP: parts[keys.UP][:, :used].contiguous(),
                          keys.ALPHA: parts[keys.UP].new_tensor((keys.alpha_of(parts) or float(rank)) * factor)}
                   for stem, parts in lora.modules.items()}
        alphas = {float(parts[keys.ALPHA]) for parts in modules.values()}
        told = {"ss_network_dim": str(used), "ss_network_alpha": str(alphas.pop()) if len(alphas) == 1 else "Dynamic",
                "ss_network_module": "networks.lora",
                "ss_training_comment": f"rank {used} of the DyLoRA {lora.path.stem}; "
                + lora.metadata.get("ss_training_comment", "")}
        yield used, modules, {**lora.metadata, **told}
