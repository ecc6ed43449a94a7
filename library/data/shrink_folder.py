"""A folder of pictures written anew at smaller sizes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.data.files import pictures
from library.data.images import read
from library.data.resize import resize
from library.util.records import Problem, UserError
from library.util.tensorfile import write_atomically

if TYPE_CHECKING:
    import numpy as np

KERNELS = {"area": "area", "cubic": "cubic", "lanczos4": "lanczos", "nearest": "nearest", "linear": "linear", "box": "area"}
"""The command's words -> ours. A box filter that shrinks is the mean over areas."""
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


@dataclass(frozen=True)
class Request:
    """What is written."""

    source: Path
    target: Path
    sizes: tuple[tuple[int, int], ...]
    multiple: int = 1
    kernel: str = "area"
    as_png: bool = False
    with_files: bool = False

    @classmethod
    def of(cls, folders: tuple[str, str], sizes: str, multiple: int, kernel: str | None, switches: tuple[bool, bool]) -> Request:
        """From the command's values; ``switches`` are (--save_as_png, --copy_associated_files).

        Raises UserError with all that is wrong.
        """
        source, target = map(Path, folders)
        problems, read_sizes = [], []
        if not source.is_dir():
            problems.append(Problem(f"src_img_folder {source}", "There is no such folder.", "Check the path."))
        if source.absolute() == target.absolute():
            problems.append(Problem(f"dst_img_folder {target}", "This is the folder that is read, too.", "Give another one."))
        if multiple < 1:
            problems.append(Problem(f"--divisible_by {multiple}", "Sides cannot be a multiple of it.", "Give 1 or more."))
        for part in sizes.split(","):
            try:
                width, height = map(int, part.lower().split("x"))
                read_sizes.append((width, height))
            except ValueError:
                problems.append(Problem(f"--max_resolution {part}", "This is not WIDTHxHEIGHT.", "Write 512x512,256x256."))
        if problems:
            raise UserError(*problems)
        return cls(source, target, tuple(read_sizes), multiple, KERNELS[kernel or "area"], *switches)


def shrink_all(request: Request) -> int:
    """Write every picture at every size; returns how many were written. Raises UserError where there are none."""
    found = pictures(request.source)
    if not found:
        raise UserError(Problem(f"src_img_folder {request.source}", "There is no picture in it.", "Give a folder of pictures."))
    from tqdm import tqdm

    count = 0
    for path in tqdm(found, desc="resizing", leave=False, disable=None):
        image = read(path, alpha=path.suffix.lower() == ".png" or request.as_png)
        for size in request.sizes:
            small = fitted(image, size, request)
            name = f"{path.stem}+{size[0]}x{size[1]}"
            _write(small, request.target / f"{name}{'.png' if request.as_png else path.suffix}")
            for other in _beside(path) if request.with_files else ():
                shutil.copy2(other, request.target / f"{name}{other.name[len(path.stem):]}")
            count += 1
    return count


def fitted(image: np.ndarray, size: tuple[int, int], request: Request) -> np.ndarray:
    """The picture with at most the area of ``size``, its proportions kept, the middle of a multiple's sides; never enlarged."""
    height, width = image.shape[:2]
    scale = min(1.0, math.sqrt(size[0] * size[1] / (width * height)))
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = resize(image, new, request.kernel) if new != (width, height) else image
    cut = tuple(max(request.multiple, n - n % request.multiple) for n in new)
    left, top = ((n - c) // 2 for n, c in zip(new, cut, strict=True))
    return image[max(top, 0):max(top, 0) + cut[1], max(left, 0):max(left, 0) + cut[0]]


def _write(image: np.ndarray, path: Path) -> None:
    from PIL import Image

    kind = FORMATS.get(path.suffix.lower(), "PNG")
    more = {"quality": 100} if kind in ("JPEG", "WEBP") else {}
    write_atomically(path, lambda temporary: Image.fromarray(image).save(temporary, kind, **more))


def _beside(path: Path) -> Iterator[Path]:
    """Files of the picture's name with other endings: captions, masks, caches."""
    for other in sorted(path.parent.iterdir()):
        if other.is_file() and other != path and other.stem.split(".")[0] == path.stem.split(".")[0]:
            yield other
