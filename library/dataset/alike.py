"""Near-duplicates: difference hashes of each picture and of cuts of it, mirrored ones too, proved on small grey pictures.

A hash alone would either miss cuts or call strangers alike. So hashes only choose candidates, and each candidate pair is
compared pixel by pixel at 16 x 16: the correlation does not mind brightness, contrast or tint.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.data import files, images

if TYPE_CHECKING:
    import numpy as np

CUTS = ((0.0, 0.0, 1.0, 1.0), (0.025, 0.025, 0.975, 0.975), (0.05, 0.05, 0.95, 0.95), (0.0, 0.0, 0.95, 0.95),
        (0.05, 0.0, 1.0, 0.95), (0.0, 0.05, 0.95, 1.0), (0.05, 0.05, 1.0, 1.0))
"""(left, top, right, bottom) as parts of the sides: the whole, what cutting 5 % or 10 % away leaves, and the corners."""
SMALL, PROOF, BITS = 64, 16, 64
CANDIDATE = 16
"""Bits of 64 that may differ."""
ALIKE = 0.965
"""Correlation of two pictures from which they count as the same."""
ROWS = 64
"""Pictures whose distances to all others are taken at once."""


@dataclass(frozen=True)
class Prints:
    """The finger prints of some pictures."""

    paths: list[Path]
    hashes_NC: np.ndarray
    """uint64, one for each cut."""
    mirrored_N: np.ndarray
    """uint64 of the whole picture, mirrored."""
    grey_NCP: np.ndarray
    """float16 of each cut at 16 x 16, mean 0, length 1."""
    sizes: list[tuple[int, int]]


def prints_of(paths: list[Path]) -> Prints:
    """Read pictures, a few at a time; those that cannot be read are left out."""
    import numpy as np

    with ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2))) as pool:
        found = [(path, one) for path, one in zip(paths, pool.map(_read, paths), strict=True) if one is not None]
    if not found:
        none = np.zeros((0, len(CUTS)), np.uint64)
        return Prints([], none, none[:, 0], np.zeros((0, len(CUTS), PROOF * PROOF), np.float16), [])
    hashes = np.stack([one[1] for _, one in found])
    return Prints([path for path, _ in found], hashes[:, :-1].copy(), hashes[:, -1].copy(),
                  np.stack([one[2] for _, one in found]), [one[0] for _, one in found])


def _read(path: Path):
    """(size, hashes of the cuts and of the mirrored whole, small pictures) of one picture; None where it is broken."""
    import numpy as np
    from PIL import Image

    try:
        with files.opened(path) as image:
            size = image.size
            turn = images.TURNS.get(files.orientation_of(image))
            image.draft("L", (2 * SMALL, 2 * SMALL))  # JPEG alone: decodes a small picture, many times as fast
            grey = _grey(image).resize((SMALL, SMALL), Image.Resampling.BOX)
    except (*files.UNREADABLE, Image.DecompressionBombError):
        return None
    grey = grey.transpose(Image.Transpose[turn]) if turn is not None else grey
    boxes = [tuple(side * SMALL for side in cut) for cut in CUTS]
    steps = [np.asarray(grey.resize((9, 8), Image.Resampling.BOX, box)) for box in boxes]
    steps.append(steps[0][:, ::-1])
    bits = np.stack([(one[:, 1:] > one[:, :-1]).reshape(-1) for one in steps])
    hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    small = np.stack([np.asarray(grey.resize((PROOF, PROOF), Image.Resampling.BOX, box), np.float32) for box in boxes])
    small = small.reshape(len(CUTS), -1)
    small -= small.mean(axis=1, keepdims=True)
    length = np.sqrt((small * small).sum(axis=1, keepdims=True))
    return size, hashes, (small / np.maximum(length, 1e-3)).astype(np.float16)


def _grey(image):
    """Grey; what is transparent counts as white, as most programs show it."""
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("L")
    return image.convert("L")


def pairs(prints: Prints, alike: float = ALIKE) -> Iterator[tuple[int, int]]:
    """Numbers of pictures that show the same, some rows at a time on every core (numpy computes beside Python's lock)."""
    starts = range(0, len(prints.paths), ROWS)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for found in pool.map(lambda start: _pairs_of(prints, start, alike), starts):
            yield from found


def _pairs_of(prints: Prints, start: int, alike: float) -> list[tuple[int, int]]:
    """The pairs whose first picture is one of the rows from ``start``."""
    import numpy as np

    stop, found = min(start + ROWS, len(prints.paths)), []
    flat = prints.hashes_NC.reshape(-1)
    for mirrored in (False, True):
        own = prints.mirrored_N[start:stop] if mirrored else prints.hashes_NC[start:stop, 0]
        near = np.bitwise_count(own[:, None] ^ flat[None]) <= CANDIDATE
        rows, places = np.nonzero(near)
        one, other, cut = rows + start, places // len(CUTS), places % len(CUTS)
        kept = one != other
        one, other, cut = one[kept], other[kept], cut[kept]
        same = _likeness(prints, (one, other, cut), mirrored) >= alike
        found += zip(one[same].tolist(), other[same].tolist(), strict=True)
    return found


def _likeness(prints: Prints, where: tuple[np.ndarray, np.ndarray, np.ndarray], mirrored: bool) -> np.ndarray:
    """Correlation of whole pictures with cuts of others, a few thousand at a time."""
    import numpy as np

    one, other, cut = where
    found = np.zeros(len(one), np.float32)
    for start in range(0, len(one), 8192):
        part = slice(start, start + 8192)
        whole = prints.grey_NCP[one[part], 0].astype(np.float32)
        if mirrored:
            whole = whole.reshape(-1, PROOF, PROOF)[:, :, ::-1].reshape(len(whole), -1)
        found[part] = (whole * prints.grey_NCP[other[part], cut[part]].astype(np.float32)).sum(axis=1)
    return found


def groups(prints: Prints, alike: float = ALIKE, described: Collection[Path] = ()) -> list[list[int]]:
    """Pictures that show the same, best first: the largest, then one of ``described`` (it has a caption), then most bytes."""
    parent = list(range(len(prints.paths)))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, other in pairs(prints, alike):
        parent[root(one)] = root(other)
    found: dict[int, list[int]] = {}
    for number in range(len(prints.paths)):
        found.setdefault(root(number), []).append(number)

    def worth(number: int) -> tuple:
        width, height = prints.sizes[number]
        path = prints.paths[number]
        return -width * height, path not in described, -path.stat().st_size, str(path)

    return [sorted(members, key=worth) for members in found.values() if len(members) > 1]
