"""A LoRA file in another format's names, for whichever model it was made."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from library.families import blank, registry
from library.lorafile.file import LoraFile
from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks import keys, oft
from networks.ranks import kernel_of

if TYPE_CHECKING:
    import torch


@functools.lru_cache(maxsize=4)
def targets_of(family: str) -> tuple[Target, ...]:
    """Every module of a family's released models that has a name in LoRA files, without weights."""
    return tuple(blank.targets(family))


def family_of(lora: LoraFile) -> str:
    """The family a file is made for: by its metadata, else the one that has most of its modules, sizes considered.

    Raises UserError where no family has any of them.
    """
    told = lora.metadata.get("ss_base_model_version") or lora.metadata.get("modelspec.architecture") or ""
    for name in registry.names():
        if told and blank.is_called(name, told):
            return name
    counts: dict[str, int] = {}
    for name in registry.names():
        counts[name] = _fitting(lora, targets_of(name))
        if counts[name] >= len(lora.modules):
            break
    best = max(counts, key=counts.__getitem__)
    if not counts[best]:
        known = ", ".join(spec.title for spec in registry.specs())
        raise UserError(
            Problem(
                str(lora.path),
                say("Its modules (such as {modules}) belong to no known model.", modules=next(iter(lora.modules))),
                say("Known are: {known}.", known=known),
            )
        )
    return best


WITHOUT_KERNEL = ("loha", "lokr")
"""Kinds whose matrices may stand for a kernel without telling its size."""


def kernels(lora: LoraFile) -> dict[str, tuple[int, ...]]:
    """Kernel of each convolution of a file whose tensors do not tell it, by the model that it is made for.

    {} where the tensors tell it, or no model that is known here has the file's modules: they are then taken for linear layers.
    """
    if not any(keys.kind_of(parts) in WITHOUT_KERNEL for parts in lora.modules.values()):
        return {}
    try:
        targets = targets_of(family_of(lora))
    except UserError:
        return {}
    names, sizes = names_for(lora.modules, targets), {t.name: kernel_of(t) for t in [*targets, *oft.named(targets)]}
    found = ((stem, names.find(stem)) for stem in lora.modules)
    return {stem: kernel for stem, name in found if name and (kernel := sizes[name])}


def _fitting(lora: LoraFile, targets: Sequence[Target]) -> int:
    found, _ = for_targets(lora.modules, targets)
    inputs = {t.name: t.module.weight.shape[1] for t in [*targets, *oft.named(targets)]}
    return sum(keys.DOWN not in parts or parts[keys.DOWN].shape[1] == inputs[name] for name, parts in found.items())


def for_targets(modules: keys.Modules, targets: Sequence[Target]) -> tuple[keys.Modules, list[str]]:
    """Modules under the names of a model's targets, those that the original fuses taken apart; and the stems that the
    model does not have."""
    return keys.to_kohya(keys.flatten(modules), names_for(modules, targets))


def names_for(modules: keys.Modules, targets: Sequence[Target]) -> keys.Names:
    """The names of a model's modules as the file's kind spells them: kohya's OFT has a prefix of its own."""
    turned = any(keys.is_kohyas_oft(stem) for stem in modules)
    return keys.Names.of(oft.named(targets) if turned else targets)


def convert(lora: LoraFile, to: keys.FileFormat, family: str | None = None) -> tuple[dict[str, torch.Tensor], list[str]]:
    """A file's tensors in another format; also the stems that the family does not have, which are left out.

    Raises UserError where the family has none of them, or the format has no names for the kind.
    """
    chosen = family or family_of(lora)
    targets = targets_of(chosen)
    found, unknown = for_targets(lora.modules, targets)
    if not found:
        raise UserError(
            Problem(
                str(lora.path),
                say(
                    "{title} has none of its modules (such as {unknown}).",
                    title=registry.get(chosen).SPEC.title,
                    unknown=unknown[0],
                ),
                "Give the right --family.",
            )
        )
    return keys.from_kohya(keys.flatten(found), to, names_for(lora.modules, targets)), unknown
