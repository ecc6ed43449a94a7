"""Sliders learned from texts: the change that words make in the base model's answer becomes the change the adapter makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from library.config.run_config import PromptPair
from library.diffusion.schedule import Noised, per_item
from library.families.interface import latent_channels
from library.sample import samplers
from library.util.records import StepResult

if TYPE_CHECKING:
    from ..guide import Group, Guide, Pool
    from ..session import Session

LEAST_SHARE = 0.05
"""Of the way to an end: a smaller one has next to no gradient."""
KEPT = 1 / 3
"""Part of the rows at which nothing may change."""


def from_pool(pool: Pool, session: Session, batch: Any) -> Iterator[StepResult]:
    """Train on pictures of the pool, both ends of the slider with the same noise."""
    guide = pool.now(session)
    group = guide.draw_group()
    assert group.latents_NCHW is not None
    picks_B = torch.randint(len(group.latents_NCHW), (guide.config.batch_size,))
    latents = group.latents_NCHW[picks_B].to(session.device, session.precision.base)
    yield from slide(guide, session, latents, [group.pairs[pick % len(group.pairs)] for pick in picks_B.tolist()])


def beside(guide: Guide, session: Session, batch: Any) -> Iterator[StepResult]:
    """Train the texts on a batch of pictures, whatever else it is used for."""
    latents, group = session.latents(batch), guide.draw_group()
    picks_B = torch.randint(len(group.pairs), (len(latents),))
    yield from slide(guide, session, latents, [group.pairs[pick] for pick in picks_B.tolist()])


def slide(guide: Guide, session: Session, latents_BCHW: torch.Tensor, rows: list[PromptPair]) -> Iterator[StepResult]:
    """Both polarities at one drawn part of the way: what is asked for is in proportion to it, so the response is linear.

    The target's answer is to move by that part of the pair's change; a third of the rows hold texts that must not move. Such a
    row is tried at one polarity, drawn for it, and counts twice.
    """
    share = max(LEAST_SHARE, float(torch.rand(())))
    strength = rows[0].strength
    held = [bool(guide.config.kept) and float(torch.rand(())) < KEPT for _ in rows]
    rows = [_held(guide, pair) if is_held else pair for pair, is_held in zip(rows, held, strict=True)]
    signs = [float(2 * torch.randint(2, (1,)) - 1) if is_held else 0.0 for is_held in held]
    noised = session.add_noise(latents_BCHW)
    with torch.no_grad(), session.multiplier(0.0):
        base, change = _asked(guide, session, noised, rows)
    weights_B = torch.tensor([pair.weight for pair in rows]) * session.weigh(noised.timesteps_B).cpu()
    for sign in (1.0, -1.0):
        places = [place for place, own in enumerate(signs) if own in (0.0, sign)]
        if not places:
            continue
        some = _at(noised, places)
        cond = guide.cond(session, [rows[place].target for place in places], some.x_BCHW)
        counted_B = torch.tensor([2.0 if held[place] else 1.0 for place in places]).to(session.device)
        with session.multiplier(sign * share * strength):
            prediction = session.predict(some, cond).float()
            loss_BCHW = session.distance(prediction, base[places] + sign * share * change[places], some.timesteps_B)
            per_item_B = loss_BCHW.flatten(1).mean(1) * weights_B[places].to(session.device)
            yield StepResult((per_item_B * counted_B).sum() / (2 * len(rows)), per_item_B.detach(), some.timesteps_B)


def _held(guide: Guide, pair: PromptPair) -> PromptPair:
    text = guide.config.kept[int(torch.randint(len(guide.config.kept), (1,)))]
    return replace(pair, target=text, positive=text, negative=text, start=text, amount=0.0)


def _asked(guide: Guide, session: Session, noised: Noised, rows: list[PromptPair]) -> tuple[torch.Tensor, torch.Tensor]:
    """The base model's answer to the targets, and the change that is asked for at the positive end, both BCHW in fp32.

    A text that a row holds under several names is asked for once.
    """
    fields = ("target", "positive", "negative", "start")
    once = list(dict.fromkeys((place, getattr(pair, name)) for name in fields for place, pair in enumerate(rows)))
    several = _at(noised, [place for place, _ in once])
    answers = session.predict(several, guide.cond(session, [text for _, text in once], several.x_BCHW)).float()
    where = {key: number for number, key in enumerate(once)}
    base, positive, negative, start = (answers[[where[place, getattr(pair, name)] for place, pair in enumerate(rows)]]
                                       for name in fields)
    return base, per_item(torch.tensor([pair.amount for pair in rows]), base) * (positive - negative) + (start - base)


def _at(noised: Noised, places: list[int]) -> Noised:
    """The rows at these places, any of them again and again."""
    sigmas = None if noised.sigmas_B is None else noised.sigmas_B[places]
    return Noised(noised.x_BCHW[places], noised.noise_BCHW[places], noised.timesteps_B[places], sigmas)


def _repeated(noised: Noised, times: int) -> Noised:
    x = noised.x_BCHW.repeat(times, 1, 1, 1)
    sigmas = None if noised.sigmas_B is None else noised.sigmas_B.repeat(times)
    return Noised(x, x, noised.timesteps_B.repeat(times), sigmas)


def as_leco(guide: Guide, session: Session, batch: Any) -> Iterator[StepResult]:
    """LECO's scheme, to compare with: states denoised anew with the adapter on, the positive end alone, doubled batches."""
    group = guide.draw_group()
    rows = [group.pairs[pick] for pick in torch.randint(len(group.pairs), (guide.config.batch_size,)).tolist()]
    with torch.no_grad(), session.multiplier(group.strength):
        noised = _denoised(guide, session, group, rows)

    def doubled(name: str) -> torch.Tensor:
        twice = _repeated(noised, 2)
        texts = [""] * len(rows) + [getattr(pair, name) for pair in rows]
        return session.predict(twice, guide.cond(session, texts, twice.x_BCHW)).float().chunk(2)[1]

    with torch.no_grad(), session.multiplier(0.0):
        amount = per_item(torch.tensor([pair.amount for pair in rows]), noised.x_BCHW)
        goal = doubled("start") + amount * (doubled("positive") - doubled("negative"))
    with session.multiplier(group.strength):
        loss_BCHW = session.distance(doubled("target"), goal, noised.timesteps_B)
        weights_B = torch.tensor([pair.weight for pair in rows]) * session.weigh(noised.timesteps_B).cpu()
        per_item_B = loss_BCHW.flatten(1).mean(1) * weights_B.to(session.device)
        yield StepResult(per_item_B.mean(), per_item_B.detach(), noised.timesteps_B)


