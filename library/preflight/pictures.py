"""Checks of picture files from their headers: sizes without buckets, rotation, transparency, types that are not read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.preflight.registry import Context, check
from library.util.records import Problem

SHOWN = 3
LOOKED_AT = 2000
"""Pictures whose headers are read for notes; more would cost seconds and say no more."""


def named(paths: list[Path]) -> str:
    """The first names of a list of files."""
    return ", ".join(p.name for p in paths[:SHOWN]) + (", ..." if len(paths) > SHOWN else "")


@dataclass(frozen=True)
class Folder:
    """A folder of pictures with what its subset and part ask of them."""

    path: Path
    resolution: tuple[int, int]
    crops: bool
    """A random crop makes larger pictures fit."""


def bucketless_folders(context: Context) -> list[Folder]:
    """Folders whose pictures must all have the training size, because bucketing is off."""
    from library.data.files import numbered_folders

    assert context.config is not None
    data, found = context.config.data, []
    for part in data.parts:
        if part.enable_bucket or context.config.cache.latents:  # cached latents: any size is scaled and cut
            continue
        found += [
            Folder(s.image_dir, part.resolution, s.random_crop or s.face_crop_aug_range is not None)
            for s in part.subsets
            if s.image_dir is not None
        ]
        if data.folder_mode and not part.subsets and data.template is not None:
            crops = data.template.random_crop or data.template.face_crop_aug_range is not None
            for root in (data.train_data_dir, data.reg_data_dir):
                if root is not None and root.is_dir():
                    found += [Folder(one.path, part.resolution, crops) for one in numbered_folders(root)[0] if one.repeats >= 1]
    return found


@check("image_sizes", level="files", row="F84", needs=("config",))
def check_sizes(context: Context) -> Iterator[Problem]:
    """Without buckets every picture must have the training size; kohya's trainer says so in the middle of a run."""
    from library.data.files import pictures, read_header

    assert context.config is not None
    if context.config.cache.latents:
        return  # cached latents are scaled and cut to the training size
    upright = not context.config.data.kohya_order
    wrong: list[Path] = []
    seen, resolution = 0, (0, 0)
    for folder in bucketless_folders(context):
        files = pictures(folder.path) if folder.path.is_dir() else []
        seen += len(files)
        with ThreadPoolExecutor(8) as pool:
            headers = list(pool.map(lambda path: read_header(path, upright), files))
        for path, header in zip(files, headers, strict=True):
            if header.size is not None and not _fits(header.size, folder):
                wrong.append(path)
                resolution = folder.resolution
    if wrong:
        context.facts["wrong_sizes"] = {str(path) for path in wrong}
        yield context.stop(
            "image_sizes",
            "--enable_bucket",
            count=len(wrong),
            images=seen,
            names=named(wrong),
            size=f"{resolution[0]}x{resolution[1]}",
        )


def _fits(size: tuple[int, int], folder: Folder) -> bool:
    width, height = folder.resolution
    return size == folder.resolution or (folder.crops and size[0] >= width and size[1] >= height)


def headers_of(context: Context) -> list[tuple[Path, Any]]:
    """(path, header) of the plan's first pictures, read once."""
    from library.data.files import read_header

    def read() -> list[tuple[Path, Any]]:
        paths = sorted({item.path for item in context.plan.items})[:LOOKED_AT]
        with ThreadPoolExecutor(8) as pool:
            return list(zip(paths, pool.map(read_header, paths), strict=True))

    return context.remember("headers", read)


@check("image_turned", level="data", row="F67", needs=("config", "plan"))
def check_rotation(context: Context) -> Iterator[Problem]:
    """Photos that lie on their side and carry a note how to turn them."""
    assert context.config is not None
    turned = [path for path, header in headers_of(context) if header.orientation not in (0, 1)]
    if turned:
        key = "image_turned.not" if context.config.data.kohya_order else "image_turned"
        yield context.note(key, "--train_data_dir", count=len(turned), names=named(turned))


@check("image_transparent", level="data", row="F67", needs=("config", "plan"))
def check_transparency(context: Context) -> Iterator[Problem]:
    """Pictures with transparency: what is seen there in training may not be what a viewer shows."""
    assert context.config is not None
    clear = [path for path, header in headers_of(context) if header.mode in ("RGBA", "LA", "PA", "La", "RGBa")]
    masked = any(s.config.alpha_mask for s in context.plan.subsets)
    if clear and not masked:
        yield context.note("image_transparent", "--train_data_dir", count=len(clear), names=named(clear))


@check("image_colours", level="data", row="F67", needs=("plan",))
def check_colours(context: Context) -> Iterator[Problem]:
    """CMYK and 16-bit pictures are converted, and their colours may shift."""
    odd = [
        path
        for path, header in headers_of(context)
        if header.mode in ("CMYK", "YCbCr", "LAB", "HSV", "I", "F") or header.mode.startswith("I;16")
    ]
    if odd:
        yield context.note("image_colours", "--train_data_dir", count=len(odd), names=named(odd))


@check("image_types", level="data", row="F67", needs=("plan",))
def check_types(context: Context) -> Iterator[Problem]:
    """Picture files of types that are not read."""
    from library.data.files import UNREAD_IMAGES

    endings: Counter[str] = Counter()
    for folder in sorted({item.path.parent for item in context.plan.items}):
        endings.update(Path(n).suffix.lower() for n in os.listdir(folder) if Path(n).suffix.lower() in UNREAD_IMAGES)
    if endings:
        yield context.warn(
            "image_types", "--train_data_dir", found=", ".join(f"{count} {ending}" for ending, count in endings.items())
        )
