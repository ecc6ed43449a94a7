"""What an adapter does to its model's predictions, at several strengths: on what it was trained on, and on what it was not.

No picture is decoded. Every figure is a part of the base model's own loss on the same latents, noise and timesteps, so that
models, resolutions and losses compare: 1 is what the base model does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from library.data import captions
from library.data.plan import DatasetPlan
from library.families.interface import Family, Parts
from library.sample.conds import to_device
from library.sample.denoise import autocast
from library.sample.images import draw_latents
from library.sample.jobs import SampleOptions
from library.sample.prompts import PromptLine
from library.sample.undisturbed import undisturbed
from library.util.records import Batch, Cond

if TYPE_CHECKING:
    import torch

STRENGTHS = (0.0, 0.5, 1.0, 1.5)
BANDS = (0.15, 0.5, 0.85)
"""Places in the range of timesteps, from little noise to much: details, shapes, composition."""
STEPS = 8
"""Denoising steps of the base model's own pictures; they need not be beautiful, but of 6 harm is hardly seen."""


@dataclass(frozen=True)
class Tried:
    """A model with an adapter on it."""

    family: Family
    parts: Parts
    network: Any
    """The adapter; its multiplier is live, and is put back."""
    options: SampleOptions
    """``schedule`` is set: which timesteps there are and what is predicted."""


@dataclass(frozen=True)
class Curve:
    """Means over pictures and bands, one for each of ``STRENGTHS``; the base's loss is 1."""

    loss: tuple[float, ...]
    change: tuple[float, ...]
    """Mean square of what the adapter changes in the prediction."""
    composition: float
    """The loss at strength 1 where there is most noise and the picture is nearly free."""
    pictures: int

    def at(self, strength: float) -> float:
        """The loss at one of ``STRENGTHS``."""
        return self.loss[STRENGTHS.index(strength)]

    @property
    def best_strength(self) -> float:
        """Where the loss is least: the lowest point of a parabola through the three strengths, within their range."""
        (_, x0, x1, x2), (_, y0, y1, y2) = STRENGTHS, self.loss
        bend = (y2 - y1) - (y1 - y0)
        if bend <= 0:
            return x0 if y0 < y2 else x2
        return min(x2, max(x0, x1 - (x1 - x0) * ((y2 - y0) / 2) / bend))


def measure(tried: Tried, batches: Sequence[Batch], bands: int = len(BANDS)) -> Curve:
    """Try the adapter on batches with latents; always with the same noise, leaving no trace.

    Every picture is tried in so many of the bands, taken in turn. For the same work more pictures in fewer bands tell more: with
    eight runs of 50 steps the best strength scattered by 0.10 with 6 pictures in 3 bands, by 0.07 with 16 in one, by 0.05 with
    16 in two.
    """
    import torch

    loss_SK = torch.zeros(len(STRENGTHS), len(BANDS), dtype=torch.float64)
    change_SK = torch.zeros_like(loss_SK)
    before, done = tried.network.multiplier, 0
    with undisturbed(tried.parts, tried.options.device, (tried.network,)), autocast(tried.options):
        try:
            for batch in batches:
                for turn in range(bands):
                    bands_B = (torch.arange(len(batch)) + done + turn) % len(BANDS)
                    losses_SB, changes_SB = _tried(tried, batch, bands_B, 1000 * done + turn)
                    loss_SK.index_add_(1, bands_B, losses_SB)
                    change_SK.index_add_(1, bands_B, changes_SB)
                done += len(batch)
        finally:
            tried.network.set_multiplier(before)
    base_K = loss_SK[0].clamp_min(1e-12)
    seen_K = loss_SK[0] > 0  # fewer pictures than bands leave some out
    relative_SK = loss_SK / base_K
    return Curve(tuple(relative_SK[:, seen_K].mean(1).tolist()), tuple((change_SK / base_K)[:, seen_K].mean(1).tolist()),
                 float(relative_SK[STRENGTHS.index(1.0), -1]) if seen_K[-1] else 1.0, done)


def _tried(tried: Tried, batch: Batch, bands_B: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and change of every picture of a batch, each in its band, at every strength: SB, on the CPU."""
    import torch

    schedule, device = tried.options.schedule, tried.options.device
    assert batch.latents_BCHW is not None
    latents = batch.latents_BCHW.to(device, next(tried.parts.denoiser.parameters()).dtype)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents)
    places = [int(schedule.first + place * (schedule.last - schedule.first)) for place in BANDS]
    noised = schedule.add_noise(latents, noise, torch.tensor(places)[bands_B].to(latents.device))
    target = schedule.target(latents, noised).float()
    losses, changes, base = [], [], None
    for strength in STRENGTHS:
        tried.network.set_multiplier(strength)
        answer = tried.family.predict(tried.parts, noised, _cond(tried, batch)).float()
        base = answer if base is None else base
        losses.append((schedule.compared(answer, noised).float() - target).pow(2).mean((1, 2, 3)))
        changes.append((answer - base).pow(2).mean((1, 2, 3)))
    return torch.stack(losses).double().cpu(), torch.stack(changes).double().cpu()


def _cond(tried: Tried, batch: Batch) -> Cond:
    """Cached, or encoded now: the adapter may act on the text encoder, too."""
    family, device = tried.family, tried.options.device
    cond = family.encode_text(tried.parts, batch.captions) if batch.cond is None else batch.cond
    sizes = family.size_cond(batch.original_sizes, batch.crops, batch.target_size)
    return {key: to_device(value, device) for key, value in (cond | sizes).items()}


def drawn_by_base(tried: Tried, like: Batch, count: int) -> list[Batch]:
    """The base model's own pictures where nothing is asked for: what it knew before. In the size of ``like``."""
    import torch

    height, width = like.target_size
    before = tried.network.multiplier
    tried.network.set_multiplier(0.0)
    try:
        lines = [PromptLine("", height=height, width=width, steps=STEPS, scale=1.0, seed=number) for number in range(count)]
        latents = draw_latents(tried.family, tried.parts, lines, replace(tried.options, strength=None))
    finally:
        tried.network.set_multiplier(before)
    size = len(like)
    return [Batch(captions=[""] * len(part), weights_B=torch.ones(len(part)), original_sizes=[(height, width)] * len(part),
                  crops=[(0, 0)] * len(part), target_size=(height, width), latents_BCHW=part) for part in latents.split(size)]


def caption_of(plan: DatasetPlan, index: int) -> str:
    """What a picture's caption says, nothing in it left to chance."""
    item = plan.items[index]
    return captions.settled(item.caption, plan.parts[item.part].subsets[item.subset])


def chosen(plan: DatasetPlan, is_reg: bool, count: int, pixels: int | None = None) -> list[list[int]]:
    """Indices of at most ``count`` different pictures of a plan, evenly taken, those of one size together.

    No more of them together than the run has in a batch, or as have ``pixels`` where that is given.
    """
    different: dict[str, int] = {}
    for index, item in enumerate(plan.items):
        if item.is_reg == is_reg:
            different.setdefault(str(item.path), index)
    indices = list(different.values())
    taken = [indices[number * len(indices) // count] for number in range(count)] if len(indices) > count else indices
    groups: dict[tuple[int, tuple[int, int]], list[int]] = {}
    for index in taken:
        groups.setdefault((plan.items[index].part, plan.items[index].placement.bucket), []).append(index)
    found = []
    for (part, (width, height)), group in groups.items():
        size = plan.parts[part].batch_size if pixels is None else max(1, pixels // (width * height))
        found += [group[start:start + size] for start in range(0, len(group), size)]
    return found