def _denoised(guide: Guide, session: Session, group: Group, rows: list[PromptPair]) -> Noised:
    """Noise, denoised with guidance towards the targets by a drawn number of steps."""
    spec, steps = session.family.SPEC, guide.config.denoising_steps
    width, height = (side // spec.vae_factor for side in group.size)
    channels = latent_channels(session.family, session.parts)
    x = torch.randn(len(rows), channels, height, width).to(session.device, session.precision.base)
    count = int(torch.randint(1, steps, (1,)))
    texts = [""] * len(rows) + [pair.target for pair in rows]

    def guided(noised: Noised) -> torch.Tensor:
        twice = _repeated(noised, 2)
        without, with_text = session.predict(twice, guide.cond(session, texts, twice.x_BCHW)).chunk(2)
        return without + guide.config.guidance * (with_text - without)

    if spec.target_space == "flow":
        sigmas = torch.linspace(1, 0, steps + 1)
        for number in range(count):
            x = x + (sigmas[number + 1] - sigmas[number]) * guided(_at_sigma(x, sigmas[number]))
        return _at_sigma(x, sigmas[count])
    scheduler = samplers.make("ddim", session.schedule)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps[:count]:
        x = scheduler.step(guided(Noised(x, x, timestep.expand(len(x)).to(x.device))), timestep, x).prev_sample
    return Noised(x, x, scheduler.timesteps[count].expand(len(x)).to(x.device))


def _at_sigma(x: torch.Tensor, sigma: torch.Tensor) -> Noised:
    sigmas_B = sigma.expand(len(x)).to(x.device)
    return Noised(x, x, sigmas_B * 1000, sigmas_B)
