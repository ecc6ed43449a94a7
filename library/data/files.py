"""Finding and reading the small files of a data set: pictures' names, headers, captions. No picture is decoded here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
PLUGIN_IMAGES = {".avif": "pillow_avif", ".jxl": "pillow_jxl"}
"""Read where Pillow itself or the plugin of that name can."""
UNREAD_IMAGES = frozenset({".gif", ".tif", ".tiff", ".heic", ".heif", ".psd", ".jfif"})
"""Pictures by their names that kohya does not take; a check names them."""


def image_suffixes() -> frozenset[str]:
    """Lower-case endings of the pictures that can be read here."""
    from importlib.util import find_spec

    return IMAGES | {ending for ending, module in PLUGIN_IMAGES.items() if find_spec(module)}


def pictures(folder: Path) -> list[Path]:
    """The pictures directly in a folder, sorted by path; a name that differs in case only counts once."""
    endings = image_suffixes()
    found = {path.name: path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file()}
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True)
class NumberedFolder:
    """A sub-folder named ``N_name`` or ``N``."""

    path: Path
    repeats: int
    class_tokens: str


def numbered_folders(folder: Path, keep_order: bool = False) -> tuple[list[NumberedFolder], list[Path]]:
    """(sub-folders with a number of repeats, those without), by name, or as the system lists them."""
    listed = [path for path in folder.iterdir() if path.is_dir()]
    numbered, others = [], []
    for path in listed if keep_order else sorted(listed):
        first, _, rest = path.name.partition("_")
        if re.fullmatch(r"\s*[+-]?\d+\s*", first):
            numbered.append(NumberedFolder(path, int(first), rest))
        else:
            others.append(path)
    return numbered, others


@dataclass(frozen=True)
class Header:
    """A picture's size as its header tells, upright; or what is wrong with the file."""

    size: tuple[int, int] | None
    mode: str = ""
    orientation: int = 1
    fault: str = ""


def read_header(path: Path, upright: bool = True) -> Header:
    """Open a picture far enough to know its size; ``upright`` swaps the sides where EXIF turns it by a right angle."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(0x0112, 1) if upright else 1
            size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
            return Header(size, image.mode, orientation)
    except UnidentifiedImageError:
        return Header(None, fault="is no picture that can be read")
    except (OSError, ValueError, SyntaxError) as error:
        return Header(None, fault=f"cannot be read ({error})")


def caption_files(image: Path, extension: str) -> Iterator[Path]:
    """Where a picture's caption may stand: same stem, then the stem without face data (its last four ``_`` parts)."""
    extension = extension if extension.startswith(".") or not extension else "." + extension
    yield image.with_name(image.stem + extension)
    parts = image.stem.split("_")
    if len(parts) >= 5:
        yield image.with_name("_".join(parts[:-4]) + extension)


ENCODINGS = ("utf-8-sig", "cp932", "latin-1")


@dataclass(frozen=True)
class CaptionText:
    """A caption file's lines and the encoding that it turned out to have."""

    lines: tuple[str, ...]
    encoding: str


def read_caption(file: Path) -> CaptionText:
    """Read a caption: UTF-8 (a BOM is no part of it), UTF-16 by its BOM, else cp932, else latin-1."""
    data = file.read_bytes()
    tried = ("utf-16",) if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ENCODINGS
    for encoding in tried:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        return CaptionText(tuple(line.strip() for line in text.splitlines() if line.strip()), encoding)
    return CaptionText(tuple(data.decode("utf-16", "replace").split()), "utf-16")
