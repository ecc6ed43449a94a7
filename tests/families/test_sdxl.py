"""SDXL against its references: kohya's names and shapes, diffusers' own pipeline and conversion."""

from __future__ import annotations

import json
from pathlib import Path

import family_helpers as helpers
import pytest
import torch
from safetensors.torch import save_file

from library.families import clip, detect, sdxl, source, unet
from library.families.interface import LoadRequest, Parts
from library.util.header import Header

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "lora_names.json").read_text(encoding="utf-8"))
LONG = ", ".join(f"a{i} b{i}" for i in range(40))


@pytest.fixture(scope="module")
def tiny() -> Parts:
    return sdxl.tiny(0)


@pytest.fixture(scope="module")
def full_size() -> Parts:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    configs = source.asset("sdxl.json")
    with torch.device("meta"):
        texts = [
            CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])),
            CLIPTextModelWithProjection(CLIPTextConfig(**configs["text_encoder_2"])),
        ]
        return Parts(UNet2DConditionModel(**configs["unet"]), None, texts, [], sdxl.Options())


@pytest.mark.parametrize(("golden", "conv"), [("sdxl lora", False), ("sdxl locon", True)])
def test_targets_have_kohyas_names_order_and_shapes(full_size: Parts, golden: str, conv: bool) -> None:
    targets = [t for t in sdxl.adapter_targets(full_size) if conv or not t.conv_only]
    assert [t.name for t in targets] == [name for name, _, _ in GOLDEN[golden]]
    found = [(t.module.weight.shape[1], t.module.weight.shape[0]) for t in targets]
    assert found == [(down[1], up[0]) for _, down, up in GOLDEN[golden]]


def test_there_are_722_unet_and_264_text_targets(full_size: Parts) -> None:
    targets = [t for t in sdxl.adapter_targets(full_size) if not t.conv_only]
    assert [sum(t.root == "denoiser" for t in targets), sum(t.root != "denoiser" for t in targets)] == [722, 264]


def test_blocks_and_extra_modules_are_numbered_as_kohya_numbers_them(full_size: Parts) -> None:
    blocks = {t.name: t.block for t in [*sdxl.adapter_targets(full_size), *sdxl.extra_targets(full_size)]}
    assert blocks["lora_unet_input_blocks_4_1_proj_in"] == 5
    assert blocks["lora_unet_middle_block_1_proj_out"] == 11
    assert blocks["lora_unet_output_blocks_0_1_proj_in"] == 13
    assert blocks["lora_unet_output_blocks_8_0_in_layers_2"] == 21
    assert (blocks["lora_unet_time_embed_0"], blocks["lora_unet_label_emb_0_2"], blocks["lora_unet_out_2"]) == (
        0,
        0,
        22,
    )


def test_full_size_spelling_agrees_with_diffusers_lora_mapping(full_size: Parts) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    spelling = unet.Spelling(full_size.denoiser.config)
    own = {n: torch.empty(0) for n in full_size.denoiser.state_dict()}
    original = {f"model.diffusion_model.{spelling.original(n)}": t for n, t in own.items()}
    back = convert_ldm_unet_checkpoint(original, config=dict(full_size.denoiser.config))
    assert all(back[n] is t for n, t in own.items())


def test_text_states_equal_diffusers_prompt_encoding(tiny: Parts) -> None:
    captions = ["a cat", LONG, ""]
    states, _, pooled, _ = sdxl.pipeline(tiny).encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
    found = sdxl.encode_text(tiny, captions)
    assert torch.allclose(torch.cat([found["hidden_state1"], found["hidden_state2"]], -1), states, atol=1e-6)
    assert torch.allclose(found["pool2"], pooled, atol=1e-6)


def test_size_conditioning_is_original_crop_target(tiny: Parts) -> None:
    ids = sdxl.size_cond([(100, 200), (300, 400)], [(1, 2), (3, 4)], (64, 96))["time_ids"]
    assert ids.tolist() == [[100, 200, 1, 2, 64, 96], [300, 400, 3, 4, 64, 96]]


