"""One picture of the plan, read and brought to its bucket's size, with its loss mask."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.config.run_config import SubsetConfig
from library.util.records import Problem, UserError
from library.util.said import say

from . import images
from .plan import DatasetPlan, Item

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Reading:
    """How pictures are read in this run."""

    upright: bool = True
    """Turn pictures as their EXIF says."""
    squeezed_masks: bool = False
    """Scale a mask straight to the bucket instead of cutting it as its picture (kohya's way)."""


@dataclass(frozen=True)
class Prepared:
    """A picture of its bucket's size."""

    pixels: np.ndarray
    """uint8 HxWx3."""
    mask: np.ndarray | None
    """uint8 HxW; 255 trains, 0 does not."""
    original: tuple[int, int]
    """(width, height)."""
    ltrb: tuple[float, float, float, float]


def prepare(plan: DatasetPlan, item: Item, reading: Reading, rng: random.Random | None) -> Prepared:
    """Read, scale and cut a picture; ``rng`` None: for a cache, where nothing is random and any size is made to fit.

    Raises UserError for a file that is broken or has another size than the scan found.
    """
    subset = plan.parts[item.part].subsets[item.subset]
    wants_alpha = subset.alpha_mask and item.mask_file is None
    pixels = images.read(item.path, alpha=wants_alpha, upright=reading.upright)
    seen = (pixels.shape[1], pixels.shape[0])
    if seen != tuple(item.size):
        raise UserError(Problem(str(item.path), say("This picture is {seen[0]}x{seen[1]}, but {size[0]}x{size[1]} by its "
                                                    "header (or by the metadata_cache.json beside it).",
                                                    seen=seen, size=item.size),
                                "Start again if it was changed just now; else save it anew, or delete metadata_cache.json."))
    fitted = _fitted(plan, item, subset, pixels, rng)
    mask = None
    if item.mask_file is not None:
        mask = _mask(item, subset, fitted.cut, reading)
    elif wants_alpha:
        mask = fitted.pixels[..., 3]
    return Prepared(fitted.pixels[..., :3], mask, fitted.original, fitted.ltrb)


def _fitted(plan: DatasetPlan, item: Item, subset: SubsetConfig, pixels: np.ndarray,
            rng: random.Random | None) -> images.Fitted:
    part = plan.parts[item.part]
    if part.enable_bucket or rng is None:
        return images.fit(pixels, item.placement, subset.resize_interpolation, rng if subset.random_crop else None)
    face = images.face_of(item.path) if subset.face_crop_aug_range is not None else None
    if face is not None and subset.face_crop_aug_range is not None:
        crop = images.FaceCrop(*subset.face_crop_aug_range, subset.random_crop, subset.resize_interpolation)
        return images.cut_around_face(pixels, face, part.resolution, crop, rng)
    return images.cut_at_random(pixels, part.resolution, rng)


def _mask(item: Item, subset: SubsetConfig, cut: images.Cut, reading: Reading) -> np.ndarray:
    assert item.mask_file is not None
    whole = images.read(item.mask_file, upright=reading.upright)
    if reading.squeezed_masks:
        return images.resize(whole, cut.size, subset.resize_interpolation)[..., 0]
    return cut.of(images.resize(whole, cut.resized, subset.resize_interpolation))[..., 0]
