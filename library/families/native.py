"""Transformers whose original spelling differs from diffusers' by a table: renamed, fused and swapped modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from library.families import unet, weights
from library.families.interface import LoadRequest
from library.families.weights import Source
from library.util.header import Header
from library.util.records import Target


@dataclass(frozen=True)
class Native:
    """Where a module lies in the original spelling."""

    path: str
    rows: tuple[int, int] | None = None
    """(first row, number of rows) where the original fuses several modules in one."""
    swapped: bool = False
    """The original's halves stand in the other order: (shift, scale) there, (scale, shift) in diffusers."""
    leaf: str | None = None
    """The tensor's own name where it differs (``scale``); "" where ``path`` is the tensor itself."""

    def tensor(self, leaf: str) -> str:
        """Name of the original's tensor for diffusers' ``leaf`` (``weight``, ``bias``)."""
        last = leaf if self.leaf is None else self.leaf
        return f"{self.path}.{last}" if last else self.path


PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "")
"""What stands in front of the original's names: ComfyUI's packages, trainers' files, Cosmos."""
Table = Mapping[str, Native]
"""diffusers' path of a module (or full name of a tensor) -> its original place, in kohya's order of modules."""


def find(table: Table, name: str) -> tuple[Native, str]:
    """A tensor's original place and its name there."""
    path, _, leaf = name.rpartition(".")
    spot = table[name] if name in table else table[path]
    return spot, spot.tensor(leaf)


def places(header: Header, names: list[str], table: Table, marker: str) -> dict[str, Source]:
    """Where each tensor of a transformer lies in a file of either spelling; missing ones are left out.

    ``marker`` is a tensor that only the original spelling has; it tells the spelling and the prefix.
    """
    prefix = next((p for p in PREFIXES if p + marker in header.places), None)
    if prefix is None:
        return {n: header.places[n] for n in names if n in header.places}
    found: dict[str, Source] = {}
    for name in names:
        spot, original = find(table, name)
        place = header.places.get(prefix + original)
        if place is not None:
            whole = place.slice(*spot.rows) if spot.rows else place
            found[name] = (whole.rows(1, 2), whole.rows(0, 2)) if spot.swapped else whole
    return found


def targets(denoiser: Any, table: Table, roles: Mapping[str, tuple[str, ...]]) -> list[Target]:
    """Every linear layer and convolution in the table's order; the parts of a fused original are told by ``fused``."""
    modules, found = dict(denoiser.named_modules()), []
    rows: dict[str, list[tuple[int, int]]] = {}
    for path, spot in table.items():
        if spot.rows and path in modules:
            rows.setdefault(spot.path, []).append(spot.rows)
    for path, spot in table.items():
        if path in modules and type(modules[path]).__name__ in ("Linear", "Conv2d"):
            role = unet.role(path, roles)
            if spot.rows:
                names = {"fused": (spot.path, *spot.rows), "fused_parts": tuple(sorted(rows[spot.path]))}
                found.append(Target(unet.lora_name(path), path, "denoiser", modules[path], role, **names))
            else:
                stem = unet.lora_name(spot.path)
                found.append(Target(stem, path, "denoiser", modules[path], role, native=spot.path,
                                    halves_swapped=spot.swapped))  # fmt: skip
    return found


def same(denoiser: Any) -> dict[str, Native]:
    """The table of a transformer whose original checkpoint is spelled as diffusers spells it."""
    return {path: Native(path) for path in dict.fromkeys(name.rpartition(".")[0] for name in denoiser.state_dict())}


@dataclass(frozen=True)
class Transformer:
    """A family's denoiser: diffusers' class, and how original checkpoints spell it."""

    module: str
    """Module of diffusers, behind ``diffusers.models.transformers.``."""
    name: str
    marker: str
    """A tensor that only the original spelling has."""
    modules: Callable[[Mapping[str, Any]], Table] | None = None
    """Configuration -> table; None = the original is spelled as diffusers spells it."""

    def table(self, denoiser: Any) -> Table:
        """diffusers' path of every module with weights -> its original place."""
        return same(denoiser) if self.modules is None else self.modules(denoiser.config)

    def build(self, config: Mapping[str, Any], header: Header, request: LoadRequest) -> Any:
        """The transformer of ``config`` with the weights in ``header``, in either spelling."""
        module = importlib.import_module(f"diffusers.models.transformers.{self.module}")
        model = weights.empty(lambda: module.__dict__[self.name].from_config(dict(config)))
        found = places(header, list(model.state_dict()), self.table(model), self.marker)
        return weights.fill(model, found, weights.torch_dtype(request.dtype), request.device, "the transformer")

    def targets(self, denoiser: Any, roles: Mapping[str, tuple[str, ...]]) -> list[Target]:
        """Every linear layer and convolution of it, in the original's order."""
        return targets(denoiser, self.table(denoiser), roles)
