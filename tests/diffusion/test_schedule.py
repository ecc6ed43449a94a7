import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from library.diffusion import timesteps
from library.diffusion.schedule import PICTURE, READINGS, REVERSED_READINGS, FlowSchedule, ddpm

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
X0, NOISE = torch.randn(2, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0, 10, 500, 999])


@pytest.mark.parametrize("zero_snr", [False, True])
def test_discrete_schedule_equals_diffusers(zero_snr):
    ours = ddpm("v", zero_terminal_snr=zero_snr)
    theirs = DDPMScheduler(**SD, rescale_betas_zero_snr=zero_snr)
    noised = ours.add_noise(X0, NOISE, T)
    assert torch.equal(noised.x_BCHW, theirs.add_noise(X0, NOISE, T))
    assert torch.equal(ours.target(X0, noised), theirs.get_velocity(X0, NOISE, T))


def test_noise_prediction_targets_the_noise_itself():
    schedule = ddpm("eps")
    assert schedule.target(X0, schedule.add_noise(X0, NOISE, T)) is NOISE


def test_timesteps_stay_in_the_asked_range_and_reach_its_ends():
    torch.manual_seed(0)
    drawn = ddpm(first=200, last=210).draw(1000, (8, 8))
    assert drawn.min() == 200 and drawn.max() == 209 and drawn.dtype == torch.int64


def test_one_euler_step_with_the_exact_velocity_returns_the_clean_latents():
    schedule = FlowSchedule(timesteps.uniform())
    noised = schedule.add_noise(X0, NOISE, torch.tensor([1.0, 250.0, 700.0, 1000.0]))
    velocity = schedule.target(X0, noised)
    back = noised.x_BCHW - noised.sigmas_B.view(-1, 1, 1, 1) * velocity
    assert torch.allclose(back, X0, atol=1e-5)


def test_flow_noising_equals_diffusers():
    theirs = FlowMatchEulerDiscreteScheduler()
    chosen = theirs.timesteps[[100, 300, 500, 900]]
    ours = FlowSchedule(timesteps.uniform()).add_noise(X0, NOISE, chosen)
    assert torch.allclose(ours.x_BCHW, theirs.scale_noise(X0, chosen, NOISE), atol=1e-6)


def test_mu_shift_is_a_shift_by_its_exponential():
    sigmas = torch.linspace(0.01, 0.99, 9)
    mu = timesteps.MuRange()((128, 128))
    assert mu == pytest.approx(1.15)
    assert torch.allclose(timesteps.mu_shift(sigmas, mu), timesteps.shift_sigmas(sigmas, math.exp(1.15)))
    assert torch.allclose(timesteps.mu_shift(sigmas, mu), math.exp(mu) / (math.exp(mu) + (1 / sigmas - 1)))


@pytest.mark.parametrize("sampler", [timesteps.uniform(), timesteps.sigmoid(), timesteps.shifted(3.0), timesteps.mode(),
                                     timesteps.logit_normal(), timesteps.discrete(timesteps.uniform(), 3.0)])
def test_every_sampler_stays_between_clean_and_noise(sampler):
    torch.manual_seed(0)
    drawn = sampler(2000, (64, 64))
    assert drawn.min() >= 0 and drawn.max() <= 1 and drawn.std() > 0.05


KOHYAS_READING = {
    "raw": lambda answer, x, sigma: answer, "additive": lambda answer, x, sigma: answer + x,
    "sigma_scaled": lambda answer, x, sigma: answer * -sigma + x
}  # fmt: skip


@pytest.mark.parametrize("name", list(KOHYAS_READING))
@pytest.mark.parametrize("sign", [1, -1])
def test_model_prediction_type_gives_kohyas_loss(name, sign):
    schedule = FlowSchedule(timesteps.uniform(), reading=(READINGS if sign == 1 else REVERSED_READINGS)[name])
    noised = schedule.add_noise(X0, NOISE, torch.tensor([10.0, 300.0, 600.0, 999.0]))
    answer, sigma = torch.randn(X0.shape, generator=torch.Generator().manual_seed(1)), noised.sigmas_B.view(-1, 1, 1, 1)
    theirs = KOHYAS_READING[name](answer, noised.x_BCHW, sigma) - sign * (NOISE - X0)
    ours = schedule.compared(sign * answer, noised) - schedule.target(X0, noised)
    assert torch.allclose(ours.square(), theirs.square(), atol=1e-5)


def test_the_loss_on_clean_latents_is_sigma_squared_times_the_raw_one():
    schedule = FlowSchedule(timesteps.uniform(), reading=PICTURE)
    noised = schedule.add_noise(X0, NOISE, torch.tensor([10.0, 300.0, 600.0, 999.0]))
    answer, sigma = torch.zeros_like(X0), noised.sigmas_B.view(-1, 1, 1, 1)
    loss = (schedule.compared(answer, noised) - schedule.target(X0, noised)).square()
    assert torch.allclose(loss, sigma**2 * (NOISE - X0).square(), atol=1e-5)


def test_nextdit_shift_moves_uniform_draws_by_the_pictures_size():
    torch.manual_seed(0)
    drawn = timesteps.uniform_shifted(timesteps.MuRange())(4, (128, 128))
    torch.manual_seed(0)
    assert torch.allclose(drawn, timesteps.mu_shift(torch.rand(4), 1.15))
