"""Sample pictures: against diffusers' own pipeline, in batches, in the middle of training."""

import random
import time
import types
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from library.config.run_config import NoiseConfig
from library.families import registry
from library.families.interface import FamilySpec, PadRule, Parts
from library.sample import samplers
from library.sample.conds import concatenate
from library.sample.images import Place, describe, draw_samples, encode_prompts, file_name, generate
from library.sample.jobs import SampleOptions, fill, jobs
from library.sample.prompts import PromptLine
from library.util.records import UserError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, which only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def family():
    return registry.get("sd1")


@pytest.fixture(scope="module")
def parts(family):
    torch.set_grad_enabled(True)
    return family.tiny(0)


def line(prompt="a cat", seed=1, **more):
    return PromptLine(prompt, seed=seed, **({"width": 64, "height": 64, "steps": 4, "scale": 4.0} | more))


def far(one, other):
    return np.abs(np.asarray(one, int) - np.asarray(other, int)).max()


@pytest.fixture(scope="module")
def pipeline(family, parts):
    pipeline = family.pipeline(parts)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("name", list(samplers.SAMPLERS))
def test_a_picture_is_the_one_that_diffusers_pipeline_draws(family, parts, pipeline, name):
    schedule = family.schedule(parts.options, NoiseConfig())
    pipeline.scheduler = samplers.make(name, schedule)
    with torch.no_grad():
        theirs = pipeline("a cat", negative_prompt="blue", height=64, width=64, num_inference_steps=4,
                          guidance_scale=4.0, generator=torch.Generator().manual_seed(1)).images[0]
    [ours] = generate(family, parts, [line(negative_prompt="blue")], SampleOptions(sampler=name))
    assert far(ours, theirs) <= 1


@pytest.mark.parametrize("name", ["ddim", "euler_a", "dpm_2_a", "lms", "dpmsolver++"])
def test_a_picture_follows_from_its_seed_whatever_is_drawn_beside_it(family, parts, name):
    lines = [line("a cat", 1), line("a dog", 2, negative_prompt="red"), line("", 3, scale=8.0)]
    together = generate(family, parts, lines, SampleOptions(sampler=name))
    alone = [generate(family, parts, [one], SampleOptions(sampler=name))[0] for one in lines]
    assert all(far(one, other) <= 1 for one, other in zip(together, alone, strict=True))
    assert far(together[0], together[1]) > 1


def test_lines_of_different_kinds_come_back_in_their_order(family, parts):
    lines = [line(seed=1), line(seed=2, width=128), line(seed=3), line(seed=4, scale=1.0)]
    pictures = generate(family, parts, lines)
    assert [picture.size for picture in pictures] == [(64, 64), (128, 64), (64, 64), (64, 64)]
    assert all(far(picture, generate(family, parts, [one])[0]) <= 1
               for picture, one in zip(pictures, lines, strict=True))


def test_without_a_seed_every_picture_differs(family, parts):
    first, second = generate(family, parts, [line(seed=None), line(seed=None)])
    assert far(first, second) > 1


def test_guidance_of_1_asks_the_model_once_and_equals_no_negative_prompt(family, parts):
    one, other = generate(family, parts, [line(scale=1.0), line(scale=1.0, negative_prompt="anything")])
    assert far(one, other) <= 1


def test_v_prediction_with_zero_terminal_snr_is_sampled(family, parts):
    v_parts = replace(parts, options=replace(parts.options, v_parameterization=True))
    schedule = family.schedule(v_parts.options, NoiseConfig(zero_terminal_snr=True))
    for name in ("ddim", "euler", "dpmsolver++"):
        scheduler = samplers.make(name, schedule)
        scheduler.set_timesteps(4)
        assert scheduler.timesteps[0] == 999, "pure noise is where sampling begins"
        [picture] = generate(family, v_parts, [line()], SampleOptions(sampler=name, schedule=schedule))
        assert np.asarray(picture).std() > 0


