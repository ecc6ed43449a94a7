"""LoRA files into a model's files for good: any adapter kind, any format, any family, one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.lorafile import kinds
from library.lorafile.convert import for_targets
from library.lorafile.file import refuse_same
from library.lorafile.merge import Share
from library.lorafile.modelfile import ModelFile, Slot
from library.lorafile.rewrite import Change, Edit, rewrite
from library.util.header import read_header
from library.util.records import Problem, UserError
from library.util.said import say
from networks import oft

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Merged:
    """What became of a merge: modules changed, and those of the files that this model does not have."""

    changed: int
    unknown: tuple[str, ...]


def merge_into(model: ModelFile, every: Sequence[Share], save_to: Path, precision: str | None, device: str | None = None
               ) -> Merged:
    """Write the model with the files added at their strengths. Sums are made in fp32.

    Raises UserError where nothing of a file belongs to the model, or the target is one of the sources.
    """
    refuse_same(save_to, model.path, *(share.lora.path for share in every))
    targets = [slot.target for slot in (*model.slots.values(), *model.norms.values())]
    found, unknown = [], []
    for share in every:
        mine, foreign = for_targets(share.lora.modules, targets)
        if not mine:
            raise UserError(
                Problem(
                    str(share.lora.path),
                    say("None of its modules is in this model (such as {foreign}).", foreign=foreign[0]),
                    say("Use a LoRA for {title}.", title=model.family.SPEC.title),
                )
            )
        # kohya's OFT names its modules with a prefix of its own; which rules a module follows is told by it.
        found.append((share, {oft.plain_name(stem): (stem, parts) for stem, parts in mine.items()}))
        unknown += foreign
    edits = list(_edits(model, found, device))
    metadata = dict(read_header(model.path).metadata) if not model.is_folder else {}
    metadata.pop("modelspec.hash_sha256", None)  # of the tensors before the merge
    if not model.is_folder:
        metadata["modelspec.merged_from"] = ", ".join([model.path.stem, *(share.lora.path.stem for share in every)])
    rewrite(model.path, save_to, edits, precision, metadata)
    return Merged(len({name for _, mine in found for name in mine}), tuple(unknown))


Found = Sequence[tuple[Share, Mapping[str, tuple[str, Mapping]]]]
"""Each file with its modules: target's name -> (the module's name in the file, its tensors)."""


def _edits(model: ModelFile, found: Found, device: str | None) -> Iterator[Edit]:
    for name, slot in (*model.slots.items(), *model.norms.items()):
        own = [(share.strength(name), *mine[name]) for share, mine in found if name in mine]
        if own:
            yield Edit(slot.weight, tuple(slot.target.module.weight.shape), _change(own, device))
        yield from _bias_edits(slot, own)


def _change(own: Sequence[tuple[float, str, Mapping]], device: str | None) -> Change:
    """The sum of the changes of one weight; a kind that reads the weight reads it with the earlier files merged."""
    def change(weight: torch.Tensor) -> torch.Tensor:
        start = weight.to(device or "cpu")
        now = start
        for strength, stem, parts in own:
            moved = {k: t.to(now.device) for k, t in parts.items()}
            now = now + kinds.change(stem, moved, now, strength)
        return (now - start).to("cpu")

    return change


def _bias_edits(slot: Slot, own: Sequence[tuple[float, str, Mapping]]) -> Iterator[Edit]:
    changes = [(strength, bias) for strength, _, parts in own if (bias := kinds.bias_change(parts)) is not None]
    if changes and slot.bias:
        shape = tuple(slot.target.module.bias.shape)
        yield Edit(slot.bias, shape, lambda bias: sum(b.float().reshape(shape) * s for s, b in changes))
