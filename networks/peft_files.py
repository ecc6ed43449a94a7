"""Adapter files as peft and diffusers write them: what they tell of the scale stands beside the tensors, not among them.

peft puts ``adapter_config.json`` beside ``adapter_model.safetensors``; diffusers puts the same record into the header, under
``lora_adapter_metadata``, with the part's name in front of every key (``transformer.lora_alpha``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.util.records import Problem, UserError
from library.util.said import say
from library.util.tensorfile import read_metadata, read_tensors
from networks import keys

if TYPE_CHECKING:
    import torch

HEADER_KEY = "lora_adapter_metadata"
CONFIG = "adapter_config.json"


def read(path: Path | str) -> dict[str, torch.Tensor]:
    """Read an adapter's tensors; a scale that is told elsewhere comes with them, as the alpha of each module.

    Raises UserError where the file is missing or damaged, or holds an adapter that only peft runs.
    """
    path = Path(path)
    tensors = read_tensors(path)
    if (name := keys.only_in_peft(tensors)) is not None:
        raise UserError(Problem(str(path), say("This is peft's {name}, an adapter of its own that only peft runs.", name=name),
                                "Merge it into the model with peft (merge_and_unload), or give a LoRA, LoHa or LoKr file."))
    return _with_scale(tensors, _config_of(path))


def _config_of(path: Path) -> dict[str, Any]:
    """The record of an adapter that was written by diffusers or peft, its keys with the part's name or without; {} without."""
    try:
        told = json.loads(read_metadata(path).get(HEADER_KEY, "{}"))
        beside = path.with_name(CONFIG)
        if not told and path.stem.startswith("adapter_model") and beside.is_file():
            told = json.loads(beside.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return {}  # another program's record in another form: the tensors stand for themselves
    return told if isinstance(told, dict) else {}


def _with_scale(tensors: dict[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    import torch

    if not config:
        return tensors
    added = dict(tensors)
    for stem, parts in keys.group(tensors).items():
        own = _Record.of(stem, config)
        if own is None or keys.ALPHA in parts:
            continue
        rank = keys.inner_rank(parts)
        scale = own.scale(rank)
        if keys.kind_of(parts) == "lokr" and rank is None:
            # Both matrices are whole: nobody reads an alpha there.
            added[f"{stem}.lokr_w1"] = parts["lokr_w1"] * scale
        elif rank is not None:
            added[f"{stem}.{keys.ALPHA}"] = torch.tensor(scale * rank)
    return added


class _Record:
    """What the record tells of one module."""

    def __init__(self, path: str, config: Mapping[str, Any]):
        self.path, self.config = path, config

    @classmethod
    def of(cls, stem: str, config: Mapping[str, Any]) -> _Record | None:
        """The record for a module; None where it tells nothing of its part of the model."""
        part, _, path = stem.removeprefix("base_model.model.").partition(".")
        own = {key.removeprefix(f"{part}."): value for key, value in config.items() if key.startswith(f"{part}.")}
        if "r" in own:
            return cls(path, own)
        return cls(stem.removeprefix("base_model.model."), config) if "r" in config else None

    def _own(self, patterns: str, usual: float) -> float:
        for pattern, value in (self.config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", self.path):
                return float(value)
        return usual

    def scale(self, rank: int | None) -> float:
        """alpha / rank as peft computes it; ``rank`` is the one the tensors show, None where they show none."""
        alpha = self._own("alpha_pattern", float(self.config.get("lora_alpha", self.config.get("alpha", 0)) or 0))
        held = float(rank or self._own("rank_pattern", float(self.config["r"])))
        return (alpha or held) / (math.sqrt(held) if self.config.get("use_rslora") else held)
