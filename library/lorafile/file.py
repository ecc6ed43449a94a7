"""A LoRA file as data: its modules under the names it uses, its metadata, and how it is written again."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from library.save.weights import TensorFile, save
from library.util.records import Problem, SavedFile, UserError
from library.util.said import say
from library.util.tensorfile import read_metadata
from networks import keys, peft_files

if TYPE_CHECKING:
    import torch

PRECISIONS = ("float", "fp32", "fp16", "bf16")


@dataclass(frozen=True)
class LoraFile:
    """An adapter file: stem -> suffix -> tensor, as the file spells the stems, with kohya's suffixes."""

    modules: keys.Modules
    metadata: Mapping[str, str]
    identity: keys.Identity
    path: Path
    rest: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Tensors that belong to no module; they are carried along."""

    @property
    def dtype(self) -> torch.dtype:
        """The type most of its weights have."""
        counts = Counter(t.dtype for parts in self.modules.values() for s, t in parts.items() if s != keys.ALPHA)
        return counts.most_common(1)[0][0]

    @property
    def name(self) -> str:
        return self.path.name


def read(path: Path | str) -> LoraFile:
    """Read an adapter of any kind and format.

    Raises UserError where the file is missing, damaged, or no adapter.
    """
    path = Path(path)
    tensors = peft_files.read(path)
    identity = keys.identify(tensors)
    if identity.kind is None:
        some = next(iter(tensors), "no tensor at all")
        raise UserError(
            Problem(
                str(path),
                say("This is not a LoRA file ({tensors} tensors, such as {some}).", tensors=len(tensors), some=some),
                "Give a LoRA, LoHa, LoKr, ... file; a whole model goes behind --sd_model.",
            )
        )
    modules = {stem: parts for stem, parts in keys.group(tensors).items() if keys.kind_of(parts)}
    _complete(path, modules)
    known = {key for key in tensors if (split := keys.split_key(key)) and split[0] in modules}
    metadata = {k: v for k, v in read_metadata(path).items() if k not in ("format", peft_files.HEADER_KEY)}
    return LoraFile(modules, metadata, identity, path, {k: t for k, t in tensors.items() if k not in known})


def _complete(path: Path, modules: keys.Modules) -> None:
    """Both halves of every low-rank module must be there, and fit each other."""
    for stem, parts in modules.items():
        halves = [s for s in (keys.DOWN, keys.UP) if s in parts]
        if len(halves) == 1:
            lacks = keys.UP if halves[0] == keys.DOWN else keys.DOWN
            raise UserError(Problem(str(path), say("{stem} has {halves} but no {lacks}.", stem=stem, halves=halves[0], lacks=lacks),
                                    "The file is damaged or cut short; fetch or save it again."))
        if len(halves) == 2 and keys.MID not in parts and parts[keys.DOWN].shape[0] != parts[keys.UP].shape[1]:
            shapes = " and ".join(keys.shape_text(parts[s].shape) for s in (keys.DOWN, keys.UP))
            raise UserError(
                Problem(
                    str(path),
                    say("{stem}: down and up do not fit each other ({shapes}).", stem=stem, shapes=shapes),
                    "The file is damaged; fetch or save it again.",
                )
            )


def precision(word: str | None) -> str | None:
    """kohya's ``float`` and our ``fp32`` are one."""
    return "fp32" if word == "float" else word


def spelled(modules: keys.Modules, fmt: keys.FileFormat | None) -> dict[str, torch.Tensor]:
    """Modules as a file's tensors, the stems left as they are: kohya's suffixes, or PEFT's with the scale folded in."""
    if fmt in (None, "kohya"):
        return keys.flatten(modules)
    written: dict[str, torch.Tensor] = {}
    for stem, parts in modules.items():
        if keys.kind_of(parts) != "lora" or keys.MID in parts:
            written.update({f"{stem}.{suffix}": tensor for suffix, tensor in parts.items()})
            continue
        down, up = keys.folded(parts)
        written |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        if keys.DORA in parts:
            written |= keys.lengths_written(stem, parts[keys.DORA], fmt)
    return written


@dataclass(frozen=True)
class Output:
    """Where and how a file is to be written."""

    path: Path
    precision: str | None = None
    """``fp32``, ``fp16``, ``bf16``; None = as the tensors are."""

    @classmethod
    def of(cls, save_to: str | None, word: str | None, *sources: Path | str | None, flag: str = "--save_to") -> Output:
        """From ``--save_to`` and ``--save_precision``, or what the command calls them.

        Raises UserError where no path is given, its ending is none of a LoRA file's, or it is one of the sources.
        """
        if not save_to:
            raise UserError(
                Problem(flag, "It says where the result goes, and is missing.", say("Add {flag}=NAME.safetensors.", flag=flag))
            )
        path = Path(save_to)
        if path.suffix.lower() not in (".safetensors", ".ckpt", ".pt", ".pth"):
            raise UserError(Problem(f"{flag} {save_to}", "The name has no ending that this program writes.",
                                    "End it with .safetensors (or .ckpt, .pt, .pth)."))
        refuse_same(path, *sources)
        return cls(path, precision(word))


def given(flag: str, value: str | None) -> str:
    """A value that the command cannot do without. Raises UserError where it is missing."""
    if not value:
        raise UserError(Problem(flag, "It says which file is read, and is missing.", say("Add {flag}=FILE.", flag=flag)))
    return value


def refuse_same(target: Path, *sources: Path | str | None) -> None:
    """Raise UserError where the result would be written over what it is made from."""
    for source in sources:
        if source is not None and _same(target, Path(source)):
            raise UserError(Problem(f"--save_to {target}", "This is the file that is read, too.",
                                    "Give another name; the original stays as it is."))


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return os.path.samefile(one, other)
    return one.absolute() == other.absolute()


def write(output: Output, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> SavedFile:
    """Write the file whole or not at all, its two hashes computed anew."""
    kept = {k: v for k, v in metadata.items() if not k.startswith("sshs_")}
    return save(TensorFile(output.path, tensors, kept, output.precision))