def test_betas_give_the_schedules_own_alphas_back(family, parts):
    schedule = family.schedule(parts.options, NoiseConfig())
    again = (1 - samplers.betas(schedule).double()).cumprod(0)
    assert torch.allclose(again.float(), schedule.alphas_cumprod, rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_weights_integrate_polynomials_below_their_order_exactly(order):
    sigmas = np.array([14.6, 9.0, 4.2, 1.1, 0.3, 0.0])
    weights = [samplers.lms_coefficient(sigmas, order, 3, current) for current in range(order)]
    for power in range(order):
        integral = (sigmas[4] ** (power + 1) - sigmas[3] ** (power + 1)) / (power + 1)
        assert sum(w * sigmas[3 - k] ** power for k, w in enumerate(weights)) == pytest.approx(integral)


def test_a_misspelt_sampler_is_refused_with_the_near_names(family, parts):
    with pytest.raises(UserError) as caught:
        generate(family, parts, [line(sampler="eulr_a")])
    assert "euler_a" in caught.value.problems[0].remedy


def test_sizes_are_rounded_down_to_what_the_model_can_draw(family):
    filled = fill(family, line(width=131, height=20), SampleOptions())
    assert (filled.width, filled.height) == (128, 64)


def test_what_nobody_decides_has_kohyas_defaults(family):
    filled = fill(family, PromptLine("a"), SampleOptions(sampler="euler"))
    assert (filled.width, filled.height, filled.steps, filled.scale, filled.sampler) == (512, 512, 30, 7.5, "euler")
    assert fill(family, PromptLine("a", sampler="lms"), SampleOptions()).sampler == "lms"


def test_batches_hold_at_most_their_pixels_and_only_like_lines():
    lines = [line(seed=seed) for seed in range(5)] + [line(adapter_strength=0.5), line(steps=9)]
    sizes = [len(job.lines) for job in jobs(lines, 3 * 64 * 64)]
    assert sizes == [3, 2, 1, 1]
    assert sorted(position for job in jobs(lines, 64 * 64) for position in job.positions) == list(range(7))


def test_drawing_leaves_random_states_training_flags_gradients_and_adapter_alone(family, parts):
    adapter = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Dropout()])
    adapter.train()
    adapter[0].eval()
    parts.denoiser.train()
    parameter = next(parts.denoiser.parameters())
    parameter.grad = torch.ones_like(parameter)
    seen = []

    @contextmanager
    def extra():
        seen.append((adapter[1].training, parts.denoiser.training, torch.is_grad_enabled()))
        yield
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    generate(family, parts, [line(seed=None)], SampleOptions(modules=(adapter,), extra=extra, sampler="euler_a"))
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected
    assert seen == [(False, False, False)]
    assert [module.training for module in adapter] == [False, True] and adapter.training and parts.denoiser.training
    assert torch.equal(parameter.grad, torch.ones_like(parameter)) and torch.is_grad_enabled()
    parameter.grad = None
    parts.denoiser.eval()


def test_a_failure_while_drawing_puts_everything_back_too(family, parts):
    parts.denoiser.train()
    state = torch.get_rng_state()

    @contextmanager
    def extra():
        torch.rand(5)
        raise RuntimeError("out of memory")
        yield
    with pytest.raises(RuntimeError):
        generate(family, parts, [line()], SampleOptions(extra=extra))
    assert parts.denoiser.training and torch.equal(torch.get_rng_state(), state)
    parts.denoiser.eval()


def test_strengths_of_lines_reach_the_adapter_and_the_global_one_fills_in(family, parts):
    seen = []

    @contextmanager
    def at_strength(strength):
        seen.append(strength)
        yield
    generate(family, parts, [line(adapter_strength=-0.5), line(), line(adapter_strength=0.0)],
             SampleOptions(strength=0.7, at_strength=at_strength))
    assert sorted(seen) == [-0.5, 0.0, 0.7]


def test_further_loras_are_applied_once_for_all_pictures(family, parts):
    seen = []

    @contextmanager
    def extra():
        seen.append("on")
        yield
        seen.append("off")
    generate(family, parts, [line(), line(width=128)], SampleOptions(extra=extra))
    assert seen == ["on", "off"]


def test_texts_encoded_beforehand_draw_the_same_without_a_text_encoder(family, parts):
    lines = [line("a cat", 1), line("a dog", 2)]
    with_text = generate(family, parts, lines)
    conds = encode_prompts(family, parts, lines)
    assert set(conds) == {"a cat", "a dog", ""}
    bare = replace(parts, text_encoders=[], tokenizers=[])
    assert all(far(one, other) <= 1 for one, other in
               zip(with_text, generate(family, bare, lines, SampleOptions(conds=conds)), strict=True))


def test_a_word_can_stand_for_another_in_all_prompts(family):
    filled = fill(family, line("a zobi", negative_prompt="no zobi"), SampleOptions(replace=("zobi", "star")))
    assert (filled.prompt, filled.negative_prompt) == ("a star", "no star")


WHEN = time.strptime("2026-01-01 12:00:00", "%Y-%m-%d %H:%M:%S")


@pytest.mark.parametrize(("name", "epoch", "seed", "expected"), [
    ("NAME", 1, 42, "NAME_e000001_00_20260101120000_42.png"),
    ("NAME", None, 42, "NAME_000100_00_20260101120000_42.png"),
    (None, None, None, "000100_00_20260101120000.png"),
])
def test_sample_files_are_named_as_kohyas(tmp_path, name, epoch, seed, expected):
    assert file_name(Place(tmp_path, name, 100, epoch), PromptLine("a", seed=seed), WHEN) == expected


