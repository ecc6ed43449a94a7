"""What a text slider is learned from: the texts, encoded once, and pictures that the base model drew of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from library.config.run_config import PromptPair, RunConfig, TextSliderConfig
from library.families.interface import Family, Parts
from library.sample.conds import concatenate, to_device
from library.sample.images import draw_latents
from library.sample.jobs import SampleOptions
from library.sample.prompts import PromptLine
from library.util.records import Cond

from . import seeds

if TYPE_CHECKING:
    from .session import Session

log = logging.getLogger(__name__)
MOST_STEPS = 20
"""Denoising steps of a pool's picture: more make it prettier, not better to learn from."""
USES = 50
"""How often a picture of the pool is trained on, on average, before the pool is drawn anew. A slider that meets the same pictures
again and again learns them: on the shipped model, after 200 steps, its error on new pictures was 0.48 of what was asked where
each was used 100 times, 0.37 where each was used 12 times, and 0.47 with a pool of 8 that was drawn anew once, at half time."""


@dataclass(frozen=True)
class Group:
    """Pairs that may share a batch: of one size and one strength."""

    pairs: tuple[PromptPair, ...]
    size: tuple[int, int]
    """(width, height)."""
    latents_NCHW: torch.Tensor | None = None
    """The pool's pictures of these pairs, in the pairs' order again and again."""

    @property
    def strength(self) -> float:
        return self.pairs[0].strength


@dataclass(frozen=True)
class Guide:
    """Texts and pictures of a text slider."""

    config: TextSliderConfig
    conds: Mapping[str, Cond] = field(repr=False)
    groups: tuple[Group, ...]
    generation: int = 0
    """How often the pool has been drawn anew."""

    def draw_group(self) -> Group:
        """A group, drawn by its number of pairs with torch's generator."""
        sizes = torch.tensor([float(len(group.pairs)) for group in self.groups])
        return self.groups[int(torch.multinomial(sizes, 1))]

    def cond(self, session: Session, texts: list[str], latents_BCHW: torch.Tensor) -> Cond:
        """Conditioning of a batch with these texts and latents of this size."""
        family = session.family
        size = tuple(side * family.SPEC.vae_factor for side in latents_BCHW.shape[-2:])
        sizes = family.size_cond([size] * len(texts), [(0, 0)] * len(texts), size)
        joined = concatenate([self.conds[text] for text in texts], family.SPEC.cond_padding)
        return {key: to_device(value, session.device) for key, value in (joined | sizes).items()}


def texts_of(config: TextSliderConfig) -> list[str]:
    """Every text that the base model is asked for, once."""
    found = [text for pair in config.pairs for text in (pair.target, pair.positive, pair.negative, pair.start)]
    return list(dict.fromkeys([*found, *config.kept, ""]))


def encode(config: RunConfig, family: Family, parts: Parts, accelerator: Any) -> dict[str, Cond]:
    """Encode the texts, on the CPU; {} for a run without any."""
    if config.text is None:
        return {}
    with torch.no_grad(), accelerator.autocast():
        return {text: {key: to_device(value, "cpu") for key, value in family.encode_text(parts, [text]).items()}
                for text in texts_of(config.text)}


def build(session: Session, conds: Mapping[str, Cond], with_pictures: bool) -> Guide | None:
    """The guide of a run, its pool drawn where no pictures are given; None for a run without texts.

    The pool is the base model's alone and follows from the seed and the step: a resumed run draws the same again.
    """
    config = session.config.text
    if config is None:
        return None
    side = session.family.SPEC.default_resolution
    grouped: dict[tuple[Any, float], list[PromptPair]] = {}
    for pair in config.pairs:
        grouped.setdefault((pair.size or (side, side), pair.strength), []).append(pair)
    guide = Guide(config, conds, tuple(Group(tuple(pairs), size) for (size, _), pairs in grouped.items()))
    if config.states != "pool" or with_pictures:
        return guide
    return with_pool(session, guide, generation(session, guide))


def generation(session: Session, guide: Guide) -> int:
    """Which pool the present step trains on: the next one once all pictures have been used ``USES`` times on average."""
    together = session.config.loop.gradient_accumulation_steps * session.accelerator.num_processes
    return session.progress.step * together * guide.config.batch_size // (USES * guide.config.pool)


def with_pool(session: Session, guide: Guide, number: int) -> Guide:
    """The guide with the pictures of a generation, drawn by the base model."""
    log.info("drawing %d pictures of the texts with the base model", guide.config.pool)
    count, purpose = -(-guide.config.pool // len(guide.groups)), f"states{number or ''}"
    return replace(guide, generation=number, groups=tuple(
        replace(group, latents_NCHW=_drawn(session, guide, group.size, list(islice(_both_ends(group.pairs), count)), purpose))
        for group in guide.groups))


@dataclass
class Pool:
    """The guide of the present step: its pictures are drawn anew when they have been used often."""

    guide: Guide

    def now(self, session: Session) -> Guide:
        number = generation(session, self.guide)
        if number != self.guide.generation:
            self.guide = with_pool(session, self.guide, number)
        return self.guide


def _drawn(session: Session, guide: Guide, size: tuple[int, int], texts: list[str], purpose: str) -> torch.Tensor:
    """Latents (NCHW, on the CPU) of the base model's pictures; each has its own noise, which follows from ``purpose``."""
    config = guide.config
    options = SampleOptions(schedule=session.schedule, device=session.device, autocast=session.precision.autocast,
                            modules=(session.network,), conds=guide.conds)
    lines = [PromptLine(text, width=size[0], height=size[1], scale=config.guidance,
                        seed=seeds.derive(session.config.loop.seed, purpose, *size, number) % 2**32,
                        steps=min(MOST_STEPS, config.denoising_steps))
             for number, text in enumerate(texts)]
    with session.multiplier(0.0):
        return draw_latents(session.family, session.parts, lines, options).cpu()


def _both_ends(pairs: tuple[PromptPair, ...]) -> Iterator[str]:
    """Positive texts of all pairs, then the negative ones, then again."""
    while True:
        yield from (pair.positive for pair in pairs)
        yield from (pair.negative for pair in pairs)
