import math

import pytest
import torch

from library.diffusion.losses import WeightOptions, distance, huber_threshold, picture_weight, timestep_weight
from library.diffusion.noise import NoiseOptions, add_offset, draw_noise, perturb
from library.diffusion.schedule import FlowSchedule, ddpm

T = torch.tensor([1, 300, 900])
EPS, V = ddpm("eps"), ddpm("v")
SNR = EPS.snr(T)


def weight(schedule, **options):
    return timestep_weight(WeightOptions(**options), schedule)(T)


def test_min_snr_follows_its_formula():
    assert torch.allclose(weight(EPS, min_snr_gamma=5.0), SNR.clamp(max=5) / SNR)
    assert torch.allclose(weight(V, min_snr_gamma=5.0), SNR.clamp(max=5) / (SNR + 1))


def test_debiased_estimation_follows_its_formula():
    assert torch.allclose(weight(EPS, debiased_estimation=True), SNR.clamp(max=1000) ** -0.5)
    assert torch.allclose(weight(V, debiased_estimation=True), 1 / (SNR.clamp(max=1000) + 1))


def test_velocity_weights_follow_their_formulas():
    scale = SNR.clamp(max=1000) / (SNR.clamp(max=1000) + 1)
    assert torch.allclose(weight(V, scale_v_pred_loss_like_noise_pred=True), scale)
    assert torch.allclose(weight(EPS, v_pred_like_loss=0.5), 1 + 0.5 / scale)


def test_weights_multiply_and_none_is_one():
    both = weight(EPS, min_snr_gamma=5.0, debiased_estimation=True)
    assert torch.allclose(both, weight(EPS, min_snr_gamma=5.0) * weight(EPS, debiased_estimation=True))
    assert torch.equal(weight(EPS), torch.ones(3))


def test_weights_are_finite_at_zero_terminal_snr():
    schedule = ddpm("eps", zero_terminal_snr=True)
    weights = timestep_weight(WeightOptions(min_snr_gamma=5.0), schedule)(torch.tensor([999]))
    assert weights.item() == pytest.approx(1.0)


@pytest.mark.parametrize("kind", ["constant", "exponential", "snr"])
def test_huber_thresholds_follow_their_formulas(kind):
    sigma = ((1 - EPS.alphas_cumprod[T]) / EPS.alphas_cumprod[T]).sqrt()
    expected = {"constant": torch.full((3,), 0.2), "exponential": torch.exp(T * math.log(0.1) / 1000) * 2.0,
                "snr": 0.9 / (1 + sigma) ** 2 + 0.1}[kind]
    assert torch.allclose(huber_threshold(kind, 0.1, 2.0, EPS)(T), expected)


def test_pseudo_huber_distances_follow_their_formulas():
    a, b = torch.randn(2, 3, 4, 8, 8)
    c = huber_threshold("snr", 0.1, 1.0, EPS)
    c_B111 = c(T).view(-1, 1, 1, 1)
    root = torch.sqrt((a - b) ** 2 + c_B111**2) - c_B111
    assert torch.allclose(distance("huber", c)(a, b, T), 2 * c_B111 * root)
    assert torch.allclose(distance("smooth_l1", c)(a, b, T), 2 * root)
    assert torch.allclose(distance("l2", c)(a, b, T), (a - b) ** 2)
    assert torch.allclose(distance("l1", c)(a, b, T), (a - b).abs())


def test_offset_noise_adds_one_number_a_channel():
    latents = torch.randn(2, 4, 8, 8)
    noise = torch.randn_like(latents)
    added = add_offset(noise, latents, 0.1, None) - noise
    assert torch.allclose(added, added[..., :1, :1].expand_as(added), atol=1e-6) and added.abs().max() > 0


def test_adaptive_offset_never_turns_negative():
    latents = torch.ones(1, 4, 8, 8)
    noise = torch.randn_like(latents)
    assert torch.equal(add_offset(noise, latents, 0.1, -1.0), noise)


def test_pyramid_noise_keeps_unit_variance_and_gains_low_frequencies():
    torch.manual_seed(0)
    latents = torch.zeros(4, 4, 64, 64)
    plain = draw_noise(latents, NoiseOptions())
    pyramid = draw_noise(latents, NoiseOptions(multires_iterations=6, multires_discount=0.8))
    assert pyramid.std() == pytest.approx(1.0, abs=1e-3)
    coarse = [torch.nn.functional.avg_pool2d(noise, 16).std() for noise in (plain, pyramid)]
    assert coarse[1] > 3 * coarse[0]


def test_input_perturbation_leaves_the_noise_to_predict_alone():
    noise = torch.randn(2, 4, 8, 8)
    assert perturb(noise, NoiseOptions()) is noise
    assert (perturb(noise, NoiseOptions(ip_noise_gamma=0.1)) - noise).std() == pytest.approx(0.1, rel=0.2)


def test_flow_weights_follow_their_scheme():
    from library.diffusion import timesteps
    from library.diffusion.schedule import FlowSchedule

    drawn = torch.tensor([100.0, 500.0, 900.0])
    sigmas = drawn / 1000
    expected = {"sigma_sqrt": sigmas**-2, "cosmap": 2 / (math.pi * (1 - 2 * sigmas + 2 * sigmas**2)), "none": torch.ones(3)}
    for scheme, weights in expected.items():
        schedule = FlowSchedule(timesteps.uniform(), weigh=timesteps.WEIGHTS[scheme])
        assert torch.allclose(timestep_weight(WeightOptions(), schedule)(drawn), weights)


@pytest.mark.parametrize("space", ["eps", "v", "flow"])
def test_the_picture_weight_turns_an_error_of_the_answer_into_that_of_the_picture(space):
    schedule = {"eps": ddpm("eps"), "v": ddpm("v"), "flow": FlowSchedule(sample=lambda count, size: torch.rand(count))}[space]
    x0, noise = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    timesteps = torch.tensor([100, 500, 900])
    noised = schedule.add_noise(x0, noise, timesteps)
    answer = schedule.target(x0, noised)

    def picture(answer):
        if space == "flow":
            return noised.x_BCHW - noised.sigmas_B.view(-1, 1, 1, 1) * answer
        bar = schedule.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        signal, sigma = bar.sqrt(), (1 - bar).sqrt()
        return (noised.x_BCHW - sigma * answer) / signal if space == "eps" else signal * noised.x_BCHW - sigma * answer

    assert torch.allclose(picture(answer), x0, atol=1e-4)
    change = torch.randn(3, 4, 2, 2)
    assert torch.allclose(picture(answer + schedule.moved(change, timesteps)), x0 + change, atol=1e-4)
    moved = (picture(answer + 0.1) - x0).square().mean((1, 2, 3)) / 0.01
    weights = picture_weight(schedule)
    assert torch.allclose(weights(timesteps) / weights(timesteps)[1], moved / moved[1], rtol=1e-3)
    assert float(weights(torch.arange(1000)).mean()) == pytest.approx(1, rel=1e-4)
