"""SD3 against its references: kohya's names and shapes, diffusers' conversion and prompt encoding."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import family_helpers as helpers
import pytest
import torch
from safetensors.torch import save_file

from library.families import detect, native, sd3, source
from library.families.interface import LoadRequest, Parts
from library.util.header import Header

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "lora_names.json").read_text(encoding="utf-8"))["sd3 lora"]


@pytest.fixture(scope="module")
def tiny() -> Parts:
    return sd3.tiny(0)


@pytest.fixture(scope="module")
def full_size() -> Parts:
    from diffusers import SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    configs = source.asset("sd3.json")
    with torch.device("meta"):
        texts = [CLIPTextModelWithProjection(CLIPTextConfig(**configs[p])) for p in ("text_encoder", "text_encoder_2")]
        return Parts(SD3Transformer2DModel(**configs["transformer"]), None, texts, [], sd3.Options())


def test_targets_put_together_are_kohyas_modules_with_their_shapes(full_size: Parts) -> None:
    rows: dict[str, list[tuple[int, int]]] = {}
    inputs: dict[str, int] = {}
    for target in sd3.adapter_targets(full_size):
        name = f"lora_unet_{target.fused[0].replace('.', '_')}" if target.fused else target.name
        rows.setdefault(name, []).append(target.fused[1:] if target.fused else (0, target.module.weight.shape[0]))
        inputs[name] = target.module.weight.shape[1]
    assert list(rows) == [name for name, _, _ in GOLDEN]
    for name, down, up in GOLDEN:
        assert (inputs[name], sum(count for _, count in rows[name])) == (down[1], up[0])


@pytest.mark.parametrize("extra", [{}, {"qk_norm": "rms_norm", "dual_attention_layers": (0, 1)}])
def test_spelling_agrees_with_diffusers_own_conversion_and_sizes_are_told_by_shapes(extra: dict) -> None:
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    config = source.asset("tiny/sd3.json")["components"]["transformer"]["config"] | extra
    config |= {"attention_head_dim": 64, "num_attention_heads": 1, "caption_projection_dim": 64, "num_layers": 3}
    model = SD3Transformer2DModel(**config)
    original = helpers.native_tensors(model, sd3.native_modules(model.config))
    told = sd3._sizes(Header({n: tuple(t.shape) for n, t in original.items()}))
    expected = {k: config.get(k, {"qk_norm": None, "dual_attention_layers": ()}.get(k)) for k in told}
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()} == expected
    converted = convert_sd3_transformer_checkpoint_to_diffusers(dict(original))
    own = model.state_dict()
    assert converted.keys() == own.keys() and all(torch.equal(converted[n], own[n]) for n in own)


def test_text_states_equal_diffusers_prompt_encoding(tiny: Parts) -> None:
    captions = ["a cat", "a much longer text about two dogs"]
    states, _, pooled, _ = sd3.pipeline(tiny).encode_prompt(captions, None, None, device="cpu", max_sequence_length=32,
                                                            do_classifier_free_guidance=False)  # fmt: skip
    found = sd3.encode_text(tiny, captions)
    both = torch.nn.functional.pad(found["lg_out"], (0, states.shape[-1] - found["lg_out"].shape[-1]))
    assert torch.allclose(torch.cat([both, found["t5_out"]], 1), states, atol=1e-6)
    assert torch.allclose(found["lg_pooled"], pooled, atol=1e-6)


@pytest.mark.parametrize("kind", ["folder", "whole file", "separate files"])
def test_every_packaging_is_the_same_model(tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    place, options = tmp_path / "sd3.safetensors", {}
    tensors = {f"model.diffusion_model.{n}": t for n, t in
               helpers.native_tensors(tiny.denoiser, sd3.native_modules(tiny.denoiser.config)).items()}  # fmt: skip
    tensors |= {f"first_stage_model.{n}": t for n, t in tiny.vae.state_dict().items()}
    texts = {name: {n: t for n, t in encoder.state_dict().items() if n != "encoder.embed_tokens.weight"}
             for name, encoder in zip(("clip_l", "clip_g", "t5xxl"), tiny.text_encoders, strict=True)}  # fmt: skip
    if kind == "folder":
        place = helpers.save_folder(tiny, tmp_path / "sd3", "StableDiffusion3Pipeline", "transformer")
    elif kind == "whole file":
        for name, states in texts.items():
            tensors |= {f"text_encoders.{name}.transformer.{n}": t for n, t in states.items()}
        save_file(tensors, place)
    else:
        for name, states in texts.items():
            save_file(states, tmp_path / f"{name}.safetensors")
            options[name] = str(tmp_path / f"{name}.safetensors")
        save_file(tensors, place)
    if kind != "folder":
        table = source.asset("tiny/sd3.json")["components"]
        configs = {p: table[p]["config"] for p in table if "config" in table[p]}
        monkeypatch.setattr(source, "asset", lambda name: configs)
        monkeypatch.setattr(sd3, "RECIPE", helpers.tiny_recipe(sd3.RECIPE, tiny, sizes=lambda header: {}))
    assert detect.identify(str(place)).family == "sd3"
    loaded = sd3.load(LoadRequest(str(place), sd3.Options(**options)))
    for a, b in zip([loaded.denoiser, loaded.vae, *loaded.text_encoders], [tiny.denoiser, tiny.vae, *tiny.text_encoders],
                    strict=True):  # fmt: skip
        helpers.assert_same_weights(a, b)


def test_the_last_text_modulation_is_the_only_swapped_one_in_the_blocks(tiny: Parts) -> None:
    table = sd3.native_modules(tiny.denoiser.config)
    assert [p for p, spot in table.items() if spot.swapped] == ["transformer_blocks.1.norm1_context.linear", "norm_out.linear"]
    assert native.find(table, "pos_embed.pos_embed")[1] == "pos_embed"


@pytest.mark.parametrize(("flag", "key"), [("apply_lg_attn_mask", "lg_out"), ("apply_t5_attn_mask", "t5_out")])
def test_masks_hide_padding_from_the_text_encoders(flag: str, key: str) -> None:
    parts = sd3.tiny(0)
    masked = replace(parts, options=replace(parts.options, **{flag: True}))
    plain, hidden = (sd3.encode_text(one, ["a cat"])[key] for one in (parts, masked))
    real = 3 if key == "lg_out" else 2
    assert not torch.allclose(plain, hidden)
    ids = parts.tokenizers[2](["a cat"], return_tensors="pt").input_ids
    if key == "t5_out":  # T5 looks both ways: only with the mask do real tokens answer as they do without padding
        alone = parts.text_encoders[2](ids)[0]
        assert torch.allclose(hidden[:, : ids.shape[1]], alone, atol=1e-5)
    else:  # CLIP looks back alone: what stands before the padding is the same
        assert torch.allclose(plain[:, :real], hidden[:, :real], atol=1e-6)
