"""The factor of a finished slider, and what it is found from."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from library.config.run_config import PromptPair, TextSliderConfig
from library.sample.prompts import PromptLine
from library.train import calibration, measuring
from library.train.guide import Group, Guide
from library.train.measuring import Gauge, Sides


@dataclass
class Answering:
    """A gauge whose slider does ``gain * factor ** power`` and leaves the axis by ``leaving`` times the factor."""

    gain: float
    power: float = 1.0
    leaving: float = 0.0
    tried: list[float] = field(default_factory=list)

    def effect(self, factor: float) -> float:
        self.tried.append(factor)
        return self.gain * factor**self.power

    def aside(self, factor: float) -> float:
        return self.leaving * factor


def test_the_factor_follows_a_response_that_is_not_a_straight_line():
    for gain, power in ((0.7, 0.8), (0.6, 1.3), (1.5, 1.0), (1.0, 1.0)):
        gauge = Answering(gain, power)
        factor, held_by = calibration.fitted(gauge)
        assert gauge.effect(factor) == pytest.approx(1.0, abs=calibration.CLOSE) and held_by == ""
        assert len(set(gauge.tried)) <= 3


def test_a_slider_that_does_a_quarter_is_raised_to_twice_and_the_user_hears_what_to_change():
    factor, held_by = calibration.fitted(Answering(0.25))
    assert (factor, held_by) == (calibration.MOST, "bounds")
    words = calibration.in_words(calibration.Response((-0.5, -0.25, 0, 0.25, 0.5), factor, 0.1, held_by))
    assert "50 % of what was asked" in words[1] and "train longer" in words[1]


def test_a_slider_that_takes_other_things_along_is_not_driven_further():
    gauge = Answering(0.5, leaving=calibration.MOST_ASIDE / 1.3)
    factor, held_by = calibration.fitted(gauge)
    assert held_by == "aside" and 1.1 < factor < 1.31
    assert calibration.fitted(Answering(0.5, leaving=2 * calibration.MOST_ASIDE))[0] == pytest.approx(1.0, abs=0.2)
    assert calibration.fitted(Answering(1.6, leaving=2 * calibration.MOST_ASIDE)) == (pytest.approx(1 / 1.6), "")


def latents(place: float, count: int, seed: int) -> list[torch.Tensor]:
    """Noise over a level; ``place`` moves the first channel's level."""
    draw = torch.Generator().manual_seed(seed)
    level = torch.tensor([place, 0.0]).view(2, 1, 1)
    return [0.3 * torch.randn((2, 1, 1), generator=draw) + 0.2 * torch.randn((2, 8, 8), generator=draw) + level
            for _ in range(count)]


@pytest.fixture
def session(monkeypatch):
    """Draws, for each line, the noise of its seed, moved by the strength: two thirds of what is asked, and aside by ``aside``."""
    state = SimpleNamespace(strength=0.0, drawn=[], aside=0.0, spread=0.0, base={"more": 1.0, "less": -1.0, "a": 0.0})

    def draw_latents(family, parts, lines, options):
        state.drawn.append((state.strength, [line.scale for line in lines], [line.prompt for line in lines]))
        found = []
        for line in lines:
            own = torch.Generator().manual_seed(line.seed)
            noise = 0.3 * torch.randn((2, 1, 1), generator=own) + 0.2 * torch.randn((2, 8, 8), generator=own)
            gain = 2 / 3 + state.spread * float(torch.randn((), generator=own))
            shift = [state.base.get(line.prompt, 0.0) + gain * state.strength, state.aside * state.strength]
            found.append(noise + torch.tensor(shift).view(2, 1, 1))
        return torch.stack(found)

    class At(nullcontext):
        def __init__(self, strength):
            super().__init__()
            state.strength = strength

    monkeypatch.setattr(measuring, "draw_latents", draw_latents)
    return SimpleNamespace(schedule=None, device="cpu", precision=SimpleNamespace(autocast="no"), without_dropout=nullcontext,
                           network=torch.nn.Module(), family=None, parts=None, multiplier=At, state=state)


def sides() -> Sides:
    lines = [PromptLine("a", seed=number) for number in range(measuring.LINES)]
    return Sides(latents(1, 24, 1), latents(-1, 24, 2), lines)


def test_a_slider_that_does_two_thirds_gets_a_factor_of_one_and_a_half(session):
    found = calibration.measure(session, sides())
    assert found.factor == pytest.approx(1.5, rel=0.06) and found.effect == pytest.approx(1, abs=0.05)
    assert found.linearity > 0.999 and found.asymmetry < 0.02 and found.aside < 0.3


def test_more_pictures_are_drawn_only_where_the_first_do_not_agree(session):
    calibration.measure(session, sides())
    assert {len(scales) for _, scales, _ in session.state.drawn} == {measuring.PORTION}
    session.state.drawn.clear()
    session.state.spread = 0.5
    calibration.measure(session, sides())
    assert sum(len(scales) for strength, scales, _ in session.state.drawn if strength == 1) == measuring.LINES


def test_pictures_that_leave_the_axis_are_seen(session):
    from library.train.axis import between

    given = sides()
    gauge = Gauge(session, given, between(given.positive, given.negative))
    straight = gauge.aside(1.0)
    session.state.aside, gauge.found = 1.0, {}
    assert gauge.aside(1.0) > 0.5 > 3 * straight


def guide(start: str, amount: float = 0.5) -> Guide:
    pairs = (PromptPair("a", "more", "less", start, amount),)
    return Guide(TextSliderConfig(Path("a.toml"), pairs), {}, (Group(pairs, (64, 64)),))


def test_texts_are_measured_along_what_the_base_model_draws_for_them_at_the_samples_guidance(session):
    given = measuring.from_texts(session, guide("a"), [PromptLine("elsewhere", scale=4.0)], seed=1)
    found = calibration.measure(session, given)
    assert found.factor == pytest.approx(1.5, rel=0.06)
    assert {scale for _, scales, _ in session.state.drawn for scale in scales} == {4.0}
    assert {text for strength, _, texts in session.state.drawn for text in texts if strength} == {"a"}
    # Asked for a quarter of the way to either side, two thirds of half of it are too much.
    short = calibration.measure(session, measuring.from_texts(session, guide("a", 0.25), [], seed=1))
    assert short.factor == pytest.approx(0.75, rel=0.06)


def test_a_pair_that_starts_elsewhere_has_no_way_between_two_texts(session):
    assert measuring.from_texts(session, guide("less"), [], seed=1) is None
