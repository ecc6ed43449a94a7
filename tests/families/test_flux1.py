"""Flux.1 against its references: kohya's names and shapes, diffusers' conversion, packing and prompt encoding."""

from __future__ import annotations

import json
from pathlib import Path

import family_helpers as helpers
import pytest
import torch
from safetensors.torch import save_file

from library.config.run_config import NoiseConfig
from library.families import detect, flow, flux1, native, source
from library.families.interface import LoadRequest, Parts
from library.util.header import Header
from library.util.records import UserError

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "lora_names.json").read_text(encoding="utf-8"))["flux lora"]


@pytest.fixture(scope="module")
def tiny() -> Parts:
    return flux1.tiny(0)


@pytest.fixture(scope="module")
def full_size() -> Parts:
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel

    configs = source.asset("flux1.json")
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
        return Parts(FluxTransformer2DModel(**configs["transformer"]), None, [text], [], flux1.Options())


def test_targets_put_together_are_kohyas_376_modules_with_their_shapes(full_size: Parts) -> None:
    rows: dict[str, list[tuple[int, int]]] = {}
    inputs: dict[str, int] = {}
    for target in flux1.adapter_targets(full_size):
        name = f"lora_unet_{target.fused[0].replace('.', '_')}" if target.fused else target.name
        rows.setdefault(name, []).append(target.fused[1:] if target.fused else (0, target.module.weight.shape[0]))
        assert target.fused is None or target.fused[2] == target.module.weight.shape[0]
        inputs[name] = target.module.weight.shape[1]
    assert list(rows) == [name for name, _, _ in GOLDEN]
    for name, down, up in GOLDEN:
        assert inputs[name] == down[1]
        assert [first for first, _ in rows[name]] == [sum(n for _, n in rows[name][:i]) for i in range(len(rows[name]))]
        assert sum(count for _, count in rows[name]) == up[0]


