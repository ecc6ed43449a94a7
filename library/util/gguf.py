"""Names and shapes of a GGUF file (format: ggml/docs/gguf.md, versions 2 and 3)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from library.util.file_header import FileKind, Header, wreck

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_TYPES = {0: "F32", 1: "F16", 30: "BF16"}


def _take(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _text(file: BinaryIO) -> str:
    length = _take(file, "<Q")
    if length > 1 << 24:
        raise ValueError("a text in it is too long")
    return file.read(length).decode("utf-8", "replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        inner, count = _take(file, "<I"), _take(file, "<Q")
        return [_value(file, inner) for _ in range(count)]
    return _take(file, _SCALARS[kind])


def read_gguf(path: Path, file: BinaryIO, size: int) -> Header:
    """Header of a GGUF file: torch's order of axes, texts of its metadata; its tensors have no places."""
    try:
        file.seek(4)
        version, tensors, pairs = _take(file, "<I"), _take(file, "<Q"), _take(file, "<Q")
        if version not in (2, 3):
            return wreck(
                path,
                FileKind.UNREADABLE,
                f"is a GGUF file of version {version}, which this program does not know",
                size,
            )
        metadata, shapes, types = {}, {}, {}
        for _ in range(pairs):
            key = _text(file)
            value = _value(file, _take(file, "<I"))
            if isinstance(value, str):
                metadata[key] = value
        for _ in range(tensors):
            name = _text(file)
            shapes[name] = tuple(reversed([_take(file, "<Q") for _ in range(_take(file, "<I"))]))
            kind = _take(file, "<I")
            types[name] = _TYPES.get(kind, f"quantised ({kind})")
            _take(file, "<Q")
    except (struct.error, KeyError, ValueError) as error:
        return wreck(path, FileKind.CUT_OFF, f"is a damaged or cut-off GGUF file ({error})", size)
    return Header(shapes, metadata, types, FileKind.GGUF, {}, path, size)
