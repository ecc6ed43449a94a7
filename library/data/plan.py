"""What a scan finds: every picture with its size, caption and place, and what the metadata tells of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from library.config.run_config import DatasetConfig, DatasetPart, SubsetConfig
from library.util.records import Problem

from .buckets import BucketRules, Placement, Size


@dataclass(frozen=True)
class ScanRules:
    """What the model's architecture decides about data."""

    bucket_step: int = 64
    """Sides of buckets must be multiples of this."""
    cache_suffix: str = "_sd"
    text_cache_suffix: str | None = None
    latents_cached: bool = False
    """Latents are cached: kohya then scales and cuts pictures of any size to the resolution, buckets or not."""
    seed: int = 0
    """The run's; shuffles what is held out for validation where ``validation_seed`` is not given."""


@dataclass(frozen=True)
class Item:
    """One picture."""

    path: Path
    size: Size
    """(width, height) as it is trained on: turned upright where its EXIF says so."""
    caption: str
    """First line, or all lines where wildcards are on."""
    part: int
    subset: int
    repeats: int
    is_reg: bool
    placement: Placement
    strength: float | None = None
    latents_file: Path | None = None
    """Where its cached latents are or would be."""
    mask_file: Path | None = None
    """Picture whose red channel masks the loss."""
    has_caption: bool = True


@dataclass(frozen=True)
class ScannedSubset:
    """A folder with what was found in it."""

    config: SubsetConfig
    part: int
    images: int
    captioned: int = 0

    @property
    def name(self) -> str:
        path = self.config.image_dir or self.config.metadata_file
        return "" if path is None else path.name


@dataclass(frozen=True)
class DatasetPlan:
    """All pictures of a run, sorted into buckets. Frozen and picklable: workers get it whole."""

    config: DatasetConfig
    parts: tuple[DatasetPart, ...]
    subsets: tuple[ScannedSubset, ...]
    items: tuple[Item, ...]
    validation: tuple[Item, ...] = ()
    problems: tuple[Problem, ...] = ()
    rules: tuple[BucketRules, ...] = ()
    tag_frequency: tuple[dict[str, dict[str, int]], ...] = ()
    """For each part: folder's name -> tag -> in how many captions."""
    partners: Mapping[int, int] = field(default_factory=dict)
    """Matched pictures of a slider: index of a positive -> index of its negative; both are trained in one step."""
    kohya_seed: int | None = None
    """kohya's seed of the data order where the validation split drew numbers before it; None: the run's first draw."""

    def of_part(self, part: int) -> list[int]:
        """Indices of a part's items."""
        return [index for index, item in enumerate(self.items) if item.part == part]

    def pictures(self) -> int:
        """Training pictures, one that several pairs of a slider use counted once."""
        return len({(item.part, item.subset, item.path) for item in self.items if not item.is_reg})

    def images(self, part: int | None = None, reg: bool = False) -> int:
        """Pictures times repeats."""
        return sum(item.repeats for item in self.items
                   if item.is_reg == reg and (part is None or item.part == part))

    def reg_images(self, part: int | None = None) -> int:
        """Regularisation pictures times the repeats of their folders, before they are matched to the training pictures."""
        return sum(subset.images * subset.config.num_repeats for subset in self.subsets
                   if subset.config.is_reg and (part is None or subset.part == part))

    def is_dreambooth(self, part: int) -> bool:
        """True for folders of pictures, False for a metadata file (kohya's fine-tuning method)."""
        return all(subset.metadata_file is None for subset in self.parts[part].subsets)

    @property
    def has_strengths(self) -> bool:
        return any(item.strength is not None for item in self.items)

    def validation_plan(self) -> DatasetPlan:
        """The held-out pictures as a plan of their own."""
        config = replace(self.config, kohya_order=False, slider=replace(self.config.slider, balance=False))
        return replace(self, config=config, items=self.validation, validation=(), partners={})

    def bucket_counts(self, part: int) -> list[tuple[Size, int]]:
        """((width, height), pictures times repeats) of every bucket in use, sorted by size."""
        counts: dict[Size, int] = {}
        for item in self.items:
            if item.part == part:
                counts[item.placement.bucket] = counts.get(item.placement.bucket, 0) + item.repeats
        return sorted(counts.items())

    def mean_ratio_error(self, part: int) -> float | None:
        """Mean distance of the pictures' ratios from their buckets'; None without buckets."""
        if not self.parts[part].enable_bucket:
            return None
        errors = [abs(item.placement.ratio_error) for item in self.items if item.part == part]
        return sum(errors) / len(errors) if errors else 0.0
