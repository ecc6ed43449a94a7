"""Writing the LoRA file: whole or not at all, in the precision and format that were asked for."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.util.records import SavedFile
from library.util.secrets import mask
from library.util.tensorfile import write_tensors

if TYPE_CHECKING:
    import torch

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def save_dtype(precision: str | None) -> torch.dtype | None:
    """``--save_precision`` as a dtype; None keeps each tensor's own."""
    import torch

    return None if precision is None else getattr(torch, _DTYPES[precision])


@dataclass(frozen=True)
class TensorFile:
    """A file to be written: where, what, and what it says of itself."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]
    precision: str | None = None


def save(file: TensorFile) -> SavedFile:
    """Write a .safetensors (with metadata and its two ``sshs_`` hashes), .pt or .ckpt (without metadata).

    Alpha is cast like every other tensor. Metadata is masked once more on the way: whatever is shaped like a token
    does not reach the file. An existing file is replaced in one step, also where another program has it mapped.
    """
    metadata = {key: mask(value) for key, value in file.metadata.items()}
    written, sha256 = write_tensors(file.path, _cast(file.tensors, save_dtype(file.precision)), metadata)
    return SavedFile(str(file.path), written, sha256)


def _cast(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    return {key: tensors[key].detach().to("cpu", dtype or tensors[key].dtype) for key in sorted(tensors)}


def remove(path: Path) -> bool:
    """Remove an outdated file or state folder; True where something was removed. What is in use stays."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.exists():
            path.unlink()
        else:
            return False
    except PermissionError:
        return False
    return True
