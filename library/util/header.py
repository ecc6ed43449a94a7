"""What a model file says about itself, read without torch, without loading weights and without running any code.

A header is names, shapes, types and the place of every tensor's bytes; ``families`` reads the weights from those
places, one tensor at a time, so that no file stays mapped and nothing is held twice.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from library.util.file_header import FileKind, Header, Place, from_places, wreck

LIMIT = 100_000_000
"""Largest JSON header in bytes that the safetensors library itself accepts."""


def read_header(path: str | Path) -> Header:
    """Tell what a file is and which tensors it holds.

    Reads .safetensors, ``*.index.json`` of sharded models, .ckpt/.pt/.bin (zip and older pickles, never executing
    anything) and GGUF. Raises nothing: a file that cannot be used comes back with a ``kind`` that says why, ``detail``
    in words and no tensors.
    """
    path = Path(path)
    if path.is_dir():
        return wreck(path, FileKind.FOLDER, "is a folder, not a file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
            kind = _kind_by_content(path, start, size)
            if kind in _READERS:
                file.seek(0)
                return _READERS[kind](path, file, size)
    except FileNotFoundError:
        return wreck(path, FileKind.MISSING, "does not exist")
    except OSError as error:
        return wreck(path, FileKind.UNREADABLE, f"cannot be read ({error.strerror or error})")
    return wreck(path, kind, _WORDS[kind].format(size=size), size)


_WORDS = {
    FileKind.EMPTY: "is empty (0 bytes)",
    FileKind.WEB_PAGE: "is a web page saved under a model's name, probably a login or error page ({size:,} bytes)",
    FileKind.LFS_POINTER: "is a Git LFS pointer of {size} bytes, not the model itself",
    FileKind.UNREADABLE: "is not a model file that this program knows ({size:,} bytes)",
    FileKind.CUT_OFF: "is cut off: only {size:,} bytes are here",
}


def _kind_by_content(path: Path, start: bytes, size: int) -> FileKind:
    """Kind by the first bytes; the file's ending only decides where they fit several."""
    text = start.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if not start:
        return FileKind.EMPTY
    if start.startswith(b"version https://git-lfs"):
        return FileKind.LFS_POINTER
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b'{"error', b'{"message')):
        return FileKind.WEB_PAGE
    if start.startswith(b"PK\x03\x04") or start[:1] == b"\x80":
        return _pickle_or_safetensors(start, size)
    if start.startswith(b"GGUF"):
        return FileKind.GGUF
    if path.suffix.lower() == ".json" and ".index." in path.name.lower():
        return FileKind.SHARDED
    if len(start) > 8 and start[8:9] == b"{":
        return FileKind.SAFETENSORS
    return FileKind.CUT_OFF if size < 16 else FileKind.UNREADABLE


def _pickle_or_safetensors(start: bytes, size: int) -> FileKind:
    """A safetensors file whose header is 0x..80 bytes long starts like a pickle."""
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 9 else size
    return FileKind.SAFETENSORS if start[8:9] == b"{" and 8 + length <= size else FileKind.PICKLE


def _read_safetensors(path: Path, file: BinaryIO, size: int) -> Header:
    length = struct.unpack("<Q", file.read(8))[0]
    if length > LIMIT and length > size:
        return wreck(path, FileKind.UNREADABLE, "has no readable .safetensors header", size)
    if 8 + length > size:
        return wreck(
            path,
            FileKind.CUT_OFF,
            f"is cut off inside its header: {size:,} bytes are here, more than {8 + length:,} belong to it",
            size,
            8 + length,
        )
    try:
        entries = json.loads(file.read(length).decode("utf-8"))
        metadata = entries.pop("__metadata__", {})
        places = {
            name: Place(path, 8 + length + e["data_offsets"][0], tuple(e["shape"]), e["dtype"])
            for name, e in entries.items()
        }
        return from_places(path, FileKind.SAFETENSORS, places, size, metadata)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return wreck(path, FileKind.UNREADABLE, f"has a damaged .safetensors header ({error})", size)


def _read_index(path: Path, file: BinaryIO, size: int) -> Header:
    """A sharded model: the union of the headers of its shards, or the first wreck among them."""
    try:
        shards = sorted(set(json.loads(file.read().decode("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError) as error:
        return wreck(path, FileKind.UNREADABLE, f"is not the index of a sharded model ({error})", size)
    headers = [read_header(path.parent / name) for name in shards]
    bad = next((h for h in headers if not h.readable), None)
    if bad is not None:
        assert bad.path is not None
        return replace(bad, detail=f"needs {bad.path.name}, which {bad.detail}")
    return join(path, headers)


def join(path: Path, headers: Iterable[Header]) -> Header:
    """One header over several files."""
    headers = list(headers)
    merged: dict[str, dict[str, Any]] = {"shapes": {}, "metadata": {}, "dtypes": {}, "places": {}}
    for header in headers:
        merged["shapes"].update(header.shapes)
        merged["metadata"].update(header.metadata)
        merged["dtypes"].update(header.dtypes)
        merged["places"].update(header.places)
    total = sum(h.size for h in headers)
    return Header(kind=FileKind.SHARDED, path=path, size=total, expected_size=total, **merged)


def _read_pickle(path: Path, file: BinaryIO, size: int) -> Header:
    from library.util.pickled import read_pickle

    return read_pickle(path, file, size)


def _read_gguf(path: Path, file: BinaryIO, size: int) -> Header:
    from library.util.gguf import read_gguf

    return read_gguf(path, file, size)


_READERS = {
    FileKind.SAFETENSORS: _read_safetensors,
    FileKind.SHARDED: _read_index,
    FileKind.PICKLE: _read_pickle,
    FileKind.GGUF: _read_gguf,
}
