"""Pictures as arrays: read, turned upright, scaled, cut, augmented. Pixel for pixel what kohya's trainer sees."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.util.records import Problem, UserError
from library.util.said import say

from . import files
from .buckets import Placement, Size, kept_region
from .resize import resize

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270", 7: "TRANSVERSE",
         8: "ROTATE_90"}
"""EXIF orientation -> Pillow's name of the turn that sets the picture upright."""


def read(path: Path, alpha: bool = False, upright: bool = True) -> np.ndarray:
    """A picture as uint8 HxWx3 (HxWx4 with ``alpha``); raises UserError that names a file that is broken.

    Transparency is dropped without a background, as kohya does; 16-bit grey is scaled to 8 bits.
    """
    import numpy as np
    from PIL import Image

    try:
        with files.opened(path) as image:
            turn = TURNS.get(files.orientation_of(image)) if upright else None
            image = _eight_bits(image)
            image = image if image.mode == ("RGBA" if alpha else "RGB") else image.convert("RGBA" if alpha else "RGB")
            if turn is not None:
                image = image.transpose(Image.Transpose[turn])
            return np.array(image, np.uint8)
    except (*files.UNREADABLE, Image.DecompressionBombError) as error:
        raise UserError(Problem(str(path), say("This picture cannot be read: {error}.", error=error),
                                "Open and save it again with a picture program, or remove it.")) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit and 32-bit grey as 8-bit grey; Pillow's own conversion would cut off everything above 255."""
    import numpy as np
    from PIL import Image

    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    values = np.asarray(image, np.float64)
    top = 65535 if values.max() > 255 else 255
    return Image.fromarray(np.clip(values / top * 255, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Cut:
    """Where a picture was cut after scaling, so that its mask is cut alike. Sizes as (width, height)."""

    resized: Size
    left: int
    top: int
    size: Size

    def of(self, image: np.ndarray) -> np.ndarray:
        return image[self.top:self.top + self.size[1], self.left:self.left + self.size[0]]


@dataclass(frozen=True)
class Fitted:
    """A picture of its bucket's size, and what the model may be told of where it came from."""

    pixels: np.ndarray
    """uint8 HxWxC."""
    original: Size
    ltrb: tuple[float, float, float, float]
    cut: Cut


def fit(image: np.ndarray, placement: Placement, interpolation: str | None, rng: random.Random | None) -> Fitted:
    """Scale and cut a picture for its bucket, from the middle, or at random by ``rng`` (columns drawn before rows)."""
    original = (image.shape[1], image.shape[0])
    spare = placement.resized[0] - placement.bucket[0], placement.resized[1] - placement.bucket[1]
    left, top = ((side // 2 if rng is None else rng.randint(0, side)) if side > 0 else 0 for side in spare)
    cut = Cut(placement.resized, left, top, placement.bucket)
    pixels = cut.of(resize(image, placement.resized, interpolation))
    return Fitted(pixels, original, kept_region(original, placement.bucket), cut)


def cut_at_random(image: np.ndarray, size: Size, rng: random.Random) -> Fitted:
    """Cut without scaling, as ``--random_crop`` does without buckets (rows drawn before columns).

    kohya then tells the model the cut's size as the original's.
    """
    height, width = image.shape[:2]
    top = rng.randint(0, height - size[1]) if height > size[1] else 0
    left = rng.randint(0, width - size[0]) if width > size[0] else 0
    cut = Cut((width, height), left, top, size)
    return Fitted(cut.of(image), size, (0, 0, 0, 0), cut)


def face_of(path: Path) -> tuple[int, int, int, int] | None:
    """(centre x, centre y, width, height) of a face from a name such as ``pic_120_80_64_64.png``."""
    parts = path.stem.split("_")
    if len(parts) < 5 or not all(part.isdecimal() for part in parts[-4:]) or int(parts[-4]) <= 0:
        return None
    x, y, width, height = map(int, parts[-4:])
    return x, y, width, height


@dataclass(frozen=True)
class FaceCrop:
    """``--face_crop_aug_range``: by how much the short side may be larger than the face, at least and at most."""

    low: float
    high: float
    at_random: bool = False
    """Also move the cut (``--random_crop``)."""
    interpolation: str | None = None


def cut_around_face(image: np.ndarray, face: tuple[int, int, int, int], size: Size, crop: FaceCrop,
                    rng: random.Random) -> Fitted:
    """Scale so that the face takes a part of the short side that ``crop`` asks for, then cut around it.

    Never grows the picture and never lets it become smaller than ``size``. Draws as kohya: scale, then rows, then columns.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return Fitted(image, size, (0, 0, 0, 0), Cut(size, 0, 0, size))
    extent, short = max(face[2:]), min(size)
    fills = max(size[1] / height, size[0] / width)
    least = min(1.0, max(fills, short / (extent * crop.high)))
    most = min(1.0, max(least, short / (extent * crop.low)))
    scale = least if least >= most else rng.uniform(least, most)
    resized = int(width * scale + 0.5), int(height * scale + 0.5)
    top = _face_offset(resized[1], size[1], int(face[1] * scale + 0.5), (extent, short), crop, rng)
    left = _face_offset(resized[0], size[0], int(face[0] * scale + 0.5), (extent, short), crop, rng)
    cut = Cut(resized, left, top, size)
    return Fitted(cut.of(resize(image, resized, crop.interpolation)), size, (0, 0, 0, 0), cut)


def _face_offset(length: int, wanted: int, centre: int, extents: tuple[int, int], crop: FaceCrop, rng: random.Random) -> int:
    """Where a cut of ``wanted`` begins on an axis so that the face is near its middle; ``extents``: (face, short side)."""
    offset = centre - wanted // 2
    face, short = extents
    if crop.at_random:
        reach = max(length - centre, centre)
        offset += rng.randint(0, reach) + rng.randint(0, reach) - reach
    elif crop.low != crop.high and face > short // 10 and face >= 40:
        offset += rng.randint(-face // 20, face // 20)
    return max(0, min(offset, length - wanted))


def shift_colours(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """One time in three turn the hue by up to 16 degrees, or raise the values to a power of 0.95 to 1.05 (``--color_aug``)."""
    import numpy as np
    from PIL import Image

    if rng.random() > 0.33:
        return image
    if rng.random() > 0.5:
        hsv = np.array(Image.fromarray(image).convert("HSV"))
        turn = rng.uniform(-8, 8) / 180 * 256
        hsv[..., 0] = ((hsv[..., 0] + turn) % 256).astype(np.uint8)
        return np.array(Image.merge("HSV", [Image.fromarray(band) for band in np.moveaxis(hsv, -1, 0)]).convert("RGB"))
    return np.clip(image.astype(np.float64) ** rng.uniform(0.95, 1.05), 0, 255).astype(np.uint8)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """uint8 HxWx3 -> float32 3xHxW in [-1, 1], rounded as torchvision's ToTensor and Normalize do it."""
    import numpy as np
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float().div_(255)
    return tensor.sub_(0.5).div_(0.5)


def to_mask(values: np.ndarray) -> torch.Tensor:
    """uint8 HxW -> float32 1xHxW in 0..1."""
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(values)).float()[None].div_(255)
