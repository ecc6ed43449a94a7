"""Pictures as arrays: read, turned upright, scaled, cut, augmented. Pixel for pixel what kohya's trainer sees."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.util.records import Problem, UserError

from .buckets import Placement, Size, kept_region

if TYPE_CHECKING:
    import numpy as np

INTERPOLATIONS = {"lanczos": "LANCZOS4", "nearest": "NEAREST", "bilinear": "LINEAR", "linear": "LINEAR", "bicubic": "CUBIC",
                  "cubic": "CUBIC", "area": "AREA"}
"""``--resize_interpolation`` -> OpenCV's name."""


def read(path: Path, alpha: bool = False, upright: bool = True) -> np.ndarray:
    """A picture as uint8 HxWx3 (HxWx4 with ``alpha``); raises UserError that names a file that is broken.

    Transparency is dropped without a background, as kohya does; 16-bit grey is scaled to 8 bits.
    """
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            if upright:
                image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16") or image.mode == "I":
                image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
            return np.array(image.convert("RGBA" if alpha else "RGB"), np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(Problem(str(path), f"this picture cannot be read: {error}.",
                                "Open and save it again with a picture program, or remove it.")) from error


def resize(image: np.ndarray, size: Size, interpolation: str | None = None) -> np.ndarray:
    """Scale to (width, height): by area where both sides shrink or stay, else Lanczos; or as asked for."""
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinks = width >= size[0] and height >= size[1]
    if interpolation is None and not shrinks:
        return _pillow_lanczos(image, size)
    import cv2

    name = "AREA" if interpolation is None else INTERPOLATIONS[interpolation]
    return cv2.resize(image, size, interpolation=getattr(cv2, f"INTER_{name}"))


def _pillow_lanczos(image: np.ndarray, size: Size) -> np.ndarray:
    import numpy as np
    from PIL import Image

    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def cut(image: np.ndarray, size: Size, rng: random.Random | None) -> tuple[np.ndarray, tuple[int, int]]:
    """Cut to (width, height) from the middle, or at random where ``rng`` is given -> (picture, (left, top))."""
    offsets = []
    for axis, wanted in ((1, size[0]), (0, size[1])):
        spare = image.shape[axis] - wanted
        offset = 0 if spare <= 0 else (spare // 2 if rng is None else rng.randint(0, spare))
        image = image[:, offset:offset + wanted] if axis == 1 else image[offset:offset + wanted]
        offsets.append(offset)
    return image, (offsets[0], offsets[1])


@dataclass(frozen=True)
class Fitted:
    """A picture of its bucket's size, and what the model may be told of where it came from."""

    pixels: np.ndarray
    """uint8 HxWxC."""
    original: Size
    ltrb: tuple[float, float, float, float]
    offset: tuple[int, int]
    """(left, top) of the cut, in the scaled picture."""


def fit(image: np.ndarray, placement: Placement, interpolation: str | None, rng: random.Random | None) -> Fitted:
    """Scale and cut a picture for its bucket; ``rng`` cuts at random (``--random_crop``)."""
    original = (image.shape[1], image.shape[0])
    pixels, offset = cut(resize(image, placement.resized, interpolation), placement.bucket, rng)
    return Fitted(pixels, original, kept_region(original, placement.bucket), offset)


def face_of(path: Path) -> tuple[int, int, int, int] | None:
    """(centre x, centre y, width, height) of a face from a name such as ``pic_120_80_64_64.png``."""
    parts = path.stem.split("_")
    if len(parts) < 5 or not all(part.isdigit() for part in parts[-4:]):
        return None
    return tuple(map(int, parts[-4:]))


def cut_around_face(image: np.ndarray, path: Path, size: Size, faces: tuple[float, float], rng: random.Random) -> np.ndarray:
    """Scale so that the face takes between 1/faces[1] and 1/faces[0] of the short side, then cut around it."""
    centre_x, centre_y, face_w, face_h = face_of(path)
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    face, side = max(face_w, face_h), min(size)
    fills = max(size[1] / height, size[0] / width)
    smallest = min(1.0, max(fills, side / (face * faces[1])))
    largest = min(1.0, max(fills, side / (face * faces[0])))
    scale = smallest if smallest >= largest else rng.uniform(smallest, largest)
    image = resize(image, (max(size[0], int(width * scale + 0.5)), max(size[1], int(height * scale + 0.5))), "area")
    for axis, wanted, centre in ((0, size[1], centre_y), (1, size[0], centre_x)):
        start = min(max(int(centre * scale + 0.5) - wanted // 2, 0), image.shape[axis] - wanted)
        image = image[start:start + wanted] if axis == 0 else image[:, start:start + wanted]
    return image


def shift_colours(image: np.ndarray, rng: random.Random) -> np.ndarray:
    """One time in three turn the hue by up to 16 degrees or apply a gamma of 0.95 to 1.05 (``--color_aug``)."""
    import numpy as np
    from PIL import Image

    if rng.random() > 0.33:
        return image
    if rng.random() > 0.5:
        hsv = np.array(Image.fromarray(image).convert("HSV"))
        turn = round(rng.uniform(-8, 8) / 180 * 256)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 256
        return np.array(Image.fromarray(hsv, "HSV").convert("RGB"))
    return (255 * (image / 255) ** rng.uniform(0.95, 1.05)).round().astype(np.uint8)


def to_tensor(pixels: np.ndarray) -> Any:
    """uint8 HxWx3 -> float32 3xHxW in [-1, 1], rounded as torchvision's ToTensor and Normalize do it."""
    import torch

    tensor = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
    return (tensor - 0.5) / 0.5


def to_mask(values: np.ndarray) -> Any:
    """uint8 HxW -> float32 1xHxW in 0..1."""
    import torch

    return torch.from_numpy(values.copy()).float()[None] / 255