def test_samples_are_written_whole_with_their_settings_inside(family, parts, tmp_path):
    drawn = draw_samples(family, parts, [line(index=0), line("猫", 5, index=1)], SampleOptions(),
                         Place(tmp_path / "出力", "線画", 20))
    assert [one.path.parent for one in drawn] == [tmp_path / "出力" / "sample"] * 2
    assert drawn[1].path.name.startswith("線画_000020_01_") and drawn[1].path.name.endswith("_5.png")
    with Image.open(drawn[1].path) as picture:
        assert picture.size == (64, 64) and picture.text["parameters"].startswith("猫\n")
    assert not list(drawn[0].path.parent.glob("*.tmp"))


def test_no_token_is_written_into_a_picture():
    assert "A1b2" not in describe(PromptLine("hf_" + "A1b2C3d4" * 4))


def test_a_hundred_small_pictures_are_drawn_in_few_calls(family, parts, monkeypatch):
    calls = []
    predict = family.predict
    monkeypatch.setattr(family, "predict", lambda *given: calls.append(1) or predict(*given))
    assert len(generate(family, parts, [line(seed=seed, steps=2) for seed in range(100)])) == 100
    assert len(calls) == 2 * 2, "two steps for each of two batches"


def test_conditioning_of_differing_length_is_padded_as_the_family_says():
    short, long = ({"text": torch.ones(1, size, 3), "all": [torch.ones(size)]} for size in (2, 4))
    joined = concatenate([short, long], {"text": PadRule(1, -1.0)})
    assert joined["text"].shape == (2, 4, 3) and joined["text"][0, 2:].eq(-1).all()
    assert [len(one) for one in joined["all"]] == [2, 4]


@dataclass(frozen=True)
class FlowOptions:
    guidance_scale: float = 1.0


GOAL = torch.linspace(-1, 1, 4 * 8 * 8).reshape(1, 4, 8, 8)


def flow_family(**more):
    """A flow model of one picture: its velocity always points from GOAL to where x is."""
    spec = FamilySpec("flow-test", "", (), "flow", 4, 8, 16, 64, (), {}, "_x", False, None, {})
    seen = []

    def predict(parts, noised, cond):
        seen.append((noised.sigmas_B.clone(), noised.timesteps_B.clone(), parts.options.guidance_scale))
        return (noised.x_BCHW - GOAL) / noised.sigmas_B.view(-1, 1, 1, 1)
    return types.SimpleNamespace(**({
        "SPEC": spec, "predict": predict, "seen": seen, "pipeline": lambda parts: None,
        "size_cond": lambda *given: {},
        "encode_text": lambda parts, texts: {"text": torch.zeros(len(texts), 1)},
        "decode_latents": lambda parts, latents: latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)}
        | more))


def empty_parts():
    return Parts(torch.nn.Identity(), torch.nn.Linear(1, 1), [], [], FlowOptions())


def test_euler_carries_a_flow_model_from_noise_to_its_picture():
    family = flow_family()
    [picture] = generate(family, empty_parts(), [line(scale=1.0, flow_shift=3.0, guidance_scale=3.5)])
    goal = ((GOAL[0, :3] / 2 + 0.5) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert far(np.asarray(picture)[::8, ::8], goal) <= 1
    sigmas = [float(sigma) for sigma, _, _ in family.seen]
    assert sigmas == pytest.approx([3 * s / (1 + 2 * s) for s in (1, 0.75, 0.5, 0.25)])
    assert [float(t) for _, t, _ in family.seen] == pytest.approx([1000 * s for s in sigmas])
    assert {guidance for _, _, guidance in family.seen} == {3.5}


def test_a_flow_familys_own_pipeline_is_given_what_its_call_takes():
    asked = {}

    class Pipeline:
        def set_progress_bar_config(self, disable):
            asked["quiet"] = disable

        def __call__(self, prompt, negative_prompt=None, height=0, width=0, num_inference_steps=0, guidance_scale=1.0,
                     true_cfg_scale=1.0, generator=None, output_type=None):
            asked.update(locals())
            return types.SimpleNamespace(images=[Image.new("RGB", (width, height)) for _ in prompt])
    family = flow_family(pipeline=lambda parts: Pipeline())
    pictures = generate(family, empty_parts(), [line("a", 1, guidance_scale=3.5), line("b", 2, guidance_scale=3.5)])
    assert len(pictures) == 2 and asked["prompt"] == ["a", "b"] and asked["quiet"]
    assert (asked["true_cfg_scale"], asked["guidance_scale"], asked["num_inference_steps"]) == (4.0, 3.5, 4)
    assert [generator.initial_seed() for generator in asked["generator"]] == [1, 2]
