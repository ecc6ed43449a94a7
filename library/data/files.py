"""Finding and reading the small files of a data set: pictures' names, headers, captions. No picture is decoded here."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from library.util.said import say

if TYPE_CHECKING:
    from PIL import Image

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
PLUGIN_IMAGES = {".avif": "pillow_avif", ".jxl": "pillow_jxl", ".heic": "pillow_heif", ".heif": "pillow_heif"}
"""Read where Pillow itself or the plugin of that name can."""
UNREAD_IMAGES = frozenset({".gif", ".tif", ".tiff", ".heic", ".heif", ".psd", ".jfif", ".avif", ".jxl", ".raw", ".cr2", ".nef"})
"""Pictures by their names that may not be taken; a check names them."""
ORIENTATION = 0x0112
"""EXIF tag: 1 upright, 2 to 8 turned or mirrored; 5 to 8 exchange width and height."""
UNREADABLE = (OSError, ValueError, SyntaxError, KeyError, TypeError, IndexError, struct.error)
"""What Pillow raises on broken files."""


@cache
def image_suffixes() -> frozenset[str]:
    """Lower-case endings of the pictures that can be read here."""
    from PIL import features

    found = {ending for ending, module in PLUGIN_IMAGES.items() if find_spec(module)}
    return IMAGES | found | ({".avif"} if features.check("avif") else set())


@cache
def _load_plugin(ending: str) -> None:
    """Let Pillow's plugin for this kind of picture, if it needs one that is installed, announce itself."""
    name = PLUGIN_IMAGES.get(ending)
    if name is None or not find_spec(name):
        return
    module = import_module(name)
    if name == "pillow_heif":
        module.register_heif_opener()


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture with Pillow without decoding it."""
    from PIL import Image

    _load_plugin(path.suffix.lower())
    with Image.open(path) as image:
        yield image


def allow_truncated(allowed: bool) -> None:
    """Let Pillow fill what is missing at the end of a picture with grey (``--allow_truncated_images``), or refuse it."""
    from PIL import ImageFile

    ImageFile.LOAD_TRUNCATED_IMAGES = allowed


def pictures(folder: Path) -> list[Path]:
    """The pictures directly in a folder, sorted by name; each is found once, whatever the case of its ending."""
    endings = image_suffixes()
    return sorted((path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file()),
                  key=lambda path: path.name)


@dataclass(frozen=True)
class NumberedFolder:
    """A sub-folder named ``N_name``, ``N``, or ``N_s+0.5_name`` for a slider."""

    path: Path
    repeats: int
    class_tokens: str
    strength: float | None = None


def numbered_folders(folder: Path, keep_order: bool = False) -> tuple[list[NumberedFolder], list[Path]]:
    """(sub-folders with a number of repeats, those without), by name, or as the system lists them."""
    listed = [path for path in folder.iterdir() if path.is_dir()]
    numbered, others = [], []
    for path in listed if keep_order else sorted(listed, key=lambda path: path.name):
        first, _, rest = path.name.partition("_")
        if not re.fullmatch(r"\s*[+-]?\d+\s*", first):
            others.append(path)
            continue
        slider = re.fullmatch(r"s([+-]\d+(?:\.\d+)?)(?:_(.*))?", rest)
        strength, rest = (float(slider[1]), slider[2] or "") if slider else (None, rest)
        numbered.append(NumberedFolder(path, int(first), rest, strength))
    return numbered, others


@dataclass(frozen=True)
class Header:
    """A picture's size as its header tells, upright; or what is wrong with the file."""

    size: tuple[int, int] | None
    mode: str = ""
    orientation: int = 1
    fault: str = ""


def orientation_of(image: Image.Image) -> int:
    """How EXIF wants an opened, not yet decoded picture to be turned (1 = as it is).

    A PNG's note behind its pixels is not looked for: Pillow would decode the whole picture to find it.
    """
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except UNREADABLE:
        return 1
    return value if value in range(1, 9) else 1


def read_header(path: Path, upright: bool = True) -> Header:
    """Open a picture far enough to know its size; ``upright`` swaps the sides where EXIF turns it by a right angle."""
    from PIL import Image, UnidentifiedImageError

    try:
        with opened(path) as image:
            orientation = orientation_of(image)
            turned = upright and orientation >= 5
            return Header(image.size[::-1] if turned else image.size, image.mode, orientation)
    except UnidentifiedImageError:
        return Header(None, fault=_what_else(path))
    except Image.DecompressionBombError:
        return Header(None, fault=say("has more pixels than a picture may have (178 million)"))
    except UNREADABLE as error:
        return Header(None, fault=say("cannot be read ({error})", error=error))


def _what_else(path: Path) -> str:
    """What a file with a picture's name is instead, from its first bytes."""
    with path.open("rb") as file:
        start = file.read(256)
    if not start:
        return say("is empty")
    if b"<html" in start.lower() or b"<!doctype" in start.lower():
        return say("is no picture but a web page saved under a picture's name")
    if start.startswith(b"version https://git-lfs"):
        return say("is a Git LFS pointer; the picture itself was not fetched")
    return say("is no picture that can be read")


def caption_names(image: Path, extension: str) -> Iterator[str]:
    """What a picture's caption file may be called: its stem, then the stem without face data (its last four ``_`` parts)."""
    extension = extension if "." in extension or not extension else "." + extension
    yield image.stem + extension
    parts = image.stem.split("_")
    if len(parts) >= 5:
        yield "_".join(parts[:-4]) + extension


def names_in(folder: Path) -> frozenset[str]:
    """The names in a folder, for ``caption_file``; on Windows small and capital letters are one."""
    return frozenset(os.path.normcase(path.name) for path in folder.iterdir())


def caption_file(image: Path, extension: str, listed: Container[str] | None = None) -> Path | None:
    """The caption file of a picture; ``listed`` are the folder's names (``names_in``) where they are known already."""
    for name in caption_names(image, extension):
        file = image.with_name(name)
        if os.path.normcase(name) in listed if listed is not None else file.is_file():
            return file
    return None


ENCODINGS = ("utf-8-sig", "cp932", "cp1252", "latin-1")


@dataclass(frozen=True)
class CaptionText:
    """A caption file's lines, stripped, and the encoding that it turned out to have."""

    lines: tuple[str, ...]
    encoding: str


def read_caption(file: Path) -> CaptionText:
    """Read a caption: UTF-8 (a BOM is no part of it), UTF-16 by its BOM or its zero bytes, else cp932, cp1252, latin-1."""
    data = file.read_bytes()
    for encoding in _likely(data):
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return CaptionText(tuple(line.strip() for line in io.StringIO(text, newline=None)), encoding)
    raise AssertionError("latin-1 reads any bytes")


def _likely(data: bytes) -> tuple[str, ...]:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return ("utf-16", *ENCODINGS)
    if data[1:2] == b"\0" or data[:1] == b"\0":
        return ("utf-16-le" if data[1:2] == b"\0" else "utf-16-be", *ENCODINGS)
    return ENCODINGS
