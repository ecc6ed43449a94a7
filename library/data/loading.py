"""Stage 6: from references to Batches, read here or ahead by a few threads.

Threads, not processes: decoding and scaling release Python's lock, a thread needs no second import of torch (seconds each on
Windows), no copy of the caches, and cannot hang at start. What a batch is depends on its reference alone, so their number
changes nothing. ``Pictures`` is a map-style data set and pickles, for those who want to hand it to torch's DataLoader.
"""

from __future__ import annotations

import math
import os
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from library.config.run_config import LoopConfig, SubsetConfig
from library.util.records import Batch, Problem, UserError
from library.util.said import say

from . import captions, images
from .caches import LatentCache, has_mask
from .captions import Moment
from .kohya_order import KohyaOrder
from .order import BatchRef, batch_counts, epoch_order
from .picture import Reading, prepare
from .plan import DatasetPlan, Item
from .text_cache import TextCache, fixed_caption

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
class Sources:
    """Where latents and conditioning come from, where they are cached."""

    latents: LatentCache | None = None
    texts: TextCache | None = None


@dataclass(frozen=True)
class Setting:
    """What every batch needs to know of the run."""

    seed: int
    max_steps: int = 0
    batches: int = 1
    batches_per_step: int = 1
    prior_loss_weight: float = 1.0
    masked: bool = False
    """Give every batch masks; False: only batches in which a picture has one (kohya)."""
    upright: bool = True


@dataclass
class Made:
    """One picture on its way into a batch; sizes as (height, width), crop as (top, left)."""

    original: tuple[int, int]
    crop: tuple[int, int]
    pixels: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    caption: str = ""


@dataclass
class Pictures:
    """A map-style data set over batch references."""

    plan: DatasetPlan
    setting: Setting
    sources: Sources = field(default_factory=Sources)
    as_cached: bool = False
    """Fit pictures as for a cache of latents, where nothing is random and any size is made to fit."""

    def __getitem__(self, ref: BatchRef) -> Batch:
        moment = self.moment(ref)
        made = [self.one(index, random.Random(seed), moment) for index, seed in zip(ref.items, ref.seeds, strict=True)]
        return self.collate(ref.items, made)

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.setting.batches // self.setting.batches_per_step)

    def moment(self, ref: BatchRef) -> Moment:
        """Epochs count from 1, as for captions that are dropped every n epochs; the step is the one that will use the batch."""
        done = ref.epoch * self.steps_per_epoch + ref.number // self.setting.batches_per_step
        return Moment(ref.epoch + 1, done, self.setting.max_steps)

    def one(self, index: int, rng: random.Random, moment: Moment) -> Made:
        """One picture and its caption; draws in kohya's order: flip, cut, colours, caption."""
        item = self.plan.items[index]
        subset = self.plan.parts[item.part].subsets[item.subset]
        flip = subset.flip_aug and rng.random() < 0.5
        made = self._read(item, subset, flip, rng) if self.sources.latents is None else self._cached(item, flip)
        cached = self.sources.texts is not None
        made.caption = fixed_caption(self.plan, item) if cached else captions.make(item.caption, subset, moment, rng)
        return made

    def _cached(self, item: Item, flip: bool) -> Made:
        assert self.sources.latents is not None
        found = self.sources.latents(item)
        latents = found.flipped if flip else found.latents
        assert latents is not None, f"{item.path} was cached without its mirror image"
        mask = found.mask if has_mask(self.plan, item) else None
        return Made(latents=latents, mask=mask.flip(-1) if flip and mask is not None else mask,
                    original=found.original[::-1], crop=_crop(found.ltrb, item.placement.bucket[0], flip))

    def _read(self, item: Item, subset: SubsetConfig, flip: bool, rng: random.Random) -> Made:
        """Read the file and bring it to its bucket's size."""
        reading = Reading(self.setting.upright, squeezed_masks=self.plan.config.kohya_order)
        prepared = prepare(self.plan, item, reading, None if self.as_cached else rng)
        colours, mask = prepared.pixels, prepared.mask
        if subset.color_aug:
            colours = images.shift_colours(colours, rng)
        if flip:
            colours, mask = colours[:, ::-1], None if mask is None else mask[:, ::-1]
        return Made(pixels=images.to_tensor(colours), mask=None if mask is None else images.to_mask(mask),
                    original=prepared.original[::-1], crop=_crop(prepared.ltrb, item.placement.bucket[0], flip))

    def kind(self, indices: Sequence[int]) -> str:
        """Which objective a batch is for."""
        if indices[0] in self.plan.partners:
            return "pair"
        return "neutral" if self.plan.items[indices[0]].strength == 0 else "pictures"

    def collate(self, indices: Sequence[int], made: list[Made]) -> Batch:
        """Pictures of one bucket and strength -> a batch."""
        import torch

        items = [self.plan.items[index] for index in indices]
        width, height = items[0].placement.bucket
        masks = None
        if self.setting.masked or any(one.mask is not None for one in made):
            masks = torch.stack([torch.ones(1, height, width) if one.mask is None else one.mask for one in made])
        texts = self.sources.texts
        cond = None
        if texts is not None:
            cond = texts.collate([texts(item, one.caption) for item, one in zip(items, made, strict=True)])
        return Batch(
            captions=[one.caption for one in made],
            weights_B=torch.tensor([self.setting.prior_loss_weight if item.is_reg else 1.0 for item in items]),
            original_sizes=[one.original for one in made], crops=[one.crop for one in made], target_size=(height, width),
            pixels_BCHW=_stacked([one.pixels for one in made]), latents_BCHW=_stacked([one.latents for one in made]),
            cond=cond, masks_B1HW=masks, strength=items[0].strength,
            opposite=items[-1].strength if indices[0] in self.plan.partners else None, kind=self.kind(indices),
            keys=[str(item.path) for item in items],
            attributes=[self.plan.parts[item.part].subsets[item.subset].custom_attributes for item in items])


