"""What is known of a model file: its kind, its tensors' names, shapes and types, and where their bytes lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

ITEM_SIZE = {
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "F32": 4,
    "I32": 4,
    "U32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "C64": 8,
}


class FileKind(StrEnum):
    """What kind of file (or wreck of one) was found."""

    SAFETENSORS = "safetensors"
    SHARDED = "index of a sharded model"
    PICKLE = "checkpoint (.ckpt, .pt, .bin)"
    GGUF = "GGUF file"
    FOLDER = "folder"
    MISSING = "missing"
    EMPTY = "empty file"
    CUT_OFF = "cut-off file"
    WEB_PAGE = "web page"
    LFS_POINTER = "Git LFS pointer"
    UNSAFE = "checkpoint that contains code"
    UNREADABLE = "unreadable file"


READABLE = frozenset({FileKind.SAFETENSORS, FileKind.SHARDED, FileKind.PICKLE, FileKind.GGUF})


@dataclass(frozen=True)
class Place:
    """Where the bytes of one tensor lie: ``nbytes`` at ``offset`` of ``path``, row-major unless ``stride`` is set."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name of the type: F16, BF16, F32, ..."""
    stride: tuple[int, ...] | None = None
    """In items; None = contiguous."""

    @property
    def count(self) -> int:
        total = 1
        for n in self.shape:
            total *= n
        return total

    @property
    def nbytes(self) -> int:
        """Bytes to read from ``offset`` on."""
        if self.stride is None or self.count == 0:
            return self.count * ITEM_SIZE[self.dtype]
        last = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))
        return (last + 1) * ITEM_SIZE[self.dtype]

    def rows(self, part: int, parts: int) -> Place:
        """The ``part``-th of ``parts`` equal slices along the first axis, for fused projections."""
        assert self.shape[0] % parts == 0
        n = self.shape[0] // parts
        return self.slice(part * n, n)

    def slice(self, first: int, count: int) -> Place:
        """``count`` rows from ``first`` on."""
        assert self.stride is None and first + count <= self.shape[0]
        row = replace(self, shape=(1, *self.shape[1:])).nbytes
        return replace(self, shape=(count, *self.shape[1:]), offset=self.offset + first * row)

    def transposed(self) -> Place:
        """The same matrix with its two axes exchanged."""
        assert self.stride is None and len(self.shape) == 2
        return replace(self, shape=(self.shape[1], self.shape[0]), stride=(1, self.shape[1]))


@dataclass(frozen=True)
class Header:
    """A model file as its header tells: tensor name -> shape, and the metadata of a .safetensors."""

    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    kind: FileKind = FileKind.SAFETENSORS
    places: Mapping[str, Place] = field(default_factory=dict)
    """Empty where the bytes cannot be read from the file as they are (GGUF)."""
    path: Path | None = None
    size: int = 0
    """Bytes of the file (of all shards)."""
    expected_size: int | None = None
    """Bytes that the header promises; differs from ``size`` in a cut-off file."""
    detail: str = ""
    """What is wrong with the file, in words, where ``kind`` is not one of ``READABLE``."""

    @property
    def readable(self) -> bool:
        return self.kind in READABLE

    def renamed(self, names: Mapping[str, str]) -> Header:
        """A header that holds the tensors in ``names`` (old name -> new name) only."""
        return replace(
            self,
            shapes={new: self.shapes[old] for old, new in names.items()},
            dtypes={new: self.dtypes[old] for old, new in names.items() if old in self.dtypes},
            places={new: self.places[old] for old, new in names.items() if old in self.places},
        )


def wreck(path: Path, kind: FileKind, detail: str, size: int = 0, expected: int | None = None) -> Header:
    """Header of a file that cannot be used."""
    return Header({}, kind=kind, path=path, size=size, expected_size=expected, detail=detail)


def from_places(
    path: Path,
    kind: FileKind,
    places: Mapping[str, Place],
    size: int,
    metadata: Mapping[str, str] | None = None,
) -> Header:
    """Header made from the places of its tensors; CUT_OFF where the bytes end before the last of them."""
    expected = max((p.offset + p.nbytes for p in places.values() if p.path == path), default=0)
    if expected > size:
        return wreck(
            path, FileKind.CUT_OFF, f"is cut off: {size:,} bytes are here, {expected:,} belong to it", size, expected
        )
    return Header(
        {n: p.shape for n, p in places.items()},
        metadata or {},
        {n: p.dtype for n, p in places.items()},
        kind,
        places,
        path,
        size,
        expected,
    )
