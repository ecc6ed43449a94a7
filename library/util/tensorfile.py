"""Files of tensors: written whole or not at all, read without leaving the file mapped.

A mapped file cannot be replaced on Windows, so small files (adapters, embeddings) are read into memory here.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from library.util.hashing import file_sha256, safetensors_hashes
from library.util.header import read_header
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

SAFETENSORS = ".safetensors"
ASIDE = ".replaced"
"""Ending of a file that was in use when it was replaced; nothing that a person would name a file of theirs."""


def _replace(new: Path, old: Path) -> None:
    """os.replace that also works while another program has ``old`` mapped on Windows.

    A mapped file cannot be overwritten there, but it can be renamed: it is moved aside and removed when it is free.
    """
    try:
        os.replace(new, old)
        return
    except PermissionError:
        if not old.exists():
            raise
    aside = Path(tempfile.mktemp(prefix=old.name + ".", suffix=ASIDE, dir=old.parent))
    os.replace(old, aside)
    try:
        os.replace(new, old)
    except OSError:
        os.replace(aside, old)
        raise
    try:
        aside.unlink()
    except OSError:
        # Still mapped by the other program; the next write of this name takes it away.
        return


def _sweep(path: Path) -> None:
    for aside in path.parent.glob(f"{_glob_escape(path.name)}.*{ASIDE}"):
        try:
            aside.unlink()
        except OSError:
            continue


def _glob_escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in ``path``'s place in one step.

    Raises what ``write`` raises; ``path`` is then as it was, and nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    handle, name = tempfile.mkstemp(prefix=path.name + ".", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _give_usual_rights(temporary)
        _replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _give_usual_rights(path: Path) -> None:
    """mkstemp makes files that only their owner may read; a LoRA file is read by other programs too."""
    if os.name == "posix":
        mask = os.umask(0)
        os.umask(mask)
        path.chmod(0o666 & ~mask)


def safetensors_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A .safetensors file as bytes, the same for the same input: metadata keys sorted, header padded to 8 bytes."""
    from safetensors.torch import save

    return with_metadata(save({k: v.contiguous() for k, v in tensors.items()}), metadata)


def split_header(data: bytes) -> tuple[dict, memoryview]:
    """A .safetensors file's header and the bytes of its tensors."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8:8 + size]), memoryview(data)[8 + size:]


def with_metadata(data: bytes, metadata: Mapping[str, str] | None) -> bytes:
    """The same file with other metadata (None or empty: without any)."""
    header, body = split_header(data)
    header.pop("__metadata__", None)
    if metadata:
        header = {"__metadata__": {k: metadata[k] for k in sorted(metadata)}, **header}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, body))


def write_tensors(path: Path | str, tensors: Mapping[str, torch.Tensor],
                  metadata: Mapping[str, str] | None = None) -> tuple[dict[str, str], str]:
    """Write an adapter's file: a .safetensors with metadata and its two ``sshs_`` hashes, else a torch file without.

    Returns the metadata as written and the file's sha256. An existing file is replaced in one step.
    """
    path = Path(path)
    if path.suffix.lower() != SAFETENSORS:
        import torch

        write_atomically(path, lambda temporary: torch.save(dict(tensors), temporary))
        return {}, file_sha256(path)
    written = dict(metadata or {})
    data = safetensors_bytes(tensors, {k: v for k, v in written.items() if k.startswith("ss_")})
    written["sshs_model_hash"], written["sshs_legacy_hash"] = safetensors_hashes(data)
    data = with_metadata(data, written)
    write_atomically(path, lambda temporary: temporary.write_bytes(data))
    return written, hashlib.sha256(data).hexdigest()


def read_tensors(path: Path | str) -> dict[str, torch.Tensor]:
    """Read every tensor of a .safetensors, .pt or .ckpt file on the CPU; of pickles only tensors, never code.

    Raises UserError where the file is missing or not such a file.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(Problem(str(path), "This is a folder, not a file.", "Give the file in it that is meant."))
    if not path.is_file():
        raise UserError(Problem(str(path), "There is no such file.", "Check the path; quote it if it has spaces."))
    try:
        return _read_safetensors(path) if path.suffix.lower() == SAFETENSORS else _read_pickle(path)
    except UserError:
        raise
    except Exception as error:
        # Whatever torch, pickle or safetensors raise on broken bytes: the file is at fault, not the program.
        header, first = read_header(path), (str(error).splitlines() or [""])[0]
        what = say("This cannot be read as a file of tensors ({kind}: {error}).", kind=type(error).__name__, error=first)
        if not header.readable:
            what = say("It {detail}.", detail=header.detail)
        remedy = "It may be half downloaded or of another kind; fetch it again."
        raise UserError(Problem(str(path), what, remedy)) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return load(path.read_bytes())


def _read_pickle(path: Path) -> dict[str, torch.Tensor]:
    import torch

    loaded = torch.load(path, map_location="cpu", weights_only=True)
    loaded = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    tensors = {k: v for k, v in loaded.items() if isinstance(v, torch.Tensor)}
    if not tensors:
        raise UserError(Problem(str(path), "This file holds no tensors.", "Give a LoRA file."))
    return tensors


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a .safetensors file; {} for other files."""
    path = Path(path)
    if path.suffix.lower() != SAFETENSORS:
        return {}
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(size)).get("__metadata__", {})