def _stacked(tensors: list[torch.Tensor | None]) -> torch.Tensor | None:
    import torch

    return None if tensors[0] is None else torch.stack([one for one in tensors if one is not None])


def _crop(ltrb: tuple[float, float, float, float], width: int, flip: bool) -> tuple[int, int]:
    """(top, left) that the model is told; mirrored, the left is counted from the right edge."""
    return int(ltrb[1]), int(width - ltrb[2] if flip else ltrb[0])


@dataclass
class Feed:
    """Batches of an epoch for one process, from a position on."""

    pictures: Pictures
    rank: int = 0
    processes: int = 1
    workers: int = 0
    """Threads that read ahead; more than there are processors are not started."""
    pin_memory: bool = False
    _kohya: KohyaOrder | None = field(default=None, init=False, repr=False)

    def epoch(self, number: int, first_batch: int = 0) -> Iterator[Batch]:
        """Epoch ``number`` (from 0) from the ``first_batch``-th batch of all processes on."""
        if self.pictures.plan.config.kohya_order:
            made: Iterator[Batch] = self._as_kohya(number, first_batch)
        else:
            refs = epoch_order(self.pictures.plan, self.pictures.setting.seed, number)
            made = read_ahead(self.pictures, refs[first_batch:][self.rank::self.processes], self._threads())
        return (_pinned(batch) for batch in made) if self.pin_memory else made

    def _threads(self) -> int:
        latents = self.pictures.sources.latents
        in_memory = latents is not None and not latents.on_disk
        return 0 if in_memory else min(self.workers, os.cpu_count() or 1)

    def _as_kohya(self, number: int, first_batch: int) -> Iterator[Batch]:
        pictures, setting = self.pictures, self.pictures.setting
        if self._kohya is None:
            accumulation = setting.batches_per_step // self.processes
            self._kohya = KohyaOrder(pictures.plan, setting.seed, setting.max_steps, accumulation, (self.rank, self.processes))
        stream = cast(random.Random, random)  # the module has the methods of its hidden generator

        def make(items: tuple[int, ...], moment: Moment) -> Batch:
            return pictures.collate(items, [pictures.one(index, stream, moment) for index in items])

        return self._kohya.epoch(number, first_batch, make)


def read_ahead(pictures: Pictures, refs: Iterable[BatchRef], threads: int) -> Iterator[Batch]:
    """The batches of ``refs`` in order, up to twice ``threads`` of them made ahead."""
    if not threads:
        yield from (pictures[ref] for ref in refs)
        return
    pool, waiting = ThreadPoolExecutor(threads, "pictures"), deque[Future[Batch]]()
    try:
        for ref in refs:
            waiting.append(pool.submit(pictures.__getitem__, ref))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pinned(batch: Batch) -> Batch:
    """In page-locked memory, from which a GPU copies faster."""
    def pin(value: Any) -> Any:
        return value if value is None else value.pin_memory()

    return replace(batch, pixels_BCHW=pin(batch.pixels_BCHW), latents_BCHW=pin(batch.latents_BCHW),
                   masks_B1HW=pin(batch.masks_B1HW))


def check_lengths(plan: StepPlan) -> None:
    """Raise UserError for a run without steps."""
    if plan.steps < 1 or plan.batches < 1:
        raise UserError(Problem("--max_train_steps", say("There is nothing to do: {steps} steps over {batches} batches.",
                                                         steps=plan.steps, batches=plan.batches),
                                "Give at least one step and one picture."))