def test_full_size_spelling_agrees_with_diffusers_own_conversion() -> None:
    from diffusers import FluxTransformer2DModel
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    config = source.asset("flux1.json")["transformer"] | {"num_layers": 2, "num_single_layers": 2}
    with torch.device("meta"):
        own = FluxTransformer2DModel(**config).state_dict()
    table = flux1.native_modules(config)
    heights: dict[str, int] = {}
    for name, tensor in own.items():
        spot, original = native.find(table, name)
        heights[original] = max(heights.get(original, 0), (spot.rows or (0, 0))[0] + tensor.shape[0])
    marks = {n: (1000 * i + torch.arange(h, dtype=torch.float64) / h) for i, (n, h) in enumerate(heights.items())}
    converted = convert_flux_transformer_checkpoint_to_diffusers(dict(marks))
    assert converted.keys() == own.keys()
    for name in own:
        spot, original = native.find(table, name)
        mark = marks[original]
        mine = mark[spot.rows[0] : sum(spot.rows)] if spot.rows else mark
        if spot.swapped:
            mine = torch.cat([mark[len(mark) // 2 :], mark[: len(mark) // 2]])
        assert torch.equal(converted[name], mine), name


def test_packing_is_diffusers_packing() -> None:
    from diffusers import FluxPipeline

    latents = torch.randn(2, 16, 6, 8)
    tokens = flow.packed(latents)
    assert torch.equal(tokens, FluxPipeline._pack_latents(latents, 2, 16, 6, 8))
    assert torch.equal(flow.unpacked(tokens, (6, 8)), latents)
    ids = FluxPipeline._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32)
    assert torch.equal(flow.grid_ids((6, 8)), ids)


def test_text_states_equal_diffusers_prompt_encoding(tiny: Parts) -> None:
    captions = ["a cat", "a much longer text about two dogs"]
    states, pooled, _ = flux1.pipeline(tiny).encode_prompt(captions, None, device="cpu", max_sequence_length=32)
    found = flux1.encode_text(tiny, captions)
    assert torch.equal(found["t5_out"], states) and torch.equal(found["l_pooled"], pooled)
    assert found["t5_attn_mask"][0].sum() < found["t5_attn_mask"][1].sum() <= 32


def native_file(parts: Parts) -> dict[str, torch.Tensor]:
    """A tiny transformer as an original file spells it."""
    return helpers.native_tensors(parts.denoiser, flux1.native_modules(parts.denoiser.config))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_separate_files_are_the_same_model(tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    table = source.asset("tiny/flux1.json")["components"]
    configs = {p: table[p]["config"] for p in ("transformer", "vae", "text_encoder", "text_encoder_2", "scheduler")}
    monkeypatch.setattr(source, "asset", lambda name: configs)
    monkeypatch.setattr(flux1, "RECIPE", helpers.tiny_recipe(flux1.RECIPE, tiny))
    first, second = tiny.text_encoders
    save_file({prefix + n: t for n, t in native_file(tiny).items()}, tmp_path / "flux.safetensors")
    save_file({f"text_model.{n}": t for n, t in first.state_dict().items()}, tmp_path / "clip_l.safetensors")
    states = {n: t for n, t in second.state_dict().items() if n != "encoder.embed_tokens.weight"}
    save_file(states, tmp_path / "t5xxl.safetensors")
    save_file(tiny.vae.state_dict(), tmp_path / "ae.safetensors")
    assert detect.identify(str(tmp_path / "flux.safetensors")).family == "flux1"
    options = flux1.Options(clip_l=str(tmp_path / "clip_l.safetensors"), t5xxl=str(tmp_path / "t5xxl.safetensors"),
                            ae=str(tmp_path / "ae.safetensors"))  # fmt: skip
    loaded = flux1.load(LoadRequest(str(tmp_path / "flux.safetensors"), options))
    helpers.assert_same_weights(loaded.denoiser, tiny.denoiser)
    helpers.assert_same_weights(loaded.vae, tiny.vae)
    for a, b in zip(loaded.text_encoders, tiny.text_encoders, strict=True):
        helpers.assert_same_weights(a, b)
    assert loaded.text_encoders[1].encoder.embed_tokens.weight is loaded.text_encoders[1].shared.weight


def test_a_folder_is_the_same_model(tiny: Parts, tmp_path: Path) -> None:
    folder = helpers.save_folder(tiny, tmp_path / "flux", "FluxPipeline", "transformer")
    assert detect.identify(str(folder)).family == "flux1"
    loaded = flux1.load(LoadRequest(str(folder), tiny.options))
    for a, b in zip([loaded.denoiser, loaded.vae, *loaded.text_encoders], [tiny.denoiser, tiny.vae, *tiny.text_encoders],
                    strict=True):  # fmt: skip
        helpers.assert_same_weights(a, b)
    found, expected = flux1.encode_text(loaded, ["a cat"]), flux1.encode_text(tiny, ["a cat"])
    assert all(torch.equal(found[k], expected[k]) for k in expected)


def test_a_transformer_alone_names_every_file_that_must_be_given_too(tiny: Parts, tmp_path: Path) -> None:
    save_file(native_file(tiny), tmp_path / "flux.safetensors")
    with pytest.raises(UserError) as error:
        flux1.load(LoadRequest(str(tmp_path / "flux.safetensors"), flux1.Options()))
    assert all(flag in str(error.value) for flag in ("--clip_l", "--t5xxl", "--ae"))


def test_one_euler_step_along_the_target_returns_the_clean_latents() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    schedule = flux1.schedule(flux1.Options(timestep_sampling="flux_shift"), NoiseConfig())
    x0, noise = torch.randn(1, 16, 8, 8), torch.randn(1, 16, 8, 8)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.7])
    noised = schedule.add_noise(x0, noise, scheduler.timesteps)
    assert torch.allclose(noised.x_BCHW, scheduler.scale_noise(x0, scheduler.timesteps[:1], noise), atol=1e-6)
    back = scheduler.step(schedule.target(x0, noised), scheduler.timesteps[0], noised.x_BCHW, return_dict=False)[0]
    assert torch.allclose(back, x0, atol=1e-5)


@pytest.mark.parametrize("name", ["sigma", "uniform", "sigmoid", "shift", "flux_shift"])
def test_every_timestep_sampling_draws_within_the_range(name: str) -> None:
    schedule = flux1.schedule(flux1.Options(timestep_sampling=name), NoiseConfig(min_timestep=200, max_timestep=800))
    drawn = schedule.draw(500, (64, 64))
    assert drawn.min() >= 200 and drawn.max() <= 800


def test_an_unknown_timestep_sampling_names_the_near_ones() -> None:
    with pytest.raises(UserError) as error:
        flux1.schedule(flux1.Options(timestep_sampling="flux_shfit"), NoiseConfig())
    assert "flux_shift" in error.value.problems[0].remedy


def test_fill_and_control_models_are_told_by_their_input_channels(tiny: Parts) -> None:
    shapes = {n: tuple(t.shape) for n, t in native_file(tiny).items()} | {"img_in.weight": (32, 384)}
    found = detect.classify(Header(shapes))
    assert (found.family, found.hints) == ("flux1", {"in_channels": 384})
