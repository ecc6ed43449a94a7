"""Pictures made anew: smaller, cut to a square or their bucket, on a colour, in another format. Pure but for reading."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.data import images
from library.data.buckets import BucketRules
from library.data.resize import resize
from library.util.records import Problem, UserError
from library.util.said import say

if TYPE_CHECKING:
    import numpy as np

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}
Reshape = Callable[["np.ndarray"], "np.ndarray"]
"""uint8 HxWx4 -> uint8 HxWx4."""


@dataclass(frozen=True)
class Saving:
    """How pictures are written."""

    quality: int = 95
    """Of JPEG and WebP."""


def read(path: Path) -> np.ndarray:
    """uint8 HxWx4, upright. Raises UserError for a broken file."""
    return images.read(path, alpha=True)


def write(pixels_HW4: np.ndarray, ending: str, saving: Saving = Saving()) -> bytes:
    """The bytes of a file; opaque pictures are written without transparency. Raises UserError for an unknown ending."""
    from PIL import Image

    if ending.lower() not in FORMATS:
        raise UserError(Problem(ending, "Pictures are not written in this format.", say("Use one of {formats}.", formats=FORMATS)))
    picture = Image.fromarray(pixels_HW4)
    name = FORMATS[ending.lower()]
    if pixels_HW4[..., 3].min() == 255 or name in ("JPEG", "BMP"):
        picture = picture.convert("RGB")
    memory = io.BytesIO()
    options = {"quality": saving.quality} if name in ("JPEG", "WEBP") else {}
    picture.save(memory, format=name, **options)
    return memory.getvalue()


def at_most(side: int, shortest: bool = False) -> Reshape:
    """Scale down so that the longest (or the shortest) side is ``side``; nothing is blown up."""
    def change(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        scale = side / (min(width, height) if shortest else max(width, height))
        return pixels if scale >= 1 else resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))))
    return change


def to_square() -> Reshape:
    """The square in the middle."""
    def change(pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return pixels[top:top + side, left:left + side]
    return change


def to_bucket(rules: BucketRules) -> Reshape:
    """Exactly what training would make of it: scaled and cut to its bucket. Raises UserError where it fits none."""
    def change(pixels: np.ndarray) -> np.ndarray:
        placement = rules.place((pixels.shape[1], pixels.shape[0]))
        return images.fit(pixels, placement, None, None).pixels
    return change


def on_colour(colour: tuple[int, int, int]) -> Reshape:
    """Transparent parts on a colour."""
    def change(pixels: np.ndarray) -> np.ndarray:
        import numpy as np

        alpha = pixels[..., 3:].astype(np.float32) / 255
        made = np.rint(pixels[..., :3] * alpha + np.array(colour, np.float32) * (1 - alpha))
        return np.concatenate([made, np.full_like(alpha, 255)], axis=2).astype(np.uint8)
    return change


def read_colour(text: str) -> tuple[int, int, int]:
    """``white``, ``#ff8800``, ``rgb(1,2,3)``. Raises UserError."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise UserError(
            Problem("--colour", say('"{text}" is no colour.', text=text), "Write white, black, grey or #ff8800.")
        ) from error