def original_tensors(parts: Parts) -> dict[str, torch.Tensor]:
    """A tiny SDXL as an original checkpoint: second text encoder in OpenCLIP's spelling."""
    tensors = {n: t for n, t in helpers.ldm_tensors(parts).items() if not n.startswith("cond_stage_model")}
    first, second = parts.text_encoders
    tensors |= {f"conditioner.embedders.0.transformer.text_model.{n}": t for n, t in first.state_dict().items()}
    prefix, own = "conditioner.embedders.1.model.", second.state_dict()
    for ours, theirs in clip.OPEN_CLIP.items():
        tensors[prefix + theirs] = own[f"text_model.{ours}"]
    tensors[f"{prefix}text_projection"] = own["text_projection.weight"].t().contiguous()
    for i in range(len(second.text_model.encoder.layers)):
        layer, block = f"text_model.encoder.layers.{i}", f"{prefix}transformer.resblocks.{i}"
        for kind in ("weight", "bias"):
            fused = [own[f"{layer}.self_attn.{n}.{kind}"] for n in ("q_proj", "k_proj", "v_proj")]
            tensors[f"{block}.attn.in_proj_{kind}"] = torch.cat(fused)
            for ours, theirs in clip.OPEN_CLIP_LAYER.items():
                tensors[f"{block}.{theirs}.{kind}"] = own[f"{layer}.{ours}.{kind}"]
    return tensors


@pytest.mark.parametrize("kind", ["safetensors", "ckpt"])
def test_a_single_file_is_the_same_model_as_the_folder(
    tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    table = source.asset("tiny/sdxl.json")["components"]
    configs = {p: table[p]["config"] for p in ("unet", "vae", "text_encoder", "text_encoder_2", "scheduler")}
    monkeypatch.setattr(sdxl, "_configs", lambda header: configs)
    monkeypatch.setattr(clip, "shipped_tokenizer", lambda pad_token: tiny.tokenizers[pad_token == "!"])
    path = tmp_path / f"model.{kind}"
    if kind == "ckpt":
        torch.save({"state_dict": original_tensors(tiny)}, path)
    else:
        save_file(original_tensors(tiny), path)
    assert detect.identify(str(path)).family == "sdxl"
    folder = helpers.save_folder(tiny, tmp_path / "folder", "StableDiffusionXLPipeline")
    assert detect.identify(str(folder)).family == "sdxl"
    expected = sdxl.encode_text(tiny, ["a cat", LONG])
    for place in (path, folder):
        loaded = sdxl.load(LoadRequest(str(place), sdxl.Options()))
        helpers.assert_same_weights(loaded.denoiser, tiny.denoiser)
        helpers.assert_same_weights(loaded.vae, tiny.vae)
        for a, b in zip(loaded.text_encoders, tiny.text_encoders, strict=True):
            helpers.assert_same_weights(a, b)
        found = sdxl.encode_text(loaded, ["a cat", LONG])
        assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize(("width", "family"), [(2816, "sdxl"), (2560, None), (5632, None)])
def test_refiner_and_kolors_are_not_taken_for_sdxl(tiny: Parts, width: int, family: str | None) -> None:
    shapes = {n: tuple(t.shape) for n, t in original_tensors(tiny).items()}
    shapes["model.diffusion_model.label_emb.0.0.weight"] = (8, width)
    assert detect.classify(Header(shapes)).family == family


def test_marker_tensors_tell_velocity_prediction(tiny: Parts) -> None:
    shapes = {n: tuple(t.shape) for n, t in original_tensors(tiny).items()} | {"v_pred": (0,), "ztsnr": (0,)}
    assert detect.classify(Header(shapes)).hints == {"v_parameterization": True, "zero_terminal_snr": True}
