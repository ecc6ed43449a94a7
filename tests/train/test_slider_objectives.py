"""At which strength, from which noise and against which target the objectives of image sliders ask the model."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from library.diffusion.schedule import ddpm
from library.train.objectives import ends_of
from library.train.objectives.denoise import denoise
from library.train.objectives.neutral import Ends, anchored, at_full_strength
from library.train.objectives.pair import paired
from library.train.session import Session
from library.util.records import Batch


class Toy:
    """A session whose model answers x / 10 + strength x gain, and which notes every question."""

    def __init__(self):
        self.schedule, self.asked = ddpm("epsilon"), []
        self.network = SimpleNamespace(multiplier=1.0)
        self.network.set_multiplier = partial(setattr, self.network, "multiplier")
        self.gain = torch.nn.Parameter(torch.tensor(0.25))
        self.device, self.as_multiplier = torch.device("cpu"), float
        self.multiplier = partial(Session.multiplier, self)

    def latents(self, batch):
        return batch.latents_BCHW + 0.01 * torch.randn_like(batch.latents_BCHW)  # as a VAE draws them

    def cond(self, batch):
        return {"captions": batch.captions}

    def add_noise(self, latents):
        return self.mixed(latents, torch.randn_like(latents), self.schedule.draw(len(latents), tuple(latents.shape[-2:])))

    def mixed(self, latents, noise, timesteps_B):
        return self.schedule.add_noise(latents, noise, timesteps_B)

    def predict(self, noised, cond):
        self.asked.append((self.network.multiplier, noised, cond["captions"]))
        return noised.x_BCHW / 10 + self.network.multiplier * self.gain

    def target(self, latents, noised):
        return self.schedule.target(latents, noised)

    def distance(self, prediction, target, timesteps_B):
        return (prediction - target).square()

    def weights(self, batch, timesteps_B):
        return batch.weights_B


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy()


def batch(count=2, **more):
    sizes = [(64, 64)] * count
    latents = torch.arange(count * 4 * 4.0).view(count, 4, 2, 2) / 10
    return Batch([f"picture {number}" for number in range(count)], torch.ones(count), sizes, [(0, 0)] * count, (64, 64),
                 latents_BCHW=latents, keys=[""] * count, attributes=[{}] * count, **more)


def parts(toy, objective, given):
    """The parts of a step and the strength that holds while backward would run; afterwards the former one holds again."""
    found = []
    for part in objective(toy, given):
        found.append((toy.network.multiplier, part))
    assert toy.network.multiplier == 1.0
    return found


@pytest.mark.parametrize("strength", [0.5, -0.5, 0.0])
def test_pictures_are_asked_for_at_their_strength_until_backward_is_done(toy, strength):
    (held, part), = parts(toy, denoise, batch(strength=strength))
    assert held == strength and [one[0] for one in toy.asked] == [strength] and part.loss.requires_grad


def test_plain_neutral_pictures_are_asked_for_at_full_strength(toy):
    assert [held for held, _ in parts(toy, at_full_strength, batch(strength=0.0))] == [1.0]


def test_an_anchored_picture_holds_both_ends_of_the_slider_to_the_base_models_answer(toy):
    found = parts(toy, partial(anchored, Ends(0.5, -1.5)), batch(strength=0.0))
    assert [strength for strength, *_ in toy.asked] == [0.0, 0.5, -1.5] and [held for held, _ in found] == [0.5, -1.5]
    assert all(noised is toy.asked[0][1] for _, noised, _ in toy.asked)
    assert [float(part.loss.detach()) for _, part in found] == pytest.approx([(s * 0.25) ** 2 / 2 for s in (0.5, -1.5)])
    sum(part.loss for _, part in found).backward()
    assert float(toy.gain.grad) == pytest.approx((0.5**2 + 1.5**2) * 0.25)


@pytest.mark.parametrize(("strengths", "ends"), [
    ((0.5, 0.25, -1.5, 0.0, None), Ends(0.5, -1.5)), ((0.0, None), Ends(1.0, -1.0)), ((2.0, 0.0), Ends(2.0, -1.0))])
def test_the_ends_that_are_anchored_are_the_strongest_strengths_of_the_pictures(strengths, ends):
    assert ends_of(SimpleNamespace(items=[SimpleNamespace(strength=strength) for strength in strengths])) == ends


def test_a_pair_is_asked_for_at_its_two_strengths_from_one_noise_and_one_timestep(toy):
    given = batch(4, strength=0.5, opposite=-1.0)
    found = parts(toy, paired, given)
    assert [strength for strength, *_ in toy.asked] == [0.5, -1.0] == [held for held, _ in found]
    (_, above, first), (_, below, second) = toy.asked
    assert torch.equal(above.noise_BCHW, below.noise_BCHW) and torch.equal(above.timesteps_B, below.timesteps_B)
    assert (first, second) == (given.captions[:2], given.captions[2:])
    scale = toy.schedule.add_noise(torch.ones_like(above.x_BCHW), torch.zeros_like(above.x_BCHW), above.timesteps_B).x_BCHW
    apart = given.latents_BCHW[2:] - given.latents_BCHW[:2]
    assert torch.allclose(below.x_BCHW - above.x_BCHW, scale * apart, atol=1e-5)


def test_a_pair_of_equal_pictures_pulls_by_what_the_two_strengths_differ_in_alone(toy):
    given = batch(4, strength=1.0, opposite=-1.0)
    equal = replace(given, latents_BCHW=given.latents_BCHW[:2].repeat(2, 1, 1, 1))
    toy.gain.data.zero_()  # an adapter that changes nothing yet
    sum(part.loss for _, part in parts(toy, paired, equal)).backward()
    assert abs(float(toy.gain.grad)) < 1e-6
