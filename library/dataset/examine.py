"""Looking at pictures one by one: size, transparency, rotation, blur, and a thumbnail. Broken files are told, not raised."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.data import files, images
from library.util.records import UserError
from library.util.said import say

if TYPE_CHECKING:
    import numpy as np

READERS = 4
THUMBNAIL = 160
LOOKED_AT = 512
"""Longest side at which blur is measured."""
BLURRED = 0.62
"""Share of edge contrast that survives blurring once more, from which a picture counts as blurred (sharp ones: 0.2 to 0.5)."""
PLAIN = 2.0
"""Standard deviation of each colour (0 to 255) below which a picture shows nothing."""


@dataclass(frozen=True)
class Seen:
    """What a picture's pixels tell."""

    size: tuple[int, int] | None
    """(width, height), upright."""
    orientation: int = 1
    clear: float = 0.0
    """Share of pixels that are more transparent than not."""
    blur: float = 0.0
    """0 sharp to 1 blurred."""
    plain: bool = False
    moves: bool = False
    """An animation."""
    thumbnail: bytes = b""
    """JPEG."""
    fault: str = ""


def look_at(paths: list[Path], thumbnail: int = THUMBNAIL) -> list[Seen]:
    """Look at pictures, a few at a time."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda path: look(path, thumbnail), paths))


def look(path: Path, thumbnail: int = THUMBNAIL) -> Seen:
    """Decode one picture and describe it."""
    import numpy as np
    from PIL import Image

    header = files.read_header(path)
    if header.size is None:
        return Seen(None, fault=header.fault)
    try:
        pixels = images.read(path, alpha=True)
    except UserError:
        return Seen(header.size, header.orientation, fault=say("is broken: its end or a part of it is missing"))
    clear = float((pixels[..., 3] < 128).mean())
    whole = Image.fromarray(pixels[..., :3])
    small = whole.copy()
    small.thumbnail((LOOKED_AT, LOOKED_AT))
    plain = float(np.asarray(small, np.float32).std(axis=(0, 1)).max()) < PLAIN
    return Seen(header.size, header.orientation, clear, blur(np.asarray(small.convert("L"), np.float32)), plain,
                _moves(path), _thumbnail(Image.fromarray(pixels), thumbnail))


def _moves(path: Path) -> bool:
    """Whether there is a second picture in the file."""
    with files.opened(path) as image:
        try:
            image.seek(1)
        except files.UNREADABLE + (EOFError,):
            return False
    return True


def blur(grey_HW: np.ndarray) -> float:
    """How little a picture changes when it is blurred, 0 (sharp) to 1 (Crete et al. 2007, "The blur effect").

    The measure needs no comparison and hardly depends on what is shown; 0 for a picture without any edge.
    """
    import numpy as np

    worst = 0.0
    for axis in (0, 1):
        if grey_HW.shape[axis] < 12:
            continue
        sums = np.cumsum(grey_HW, axis=axis, dtype=np.float64)
        smooth = (np.take(sums, range(9, grey_HW.shape[axis]), axis) - np.take(sums, range(grey_HW.shape[axis] - 9), axis)) / 9
        sharp = np.take(grey_HW, range(5, grey_HW.shape[axis] - 4), axis)
        edges = np.abs(np.diff(sharp, axis=axis))
        lost = np.maximum(0, edges - np.abs(np.diff(smooth, axis=axis)))
        total = float(edges.sum())
        worst = max(worst, (total - float(lost.sum())) / total) if total > 0 else worst
    return worst


def _thumbnail(picture, side: int) -> bytes:
    """A small JPEG; what is transparent becomes grey."""
    from PIL import Image

    small = picture.copy()
    small.thumbnail((side, side))
    ground = Image.new("RGBA", small.size, (200, 200, 200, 255))
    memory = io.BytesIO()
    Image.alpha_composite(ground, small).convert("RGB").save(memory, format="JPEG", quality=72)
    return memory.getvalue()
