"""Stage 6: from references to Batches, by torch's DataLoader, in this process or in workers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from library.config.run_config import LoopConfig, SubsetConfig
from library.util.records import Batch, Problem, UserError

from . import captions, images
from .captions import Moment
from .order import BatchRef, batch_counts, epoch_order
from .plan import DatasetPlan, Item

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StepPlan:
    """How long the run is, in kohya's arithmetic."""

    epochs: int
    steps: int
    batches: int
    """Of an epoch, over all processes."""
    steps_per_epoch: int
    accumulation: int
    processes: int = 1


def step_plan(plan: DatasetPlan, loop: LoopConfig, processes: int = 1) -> StepPlan:
    """Epochs from steps, or steps from epochs where ``--max_train_epochs`` is given."""
    batches = batch_counts(plan)
    per_epoch = max(1, math.ceil(batches / (loop.gradient_accumulation_steps * processes)))
    steps = loop.max_train_epochs * per_epoch if loop.max_train_epochs is not None else loop.max_train_steps
    return StepPlan(epochs=math.ceil(steps / per_epoch), steps=steps, batches=batches, steps_per_epoch=per_epoch,
                    accumulation=loop.gradient_accumulation_steps, processes=processes)


@dataclass(frozen=True)
class CachedLatents:
    """Latents of one picture as the cache has them (normalised), and what belongs to them."""

    latents: torch.Tensor
    original: tuple[int, int]
    ltrb: tuple[float, float, float, float]
    flipped: torch.Tensor | None = None
    mask: torch.Tensor | None = None


@dataclass(frozen=True)
class Sources:
    """Where pictures and texts come from, beside the files: caches in memory or on disk."""

    latents: Mapping[int, CachedLatents] | Callable[[int], CachedLatents] | None = None
    """Item index -> cached latents; a callable reads them from disk."""
    cond: Callable[[str], Any] | None = None
    """Caption -> cached conditioning of one text."""
    collate_cond: Callable[[Sequence[Any]], Any] | None = None


@dataclass(frozen=True)
class Setting:
    """What every batch needs to know of the run."""

    seed: int
    max_steps: int = 0
    batches: int = 1
    batches_per_step: int = 1
    prior_loss_weight: float = 1.0
    masked: bool = False
    upright: bool = True


