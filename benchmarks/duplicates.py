"""Finds planted near-copies among made-up pictures: how many are found, how many groups are wrong, how long it takes.

    python benchmarks/duplicates.py                 1,000 pictures, 100 of them copies
    python benchmarks/duplicates.py --time 10000    how long so many take

The pictures are fractal noise with shapes and strokes on it, no photographs: those have more in common with each other. Those
that are only timed are cuts of a few large ones, two laid over each other: strangers to each other, and made ten times as fast.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.dataset import alike


def made_up(seed: int, size: tuple[int, int] = (512, 512)) -> Image.Image:
    """A picture like no other: noise at four scales in two colours, shapes and strokes."""
    rng, draw_rng = np.random.default_rng(seed), random.Random(seed)
    field = np.zeros((size[1], size[0]), np.float32)
    for cells, weight in ((3, 1.0), (7, 0.6), (17, 0.3), (60, 0.1)):
        noise = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
        field += weight * np.asarray(noise.resize(size, Image.Resampling.BICUBIC), np.float32) / 255
    field = (field - field.min()) / (field.max() - field.min())
    low, high = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    picture = Image.fromarray((low + field[..., None] * (high.astype(np.float32) - low)).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(draw_rng.randint(2, 8)):
        box = sorted(draw_rng.randint(0, size[0]) for _ in range(2)) + sorted(draw_rng.randint(0, size[1]) for _ in range(2))
        place, colour = (box[0], box[2], box[1] + 1, box[3] + 1), tuple(draw_rng.randint(0, 255) for _ in range(3))
        draw_rng.choice((draw.ellipse, draw.rectangle))(place, fill=colour)
        draw.line((box[0], box[3], box[1], box[2]), fill=colour[::-1], width=draw_rng.randint(1, 12))
    return picture


def rescaled(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width * 6 // 10, picture.height * 6 // 10), Image.Resampling.LANCZOS)


def cropped(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    return picture.crop((width // 20, 0, width, height - height // 20))


def mirrored(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def tinted(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture, np.float32) * (1.1, 0.95, 0.75) + (10, 0, -5)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


class Cuts:
    """Pictures that are quickly made: cuts of large ones with grain, two laid over each other, no two from the same places."""

    def __init__(self, large: int = 40, side: int = 2048):
        grain = np.random.default_rng(0).normal(0, 14, (side, side, 1))  # makes files as large as those of photographs
        self.large = [Image.fromarray(np.clip(np.asarray(made_up(number, (side, side))) + grain, 0, 255).astype(np.uint8))
                      for number in range(large)]

    def one(self, seed: int, size: tuple[int, int]) -> Image.Image:
        """The picture of this number."""
        rng = random.Random(seed)

        def cut(picture: Image.Image) -> Image.Image:
            left, top = (rng.randrange(whole - part) for whole, part in zip(picture.size, size, strict=True))
            return picture.crop((left, top, left + size[0], top + size[1]))

        return Image.blend(*(cut(picture) for picture in rng.sample(self.large, 2)), rng.uniform(0.3, 0.7))


KINDS = {"rescaled": rescaled, "recompressed": lambda picture: picture, "cropped": cropped, "mirrored": mirrored, "tinted": tinted}
SIZES = ((512, 512), (512, 768), (640, 448))


def plant(folder: Path, originals: int, copies: int) -> dict[Path, Path]:
    """Write pictures and copies of every kind; returns copy -> original."""
    make, paths = made_up if copies else Cuts().one, []
    for number in range(originals):
        paths.append(folder / f"{number:05d}.jpg")
        make(number, SIZES[number % len(SIZES)]).save(paths[-1], quality=92)
    planted = {}
    for number in range(copies):
        kind = list(KINDS)[number % len(KINDS)]
        copy = folder / f"copy_{kind}_{number:05d}.{'jpg' if kind == 'recompressed' else 'png'}"
        with Image.open(paths[number]) as picture:
            KINDS[kind](picture.convert("RGB")).save(copy, **({"quality": 35} if kind == "recompressed" else {}))
        planted[copy] = paths[number]
    return planted


def score(folder: Path, planted: dict[Path, Path]) -> tuple[dict[str, float], float, tuple[float, float]]:
    """(share of copies found, by kind; wrong groups by pictures; seconds by the clock, and of processor time)."""
    start, worked = time.perf_counter(), time.process_time()
    prints = alike.prints_of(sorted(folder.iterdir()))
    found = [{prints.paths[number] for number in group} for group in alike.groups(prints)]
    seconds = time.perf_counter() - start, time.process_time() - worked
    hits: dict[str, list[bool]] = {}
    for copy, original in planted.items():
        hits.setdefault(copy.name.split("_")[1], []).append(any({copy, original} <= group for group in found))
    wrong = sum(len({planted.get(path, path) for path in group}) > 1 for group in found)
    return {kind: sum(one) / len(one) for kind, one in hits.items()}, wrong / max(1, len(found)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--time", type=int, metavar="N", help="only the time that N pictures take")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        planted = plant(Path(name), args.time or 900, 0 if args.time else 100)
        size = sum(path.stat().st_size for path in Path(name).iterdir()) / len(list(Path(name).iterdir()))
        recall, wrong, seconds = score(Path(name), planted)
    if not args.time:
        print(f"recall {sum(recall.values()) / len(recall):.3f} ({', '.join(f'{k} {v:.2f}' for k, v in recall.items())}); "
              f"wrong groups {wrong:.3f}")
    print(f"{args.time or 1000} pictures of {size / 1024:.0f} KB: {seconds[0]:.1f} s, {seconds[1]:.1f} s of processor time")


if __name__ == "__main__":
    main()
