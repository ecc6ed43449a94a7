"""What every family promises, shown on its tiny model."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import torch
import torch.utils.checkpoint

from library.config.run_config import NoiseConfig
from library.data import text_cache
from library.data.text_cache import TextOptions
from library.diffusion.schedule import RAW
from library.families import detect, registry
from library.families.interface import Family, Parts
from library.util.header import Header

SIZE = 64
CAPTIONS = ["a red circle", "two blue squares, large, on a green background"]


@pytest.fixture(scope="module", params=registry.names())
def family(request: pytest.FixtureRequest) -> Family:
    return registry.get(request.param)


@pytest.fixture(scope="module")
def parts(family: Family) -> Parts:
    return family.tiny(0)


def pixels(family: Family) -> torch.Tensor:
    side = max(SIZE, 2 * family.SPEC.bucket_step if family.SPEC.bucket_step < 64 else SIZE)
    return torch.rand(2, 3, side, side) * 2 - 1


def cond_of(family: Family, parts: Parts) -> dict[str, Any]:
    size = (SIZE, SIZE)
    return {**family.encode_text(parts, CAPTIONS), **family.size_cond([size, size], [(0, 0), (0, 0)], size)}


def noised_latents(family: Family, parts: Parts) -> Any:
    latents = family.encode_image(parts, pixels(family))
    schedule = family.schedule(parts.options, NoiseConfig())
    return schedule.add_noise(latents, torch.randn_like(latents), schedule.draw(2, tuple(latents.shape[-2:])))


def test_pictures_become_latents_of_the_promised_shape_and_back(family: Family, parts: Parts) -> None:
    pictures = pixels(family)
    latents = family.encode_image(parts, pictures)
    side = pictures.shape[-1] // family.SPEC.vae_factor
    assert latents.shape == (2, family.SPEC.latent_channels, side, side)
    assert family.decode_latents(parts, latents).shape == pictures.shape


def test_normalising_is_undone_by_denormalising(family: Family, parts: Parts) -> None:
    latents = family.encode_image(parts, pixels(family))
    assert torch.allclose(family.normalise(parts, family.denormalise(parts, latents)), latents, atol=1e-5)


def test_prediction_has_the_latents_shape_and_gradients_reach_the_targets(family: Family, parts: Parts) -> None:
    noised, cond = noised_latents(family, parts), cond_of(family, parts)
    targets = [t for t in family.adapter_targets(parts) if t.root == "denoiser"]
    for target in targets:
        target.module.weight.requires_grad_(True)
    prediction = family.predict(parts, noised, cond)
    assert prediction.shape == noised.x_BCHW.shape and torch.isfinite(prediction).all()
    prediction.square().mean().backward()
    assert all(t.module.weight.grad is not None and t.module.weight.grad.any() for t in targets if not _unused(t.path))
    for target in targets:
        target.module.weight.requires_grad_(False)
        target.module.weight.grad = None


def _unused(path: str) -> bool:
    """Text queries may lead nowhere: models drop the text half of their last joint block (the tiny ones have two)."""
    return path.endswith("add_q_proj") or re.match(r"transformer_blocks\.1\.(txt_mlp|attn\.to_add_out)", path) is not None


def test_a_batch_is_predicted_as_its_items_are(family: Family, parts: Parts) -> None:
    noised, cond = noised_latents(family, parts), cond_of(family, parts)
    both = family.predict(parts, noised, cond)
    for i in range(2):
        one = type(noised)(
            noised.x_BCHW[i : i + 1],
            noised.noise_BCHW[i : i + 1],
            noised.timesteps_B[i : i + 1],
            None if noised.sigmas_B is None else noised.sigmas_B[i : i + 1],
        )
        single = family.predict(parts, one, {k: v[i : i + 1] for k, v in cond.items()})
        assert torch.allclose(single, both[i : i + 1], atol=1e-4)


def test_one_step_along_the_target_returns_the_clean_latents(family: Family, parts: Parts) -> None:
    x0 = torch.randn(2, family.SPEC.latent_channels, 4, 4)
    noise, schedule = torch.randn_like(x0), family.schedule(parts.options, NoiseConfig())
    if family.SPEC.target_space == "flow":
        schedule = replace(schedule, reading=RAW)  # some compare the picture that the velocity stands for
    times = schedule.draw(2, (4, 4)).clamp(max=900)
    noised = schedule.add_noise(x0, noise, times)
    target = schedule.target(x0, noised)
    for i in range(2):
        if family.SPEC.target_space == "flow":
            scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
            scheduler.set_timesteps(sigmas=[float(times[i]) / 1000])
            back = scheduler.step(target[i : i + 1], scheduler.timesteps[0], noised.x_BCHW[i : i + 1]).prev_sample
        else:
            space = {"eps": "epsilon", "v": "v_prediction"}[schedule.space]
            scheduler = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                                                prediction_type=space, clip_sample=False)  # fmt: skip
            scheduler.set_timesteps(1000)
            back = scheduler.step(target[i : i + 1], int(times[i]), noised.x_BCHW[i : i + 1]).pred_original_sample
        assert torch.allclose(back, x0[i : i + 1], atol=1e-3)


def test_captions_read_from_the_cache_are_those_encoded_now(family: Family, parts: Parts, tmp_path: Path) -> None:
    if family.SPEC.text_cache_suffix is None:
        return
    plan = SimpleNamespace(items=[SimpleNamespace(path=tmp_path / f"{i}.png") for i in range(2)])
    options = TextOptions(to_disk=True, suffix=family.SPEC.text_cache_suffix, padding=family.SPEC.cond_padding)
    for item, caption in zip(plan.items, CAPTIONS, strict=True):
        (cond,) = text_cache._encoded([caption], lambda texts: family.encode_text(parts, texts))
        text_cache._store(text_cache.file_of(item, options), caption, cond, options)
    cache = text_cache.TextCache(options)
    read = cache.collate([cache(item, caption) for item, caption in zip(plan.items, CAPTIONS, strict=True)])
    now = family.encode_text(parts, CAPTIONS)
    assert read.keys() == now.keys()
    noised = noised_latents(family, parts)
    with torch.no_grad():
        sizes = family.size_cond([(SIZE, SIZE)] * 2, [(0, 0)] * 2, (SIZE, SIZE))
        a, b = (family.predict(parts, noised, {**cond, **sizes}) for cond in (read, now))
    assert torch.allclose(a, b, atol=1e-4)


def test_checkpointing_by_our_function_leaves_every_gradient_as_it_is(family: Family, parts: Parts) -> None:
    noised, cond = noised_latents(family, parts), {k: v.detach() for k, v in cond_of(family, parts).items()}
    targets = [t for t in family.adapter_targets(parts) if t.root == "denoiser"][:12]
    calls: list[int] = []

    def gradients() -> list[torch.Tensor]:
        for target in targets:
            target.module.weight.grad = None
            target.module.weight.requires_grad_(True)
        family.predict(parts, noised, cond).square().mean().backward()
        found = [t.module.weight.grad.clone() for t in targets if t.module.weight.grad is not None]
        for target in targets:
            target.module.weight.requires_grad_(False)
            target.module.weight.grad = None
        return found

    def counted(block: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return torch.utils.checkpoint.checkpoint(block, *args, use_reentrant=False, **kwargs)

    plain = gradients()
    parts.denoiser.enable_gradient_checkpointing(gradient_checkpointing_func=counted)
    saving = gradients()
    parts.denoiser.disable_gradient_checkpointing()
    assert calls and len(plain) == len(saving) > 0
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(plain, saving, strict=True))


def test_an_empty_caption_is_read_alone_and_beside_others(family: Family, parts: Parts) -> None:
    alone, both = family.encode_text(parts, [""]), family.encode_text(parts, ["", CAPTIONS[1]])
    for key, value in alone.items():
        assert torch.isfinite(value.float()).all() and torch.isfinite(both[key].float()).all(), key
        shared = tuple(slice(0, n) for n in value[0].shape)
        assert torch.allclose(value[0].float(), both[key][0][shared].float(), atol=1e-4), key
    sizes = family.size_cond([(SIZE, SIZE)] * 2, [(0, 0)] * 2, (SIZE, SIZE))
    with torch.no_grad():
        assert torch.isfinite(family.predict(parts, noised_latents(family, parts), {**both, **sizes})).all()


def test_text_conditioning_has_one_entry_for_each_caption_and_a_padding_rule(family: Family, parts: Parts) -> None:
    cond = cond_of(family, parts)
    assert set(cond) <= set(family.SPEC.cond_padding)
    assert all(len(value) == len(CAPTIONS) for value in cond.values())


def test_text_encoder_targets_lie_in_their_slots(family: Family, parts: Parts) -> None:
    slots = {s.part: s for s in family.SPEC.text_slots}
    for target in family.adapter_targets(parts):
        if target.root != "denoiser":
            assert target.name.startswith(slots[target.root].lora_prefix + "_")


def test_target_names_are_unique_and_roles_known(family: Family, parts: Parts) -> None:
    targets = [*family.adapter_targets(parts), *family.extra_targets(parts)]
    assert len({t.name for t in targets}) == len(targets)
    assert {t.role for t in targets if t.root == "denoiser"} <= set(family.SPEC.roles)
    modules = dict(parts.denoiser.named_modules())
    assert all(modules[t.path] is t.module for t in targets if t.root == "denoiser")


def test_patterns_of_the_spec_are_regular_expressions(family: Family) -> None:
    for patterns in (*family.SPEC.roles.values(), family.SPEC.never_touch, family.SPEC.joint_stream):
        for pattern in patterns:
            re.compile(pattern)


def test_tiny_models_depend_on_the_seed_alone_and_leave_random_numbers_untouched(family: Family) -> None:
    before = torch.get_rng_state()
    one, other, third = family.tiny(0), family.tiny(0), family.tiny(1)
    assert torch.equal(before, torch.get_rng_state())
    a, b, c = (next(p for p in m.denoiser.parameters() if p.dim() > 1) for m in (one, other, third))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_its_own_denoiser_is_detected_and_no_other_family_claims_it(family: Family, parts: Parts) -> None:
    header = Header({n: tuple(t.shape) for n, t in parts.denoiser.state_dict().items()})
    assert [n for n in registry.names() if registry.get(n).matches(detect.strip(header))] == [family.SPEC.name]
    assert detect.classify(header).family == family.SPEC.name


def test_the_scripts_of_the_spec_lead_to_the_family(family: Family) -> None:
    assert registry.by_script(family.SPEC.scripts[0]) is family
    assert all(script in registry.by_script(script).SPEC.scripts for script in family.SPEC.scripts)


def test_the_pipeline_draws_a_picture_from_these_parts(family: Family, parts: Parts) -> None:
    pipe = family.pipeline(parts)
    if pipe is None:
        return
    pipe.set_progress_bar_config(disable=True)
    steps = 2 if "shift_terminal" in parts.scheduler_config else 1  # stretching to a terminal sigma needs two
    picture = pipe(prompt="a red circle", height=SIZE, width=SIZE, num_inference_steps=steps, output_type="pt").images
    assert picture.shape == (1, 3, SIZE, SIZE) and torch.isfinite(picture).all()


def test_the_page_on_adding_a_family_lists_every_family_and_claim() -> None:
    import overview

    text = overview.PAGE.read_text(encoding="utf-8")
    assert all(f"- {claim}\n" in text for claim in overview.tests())
    assert all(f"`{file}`" in text for _, file, _ in overview.lengths())
