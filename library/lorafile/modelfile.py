"""A model's files as data: where the weight of each adapter target lies, without loading the model.

Works on any family's single files and folders: the family builds its modules without memory and says where their
weights lie (``families.weights.only_places``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import detect, registry, weights
from library.families.interface import Family, LoadRequest
from library.util.header import Place
from library.util.records import Problem, Target, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Slot:
    """One target of a model file."""

    target: Target
    weight: tuple[Place, ...]
    bias: tuple[Place, ...] = ()

    def read(self) -> torch.Tensor:
        """The weight in fp32, in the module's shape."""
        import torch

        with weights.Reader() as reader:
            pieces = [reader.read(place, torch.float32) for place in self.weight]
        return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).reshape(self.target.module.weight.shape)


@dataclass(frozen=True)
class ModelFile:
    """A model whose weights were not loaded."""

    family: Family
    options: Any
    path: Path
    slots: Mapping[str, Slot]
    """By the target's name in LoRA files; text encoders first, kohya's order."""
    usual: frozenset[str]
    """Names of the targets that get an adapter by kohya's rule; the others lie outside the blocks."""
    norms: Mapping[str, Slot]
    """Normalisations of the denoiser, whose scales and shifts lycoris can train (``train_norm``)."""

    @property
    def is_folder(self) -> bool:
        return self.path.is_dir()


def open_model(source: str, flag: str = "--sd_model", values: Mapping[str, Any] | None = None,
               wants_text: bool = True) -> ModelFile:
    """Find out what a model is and where its weights lie; ``values`` are a family's options (``clip_l=...``).

    Text encoders are left out where the model's files do not hold them. Raises UserError where it is no model, or of an
    architecture that is not known.
    """
    found = detect.identify(source)
    if found.family is None:
        raise UserError(
            Problem(
                f"{flag} {source}",
                say("This is {what}.", what=found.what),
                "Give a whole model: a .safetensors or .ckpt checkpoint, or a diffusers folder.",
            )
        )
    family = registry.get(found.family)
    options = registry.make_options(family, {**found.hints, **{k: v for k, v in (values or {}).items() if v is not None}})
    wanted = [frozenset({"denoiser"})]
    if wants_text:
        wanted.insert(0, frozenset({"denoiser", "text"}))
    for number, parts in enumerate(wanted, 1):
        try:
            return _open(family, LoadRequest(source, options, parts=parts))
        except UserError:
            if number == len(wanted):
                raise
    raise AssertionError("one of the two either returned or raised")


def _open(family: Family, request: LoadRequest) -> ModelFile:
    with weights.only_places() as noted:
        parts = family.load(request)
    usual = family.adapter_targets(parts)
    targets = usual + family.extra_targets(parts)
    home = {id(child): (path, lists) for module, lists in noted for path, child in module.named_modules()}

    def slots(found: Iterable[Target]) -> dict[str, Slot]:
        places = [(target, *home[id(target.module)]) for target in found]
        return {target.name: Slot(target, lists[f"{path}.weight"], lists.get(f"{path}.bias", ())) for target, path, lists in places}

    return ModelFile(family, request.options, Path(parts.name_or_path), slots(targets), frozenset(t.name for t in usual),
                     slots(_norms(parts.denoiser)))


def _norms(denoiser: torch.nn.Module) -> Iterator[Target]:
    import torch

    for path, module in denoiser.named_modules():
        if isinstance(module, (torch.nn.GroupNorm, torch.nn.LayerNorm)) and module.weight is not None:
            yield Target("lora_unet_" + path.replace(".", "_"), path, "denoiser", module, "norm")


def fused(slots: Sequence[Slot]) -> dict[str, list[Slot]]:
    """Slots by the name kohya's files have for them: those that the original fuses come together, in row order."""
    groups: dict[str, list[Slot]] = {}
    for slot in slots:
        name = slot.target.name if slot.target.fused is None else "lora_unet_" + slot.target.fused[0].replace(".", "_")
        groups.setdefault(name, []).append(slot)
    return {name: sorted(group, key=lambda s: s.target.fused[1] if s.target.fused else 0) for name, group in groups.items()}
