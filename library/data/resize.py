"""Scaling of 8-bit pictures with the pixels that kohya's trainer gets, without OpenCV.

Latents of a picture are only equal to kohya's if its pixels are, and kohya scales down with OpenCV's ``INTER_AREA``. That
arithmetic is small: a target pixel is the mean of the source area it covers, summed in float32, columns before rows,
rounded half to even. Written out here (``shrink``) it is equal bit for bit and needs no 40 MB package of which nothing
else would be used. Growing is Pillow's Lanczos in both programs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

NEGLIGIBLE = 1e-3
"""A part of a source pixel narrower than this is left out, as in OpenCV."""
CUBIC = -0.75
"""OpenCV's coefficient of the bicubic kernel."""


def resize(image: np.ndarray, size: tuple[int, int], interpolation: str | None = None) -> np.ndarray:
    """Scale uint8 HxWxC to (width, height): by area where no side grows, else Lanczos; or as ``interpolation`` says.

    ``interpolation`` is a choice of ``--resize_interpolation``. Bilinear and bicubic sample without smoothing when they
    shrink, as OpenCV's do, and differ from its fixed-point sums by one level at most.
    """
    height, width = image.shape[:2]
    if (width, height) == size:
        return image
    shrinks = width >= size[0] and height >= size[1]
    return RESIZERS[interpolation or ("area" if shrinks else "lanczos")](image, size)


def _by_pillow(image: np.ndarray, size: tuple[int, int], filter_name: str) -> np.ndarray:
    import numpy as np
    from PIL import Image

    return np.array(Image.fromarray(image).resize(size, Image.Resampling[filter_name]))


def _lanczos(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _by_pillow(image, size, "LANCZOS")


def _nearest(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _by_pillow(image, size, "NEAREST")


def _area(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if size[0] <= image.shape[1] and size[1] <= image.shape[0]:
        return shrink(image, size)
    return _sampled(image, size, _blocks, _linear_weights)


def _bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _sampled(image, size, _centres, _linear_weights)


def _bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return _sampled(image, size, _centres, _cubic_weights)


def _centres(source: int, target: int) -> np.ndarray:
    """Where the centres of the target pixels lie among those of the source."""
    import numpy as np

    return (np.arange(target) + 0.5) * (source / target) - 0.5


def _blocks(source: int, target: int) -> np.ndarray:
    """The same for growing by areas: source pixels stay blocks, mixed only in target pixels that lie across a border."""
    import numpy as np

    index = np.arange(target)
    left = np.floor(index * (source / target))
    across = (index + 1) - (left + 1) * (target / source)
    return left + np.where(across <= 0, 0, across - np.floor(across))


def _linear_weights(t: np.ndarray) -> list[np.ndarray]:
    return [1 - t, t]


def _cubic_weights(t: np.ndarray) -> list[np.ndarray]:
    """Weights of the four neighbours at -1, 0, 1, 2 for a point ``t`` of the way from 0 to 1."""
    def far(x: np.ndarray) -> np.ndarray:
        return ((CUBIC * x - 5 * CUBIC) * x + 8 * CUBIC) * x - 4 * CUBIC

    def near(x: np.ndarray) -> np.ndarray:
        return ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1

    before, here, after = far(t + 1), near(t), near(1 - t)
    return [before, here, after, 1 - before - here - after]


def _sampled(image: np.ndarray, size: tuple[int, int], locate: Callable[[int, int], np.ndarray],
             weigh: Callable[[np.ndarray], list[np.ndarray]]) -> np.ndarray:
    """Weighted neighbours of each target pixel's place, columns before rows; edges repeat."""
    import numpy as np

    result = image.astype(np.float32)
    for axis, target in ((1, size[0]), (0, size[1])):
        source = image.shape[axis]
        places = locate(source, target)
        left = np.floor(places).astype(np.intp)
        weights = weigh((places - left).astype(np.float32))
        first = 1 - len(weights) // 2
        shape = (-1, 1) if axis == 0 else (-1,)
        total = sum(np.take(result, np.clip(left + first + number, 0, source - 1), axis=axis) * weight.reshape(*shape, 1)
                    for number, weight in enumerate(weights))
        result = total.astype(np.float32)
    return _rounded(result)


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale uint8 HxWxC down to (width, height); neither side may grow. Returns uint8."""
    height, width = image.shape[:2]
    assert size[0] <= width and size[1] <= height, f"{width}x{height} does not shrink to {size[0]}x{size[1]}"
    if (width, height) == size:
        return image
    if width % size[0] == 0 and height % size[1] == 0:
        return _by_whole_blocks(image, width // size[0], height // size[1])
    return _by_parts(image, size)


def _by_whole_blocks(image: np.ndarray, across: int, down: int) -> np.ndarray:
    """Whole-number factors: sums of integers, one multiplication."""
    import numpy as np

    height, width, channels = image.shape
    blocks = image.reshape(height // down, down, width // across, across, channels)
    sums = blocks.sum(axis=(1, 3), dtype=np.int32)
    if (across, down) == (2, 2):
        return ((sums + 2) >> 2).astype(np.uint8)
    return _rounded(sums.astype(np.float32) * (np.float32(1) / np.float32(across * down)))


def _by_parts(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    import numpy as np

    columns, column_shares = _shares(image.shape[1], size[0])
    rows, row_shares = _shares(image.shape[0], size[1])
    narrow = np.zeros((image.shape[0], size[0], image.shape[2]), np.float32)
    for places, shares in zip(columns, column_shares, strict=True):
        narrow += image[:, places].astype(np.float32) * shares[None, :, None]
    result = narrow[rows[0]] * row_shares[0][:, None, None]
    for places, shares in zip(rows[1:], row_shares[1:], strict=True):
        result += narrow[places] * shares[:, None, None]
    return _rounded(result)


def _shares(source: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Which source pixels make up each target pixel: (places, shares), both [most parts, target], spare shares 0."""
    import numpy as np

    scale = 1.0 / (target / source)  # the detour is OpenCV's, and its last bit matters
    parts: list[list[tuple[int, float]]] = []
    for index in range(target):
        start = index * scale
        end = start + scale
        cell = min(scale, source - start)
        last = min(math.floor(end), source - 1)
        first = min(math.ceil(start), last)
        part = [(first - 1, (first - start) / cell)] if first - start > NEGLIGIBLE else []
        part += [(place, 1.0 / cell) for place in range(first, last)]
        if end - last > NEGLIGIBLE:
            part.append((last, min(end - last, 1.0, cell) / cell))
        parts.append(part)
    places = np.zeros((max(map(len, parts)), target), np.intp)
    shares = np.zeros(places.shape, np.float32)
    for index, part in enumerate(parts):
        for number, (place, share) in enumerate(part):
            places[number, index], shares[number, index] = place, share
    return places, shares


def _rounded(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


RESIZERS: dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]] = {
    "area": _area, "lanczos": _lanczos, "nearest": _nearest, "bilinear": _bilinear, "linear": _bilinear,
    "bicubic": _bicubic, "cubic": _bicubic}
