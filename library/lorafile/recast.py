"""Whole SD models from a single file to a diffusers folder and back, tensor by tensor, none of them whole in memory.

The family says where each tensor of its modules lies (``families.weights.only_places``); what is written is named as the
other form names it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from library.families import clip, weights
from library.families.whole import MARKS, Item, Whole, items_of, single_file
from library.lorafile.rewrite import NAMES, stream
from library.util.records import Problem, UserError

if TYPE_CHECKING:
    import torch

def write_file(whole: Whole, target: Path, precision: str | None, metadata: Mapping[str, str]) -> int:
    """Write one checkpoint in the original spelling; returns the number of tensors."""
    items = single_file(whole)
    _stream(target, items, precision, metadata)
    return len(items)


def write_folder(whole: Whole, target: Path, precision: str | None, reference: Path | None = None) -> int:
    """Write a diffusers folder, whole or not at all; scheduler and tokenizers are ``reference``'s, where one is given.

    Returns the number of tensors. Raises UserError where something is at ``target`` already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(Problem(str(target), "Something is there already.", "Give a new folder's name."))
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=target.name + ".", suffix=".tmp", dir=target.parent))
    try:
        count = sum(_write_part(whole, part, made / part, precision) for part in whole.modules)
        _write_rest(whole, made, reference)
        if target.exists():
            target.rmdir()
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return count


def _write_part(whole: Whole, part: str, folder: Path, precision: str | None) -> int:
    module, items = whole.modules[part], items_of(whole, part)
    folder.mkdir()
    if part.startswith("text"):
        items = {clip.canonical(name): item for name, item in items.items()}
        module.config.architectures = [type(module).__name__]
        module.config.save_pretrained(folder)
        _stream(folder / "model.safetensors", items, precision, {"format": "pt"})
    else:
        module.save_config(folder)
        _stream(folder / "diffusion_pytorch_model.safetensors", items, precision, {"format": "pt"})
    return len(items)


def _write_rest(whole: Whole, folder: Path, reference: Path | None) -> None:
    pipeline = whole.family.pipeline(whole.parts)
    for setting, value in MARKS.values():
        if whole.parts.scheduler_config.get(setting) == value:
            pipeline.scheduler.register_to_config(**{setting: value})
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    for number, tokenizer in enumerate(whole.parts.tokenizers):
        tokenizer.save_pretrained(folder / f"tokenizer{'_2' if number else ''}")
    for part in ("scheduler", "tokenizer", "tokenizer_2") if reference else ():
        if (reference / part).is_dir() and (folder / part).is_dir():
            shutil.copytree(reference / part, folder / part, dirs_exist_ok=True)


def _stream(target: Path, items: Mapping[str, Item], precision: str | None, metadata: Mapping[str, str]) -> None:
    kinds = weights.file_dtypes()

    def kind(item: Item) -> str:
        stored = item.places[0].dtype if item.places else "F32"
        return NAMES[precision] if precision and kinds[stored].is_floating_point else stored

    with weights.Reader() as reader:
        stream(target, {name: (kind(item), item.shape) for name, item in items.items()}, metadata,
               lambda name: _read(reader, items[name]))


def _read(reader: weights.Reader, item: Item) -> torch.Tensor:
    import torch

    if not item.places:
        return torch.empty(item.shape)
    pieces = [reader.read(place) for place in item.places]
    whole = pieces[0] if len(pieces) == 1 else torch.cat([piece.to(pieces[0].dtype) for piece in pieces])
    return whole.t() if item.transposed else whole.reshape(item.shape)
