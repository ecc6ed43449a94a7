"""A model file written anew with some weights changed: tensor by tensor, never whole in memory."""

from __future__ import annotations

import bisect
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from library.families import weights
from library.util.header import Place, read_header
from library.util.records import Problem, UserError
from library.util.said import say
from library.util.tensorfile import write_atomically

if TYPE_CHECKING:
    import torch

Change = Callable[["torch.Tensor"], "torch.Tensor"]
"""A weight in fp32, as the module has it -> what is added to it."""
NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


@dataclass(frozen=True)
class Edit:
    """One change: the places that make up a module's weight, its shape, and what is added."""

    places: tuple[Place, ...]
    shape: tuple[int, ...]
    change: Change


def rewrite(source: Path, target: Path, edits: Iterable[Edit], precision: str | None, metadata: Mapping[str, str]) -> None:
    """Write ``source`` (a file or a diffusers folder) to ``target`` with the edits made.

    A folder's other files are copied. Floating tensors are written in ``precision`` (None: in the type they have).
    Raises UserError where the target's form does not fit the source's.
    """
    edits = list(edits)
    by_file: dict[Path, list[Edit]] = {}
    for edit in edits:
        by_file.setdefault(edit.places[0].path, []).append(edit)
    if not source.is_dir():
        _check_name(target)
        files = {source, *by_file}
        if len(files) > 1:
            others = ", ".join(path.name for path in files - {source})
            raise UserError(Problem("--save_to", say("The changes reach into further files ({others}).", others=others),
                                    "Merge these files one by one, or give a diffusers folder."))
        write_file(source, target, edits, precision, metadata)
        return
    if target.suffix.lower() in (".safetensors", ".ckpt"):
        raise UserError(Problem(f"--save_to {target}", "The model is a diffusers folder and stays one.",
                                "Give a folder's name without ending."))
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=_leaving_out(by_file))
    for path, changes in by_file.items():
        write_file(path, target / path.relative_to(source).with_suffix(".safetensors"), changes, precision, {"format": "pt"})


def _check_name(target: Path) -> None:
    if target.suffix.lower() != ".safetensors":
        raise UserError(Problem(f"--save_to {target}", "Models are written as .safetensors.",
                                "End the name with .safetensors."))


def _leaving_out(written: Iterable[Path]) -> Callable[[str, list[str]], list[str]]:
    names = set(written)
    return lambda folder, found: [name for name in found if Path(folder) / name in names]


def write_file(source: Path, target: Path, edits: Iterable[Edit], precision: str | None,
               metadata: Mapping[str, str]) -> None:
    """One file of tensors, written tensor by tensor in the order in which it lies."""
    header = weights.usable(read_header(source))
    order = sorted(header.places, key=lambda name: header.places[name].offset)
    inside = _by_tensor(header.places, order, edits)

    kinds = weights.file_dtypes()
    entries = {n: (_type(header.places[n].dtype, precision, kinds), header.places[n].shape) for n in order}
    with weights.Reader() as reader:
        stream(target, entries, metadata, lambda name: _changed(reader, header.places[name], inside.get(name, ()), kinds))


def stream(target: Path, entries: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str],
           tensor_of: Callable[[str], torch.Tensor]) -> None:
    """A .safetensors file of ``entries`` (name -> type, shape), each tensor made when it is its turn; whole or not at all."""
    kinds = weights.file_dtypes()

    def fill(temporary: Path) -> None:
        with temporary.open("wb") as file:
            _write_header(file, entries, metadata, kinds)
            for name, (kind, _) in entries.items():
                file.write(_bytes(tensor_of(name), kinds[kind]))

    write_atomically(target, fill)


def _type(stored: str, precision: str | None, kinds: Mapping[str, torch.dtype]) -> str:
    return NAMES[precision] if precision and kinds[stored].is_floating_point else stored


def _write_header(file: BinaryIO, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str],
                  kinds: Mapping[str, torch.dtype]) -> None:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (kind, shape) in tensors.items():
        size = kinds[kind].itemsize * math.prod(shape)
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def _by_tensor(places: Mapping[str, Place], order: list[str], edits: Iterable[Edit]) -> dict[str, list[tuple[Edit, list[int]]]]:
    """Tensor name -> (edit, first row of each of its places inside the tensor)."""
    starts = [places[name].offset for name in order]
    found: dict[str, list[tuple[Edit, list[int]]]] = {}
    for edit in edits:
        owners = {order[bisect.bisect_right(starts, place.offset) - 1] for place in edit.places}
        assert len(owners) == 1, "the pieces of one module's weight lie in one tensor"
        owner = places[(name := owners.pop())]
        row = owner.nbytes // max(1, owner.shape[0])
        found.setdefault(name, []).append((edit, [(p.offset - owner.offset) // row for p in edit.places]))
    return found


def _changed(reader: weights.Reader, place: Place, edits: Iterable[tuple[Edit, list[int]]],
             kinds: Mapping[str, torch.dtype]) -> torch.Tensor:
    import torch

    if not edits:
        return reader.read(place)
    whole = reader.read(place, torch.float32)
    if whole.dtype == kinds[place.dtype]:
        whole = whole.clone()
    for edit, rows in edits:
        spans = [whole[row:row + piece.shape[0]] for row, piece in zip(rows, edit.places, strict=True)]
        delta = edit.change(torch.cat(spans).reshape(edit.shape))
        parts = delta.reshape(sum(len(s) for s in spans), -1).split([len(s) for s in spans])
        for span, part in zip(spans, parts, strict=True):
            span.add_(part.reshape(span.shape))
    return whole if kinds[place.dtype] == torch.float32 else whole.to(kinds[place.dtype])


def _bytes(tensor: torch.Tensor, dtype: torch.dtype) -> memoryview:
    import torch

    flat = tensor.to(dtype).contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy())
