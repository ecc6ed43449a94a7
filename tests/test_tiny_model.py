"""The shipped model draws what it is asked for; the figures are read back from its pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "examples" / "tiny-sd"
sys.path.insert(0, str(ROOT / "examples"))

import world  # noqa: E402  (needs the path above)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """The shipped model as any program loads it."""
    loaded = StableDiffusionPipeline.from_pretrained(MODEL)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def generated(pipeline: StableDiffusionPipeline, prompts: list[str], seed: int, **options) -> list[np.ndarray]:
    """A picture a prompt, by 20 DDIM steps with guidance 4."""
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    called = pipeline(
        prompts,
        height=world.SIDE,
        width=world.SIDE,
        num_inference_steps=20,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
        **options,
    )
    return list(called.images)


def test_pictures_show_what_their_prompts_ask_for(pipeline):
    asked = world.batch_of_prompts(100, seed=0)
    pictures = generated(pipeline, [prompt for prompt, _ in asked], seed=0)
    figures = world.agreement([scene for _, scene in asked], [world.measure(picture) for picture in pictures])
    wanted = {"colour": 0.9, "shape": 0.9, "size": 0.85, "background": 0.85}
    assert all(figures[name] >= least for name, least in wanted.items()), figures


def test_words_of_brightness_and_size_move_the_measured_quantities(pipeline):
    def mean(words: str, name: str) -> float:
        pictures = generated(pipeline, [f"solo, {words}"] * 12, seed=1)
        return float(np.mean([getattr(world.measure(picture), name) for picture in pictures]))

    assert mean("red circle, grey background, large", "size") - mean("red circle, grey background, small", "size") > 0.2
    assert mean("red circle, bright", "brightness") - mean("red circle, dark", "brightness") > 0.4


def test_the_subject_of_the_data_set_is_new_to_the_model(pipeline):
    prompts = [f"{world.SUBJECT}, {prompt}" for prompt, _ in world.batch_of_prompts(20, seed=2)]
    shapes = [world.measure(picture).shape for picture in generated(pipeline, prompts, seed=2)]
    assert shapes.count(world.SUBJECT) <= 1, shapes


def test_the_vae_decodes_subjects_that_the_denoiser_has_never_seen(pipeline):
    scenes = world.subject_scenes(40, seed=3)
    pixels = torch.from_numpy(np.stack([np.asarray(world.draw(scene)) for scene in scenes]))
    pixels = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    readings = [world.measure(picture) for picture in (decoded / 2 + 0.5).permute(0, 2, 3, 1).numpy()]
    assert (decoded - pixels).abs().mean() < 0.05
    assert np.mean([reading.shape == world.SUBJECT for reading in readings]) >= 0.9


def test_scaled_latents_have_unit_deviation(pipeline):
    scenes = [scene for _, scene in world.batch_of_prompts(200, seed=6)]
    pixels = torch.from_numpy(np.stack([np.asarray(world.draw(scene)) for scene in scenes]))
    with torch.no_grad():
        latents = pipeline.vae.encode(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1).latent_dist.mean
    assert latents.shape[1:] == (4, 8, 8)
    assert float((latents * pipeline.vae.config.scaling_factor).std()) == pytest.approx(1.0, abs=0.1)


def test_the_model_has_sd1_layout_and_fits_in_12_mb(pipeline):
    index = json.loads((MODEL / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == "StableDiffusionPipeline" and index["safety_checker"] == [None, None]
    assert list(pipeline.unet.config.down_block_types) == ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
    assert list(pipeline.unet.config.up_block_types) == ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 12e6
    with safe_open(MODEL / "text_encoder" / "model.safetensors", framework="pt") as weights:
        names = list(weights.keys())
    assert all(name.startswith("text_model.") for name in names)


def test_every_word_of_the_world_is_one_token_and_other_words_fall_back_to_bytes(pipeline):
    tokenizer = pipeline.tokenizer
    assert [word for word in world.WORDS if len(tokenizer.tokenize(word)) != 1] == []
    unknown = f"{world.SUBJECT} 赤い"
    assert tokenizer.decode(tokenizer(unknown).input_ids, skip_special_tokens=True).strip() == unknown
    assert tokenizer.pad_token_id == tokenizer.eos_token_id and tokenizer.model_max_length == 77
