"""The hashes by which image UIs recognise models and LoRA files."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import BinaryIO

_LEGACY_OFFSET, _LEGACY_SIZE = 0x100000, 0x10000
_CHUNK = 1 << 20


def sha256_of(stream: BinaryIO) -> str:
    """sha256 of what is left in a stream, in hex."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def legacy_of(stream: BinaryIO) -> str:
    """The old short hash: first 8 hex digits of sha256 of the 64 KiB that start at 1 MiB."""
    stream.seek(_LEGACY_OFFSET)
    return hashlib.sha256(stream.read(_LEGACY_SIZE)).hexdigest()[:8]


def file_sha256(path: Path | str) -> str:
    """sha256 of a file."""
    with Path(path).open("rb") as file:
        return sha256_of(file)


def safetensors_hashes(data: bytes) -> tuple[str, str]:
    """(``sshs_model_hash``, ``sshs_legacy_hash``) of a .safetensors file whose metadata holds its ``ss_`` keys only.

    The first is sha256 of the tensors' bytes after the header; the second depends on the header's length as well.
    """
    header = int.from_bytes(data[:8], "little")
    return (hashlib.sha256(memoryview(data)[8 + header:]).hexdigest(), legacy_of(io.BytesIO(data)))