@dataclass
class Pictures:
    """A map-style data set over batch references; picklable, so that workers may be spawned."""

    plan: DatasetPlan
    setting: Setting
    sources: Sources = field(default_factory=Sources)

    def __getitem__(self, ref: BatchRef) -> Batch:
        moment = self.moment(ref)
        made = [self.one(index, random.Random(seed), moment) for index, seed in zip(ref.items, ref.seeds, strict=True)]
        return self.collate(ref, made)

    def moment(self, ref: BatchRef) -> Moment:
        """kohya counts epochs from 0 for the first batch and from 1 after it; captions dropped by epoch follow suit."""
        done = ref.epoch * self.setting.batches + ref.number
        return Moment(ref.epoch + 1, done // self.setting.batches_per_step, self.setting.max_steps)

    def one(self, index: int, rng: random.Random, moment: Moment) -> Made:
        """One picture and its caption; draws in kohya's order: flip, cut, colours, caption."""
        item = self.plan.items[index]
        subset = self.plan.parts[item.part].subsets[item.subset]
        flip = subset.flip_aug and rng.random() < 0.5
        made = self.cached(index, flip) if self.sources.latents is not None else self.drawn(item, subset, flip, rng)
        made.caption = captions.make(item.caption, subset, moment, rng)
        return made

    def cached(self, index: int, flip: bool) -> Made:
        latents = self.sources.latents
        found = latents(index) if callable(latents) else latents[index]
        tensor = found.flipped if flip else found.latents
        mask = found.mask.flip(-1) if flip and found.mask is not None else found.mask
        left, top = round(found.ltrb[0]), round(found.ltrb[1])
        return Made(latents=tensor, mask=mask, original=found.original[::-1], crop=(top, left))

    def drawn(self, item: Item, subset: SubsetConfig, flip: bool, rng: random.Random) -> Made:
        """Read the file and bring it to its bucket's size."""
        wants_alpha = subset.alpha_mask and item.mask_file is None
        pixels = images.read(item.path, alpha=wants_alpha, upright=self.setting.upright)
        fitted = self.fitted(pixels, item, subset, rng)
        colours, mask = fitted.pixels[..., :3], fitted.pixels[..., 3] if wants_alpha else None
        if item.mask_file is not None:
            whole = images.read(item.mask_file, upright=self.setting.upright)
            mask = images.fit(whole, item.placement, subset.resize_interpolation, None).pixels[..., 0]
        if subset.color_aug:
            colours = images.shift_colours(colours, rng)
        if flip:
            colours, mask = colours[:, ::-1], None if mask is None else mask[:, ::-1]
        return Made(pixels=images.to_tensor(colours), mask=None if mask is None else images.to_mask(mask),
                    original=fitted.original[::-1], crop=(round(fitted.ltrb[1]), round(fitted.ltrb[0])))

    def fitted(self, pixels: Any, item: Item, subset: SubsetConfig, rng: random.Random) -> images.Fitted:
        part = self.plan.parts[item.part]
        if not part.enable_bucket and subset.face_crop_aug_range and images.face_of(item.path):
            original = (pixels.shape[1], pixels.shape[0])
            around = images.cut_around_face(pixels, item.path, part.resolution, subset.face_crop_aug_range, rng)
            return images.Fitted(around, original, (0, 0, 0, 0), (0, 0))
        if not part.enable_bucket:
            cut, offset = images.cut(pixels, part.resolution, rng if subset.random_crop else None)
            return images.Fitted(cut, (pixels.shape[1], pixels.shape[0]), (0, 0, 0, 0), offset)
        return images.fit(pixels, item.placement, subset.resize_interpolation, rng if subset.random_crop else None)

    def collate(self, ref: BatchRef, made: list[Made]) -> Batch:
        import torch

        items = [self.plan.items[index] for index in ref.items]
        weights = [self.setting.prior_loss_weight if item.is_reg else 1.0 for item in items]
        has_latents = made[0].latents is not None
        masks = None
        if self.setting.masked:
            masks = torch.stack([one.mask if one.mask is not None else _full_mask(one, items[0]) for one in made])
        texts = [one.caption for one in made]
        cond = None
        if self.sources.cond is not None:
            cond = self.sources.collate_cond([self.sources.cond(text) for text in texts])
        return Batch(
            captions=texts, weights_B=torch.tensor(weights), original_sizes=[one.original for one in made],
            crops=[one.crop for one in made], target_size=items[0].placement.bucket[::-1],
            latents_BCHW=torch.stack([one.latents for one in made]) if has_latents else None,
            pixels_BCHW=None if has_latents else torch.stack([one.pixels for one in made]),
            cond=cond, masks_B1HW=masks, strength=items[0].strength, keys=[str(item.path) for item in items])


@dataclass
class Made:
    """One picture on its way into a batch; sizes as (height, width), crop as (top, left)."""

    original: tuple[int, int]
    crop: tuple[int, int]
    pixels: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    caption: str = ""


def _full_mask(one: Made, item: Item) -> torch.Tensor:
    import torch

    width, height = item.placement.bucket
    return torch.ones(1, height, width)


@dataclass
class Feed:
    """Batches of an epoch for one process, from a position on; workers live as long as the feed where persistent."""

    pictures: Pictures
    rank: int = 0
    processes: int = 1
    workers: int = 0
    pin_memory: bool = False

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        refs = epoch_order(self.pictures.plan, self.pictures.setting.seed, number)
        mine = refs[first_batch:][self.rank::self.processes]
        if self.workers == 0:
            return (self.pictures[ref] for ref in mine)
        return iter(self._loader(mine))

    def _loader(self, refs: list[BatchRef]) -> Any:
        from torch.utils.data import DataLoader

        return DataLoader(self.pictures, batch_size=None, sampler=refs, num_workers=min(self.workers, len(refs)),
                          pin_memory=self.pin_memory)


def check_lengths(plan: StepPlan) -> None:
    """Raise UserError for a run without steps."""
    if plan.steps < 1 or plan.batches < 1:
        raise UserError(Problem("--max_train_steps", f"there is nothing to do: {plan.steps} steps over {plan.batches} "
                                "batches.", "Give at least one step and one picture."))
