"""Files of adapters: formats, round trips, and what diffusers makes of them."""

from __future__ import annotations

import pytest
import torch

from library.util.records import UserError
from library.util.tensorfile import read_metadata, read_tensors
from networks import keys, lora
from tests.networks.models import full_size, golden, output, tiny, tiny_network


def test_saved_file_loads_back_bit_for_bit(tmp_path):
    text, unet = tiny()
    network = tiny_network(lora, text, unet)
    network.save_weights(tmp_path / "a.safetensors", None, {"ss_output_name": "a"})
    network.save_weights(tmp_path / "a.pt", None, {})
    for name in ("a.safetensors", "a.pt"):
        text2, unet2 = tiny()
        other = lora.create_network(1.0, 4, 2.0, None, text2, unet2)
        info = other.load_weights(tmp_path / name)
        assert not info.missing and not info.unknown and info.loaded == len(network.adapters)
        assert all(torch.equal(v, other.state_dict()[k]) for k, v in network.state_dict().items())
    assert set(read_metadata(tmp_path / "a.safetensors")) == {"ss_output_name", "sshs_model_hash", "sshs_legacy_hash"}


def test_network_from_a_file_has_its_modules_ranks_and_alphas(tmp_path):
    text, unet = tiny()
    network = tiny_network(lora, text, unet, conv_dim="2", conv_alpha="1")
    network.save_weights(tmp_path / "a.safetensors", None, None)
    applied = output(text, unet)
    text2, unet2 = tiny()
    other, tensors = lora.create_network_from_weights(1.0, tmp_path / "a.safetensors", None, text2, unet2)
    other.apply_to(text2, unet2)
    other.load_tensors(tensors)
    assert [(a.lora_name, a.lora_dim, a.scale) for a in other.adapters] == [
        (a.lora_name, a.lora_dim, a.scale) for a in network.adapters]
    assert torch.equal(output(text2, unet2), applied)


def test_wrong_rank_is_refused_with_both_shapes(tmp_path):
    text, unet = tiny()
    tiny_network(lora, text, unet, dim=8).save_weights(tmp_path / "a.safetensors", None, None)
    text, unet = tiny()
    network = lora.create_network(1.0, 4, 1.0, None, text, unet)
    with pytest.raises(UserError, match=r"8x32 there and 4x32 here") as error:
        network.load_weights(tmp_path / "a.safetensors")
    assert "--dim_from_weights" in error.value.problems[0].remedy and len(error.value.problems) <= 3


def test_file_of_another_architecture_is_refused(tmp_path):
    text, unet = tiny()
    network = lora.create_network(1.0, 4, 1.0, None, text, unet)
    foreign = {"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(4, 8)}
    with pytest.raises(UserError, match="double_blocks"):
        network.load_tensors(foreign, "other.safetensors")
    with pytest.raises(UserError, match="another architecture"):
        lora.create_network_from_weights(1.0, None, None, text, unet, foreign)


def test_file_that_is_no_file_of_tensors_is_refused_in_words(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"<html>")
    (tmp_path / "a.pt").write_bytes(b"<html>")
    for name, words in (("a.safetensors", "a web page saved"), ("a.pt", "a web page saved"), ("b.pt", "no such file")):
        with pytest.raises(UserError, match=words):
            read_tensors(tmp_path / name)


def test_pickle_with_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": torch.zeros(1), "b": Trap()}, tmp_path / "a.ckpt")
    with pytest.raises(UserError):
        read_tensors(tmp_path / "a.ckpt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("fmt", ["kohya", "diffusers", "comfy"])
def test_every_format_is_read_back_with_the_same_effect(fmt):
    text, unet = tiny()
    network = tiny_network(lora, text, unet, alpha=2.0)
    applied = output(text, unet)
    tensors = network.file_tensors(fmt=fmt)
    assert keys.identify(tensors).kind == "lora"
    text2, unet2 = tiny()
    other, _ = lora.create_network_from_weights(1.0, None, None, text2, unet2, tensors)
    other.apply_to(text2, unet2)
    info = other.load_tensors(tensors)
    assert info.loaded == len(network.adapters) and not info.unknown
    assert torch.allclose(output(text2, unet2), applied, atol=1e-5)


def test_identify_names_kind_format_and_ranks():
    text, unet = tiny()
    network = tiny_network(lora, text, unet)
    for fmt in ("kohya", "diffusers"):
        seen = keys.identify(network.file_tensors(fmt=fmt))
        assert (seen.kind, seen.format, seen.modules, dict(seen.ranks)) == (
            "lora", fmt, len(network.adapters), {4: len(network.adapters)})
    recorded = golden("network_keys.json")
    for name, kind in (("loha", "loha"), ("lokr", "lokr"), ("oft", "oft"), ("dylora", "lora"), ("lora_fa", "lora")):
        example = {p["example"]: torch.zeros(p["shape"]) for p in recorded[name]["patterns"].values()}
        assert keys.identify(example).kind == kind
    assert keys.identify({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}).kind is None


def test_flattened_and_old_text_encoder_names_mean_the_same_module():
    text, unet = full_size()
    names = keys.Names.of(lora.create_network(1.0, 4, 4.0, None, text, unet).plan.targets)
    want = "lora_te_text_model_encoder_layers_3_self_attn_q_proj"
    layer = "encoder.layers.3.self_attn.q_proj"
    for stem in (want, "lora_te_encoder_layers_3_self_attn_q_proj", want.replace("lora_te_", "lora_te1_"),
                 f"text_encoder.text_model.{layer}", f"text_encoder.{layer}"):
        assert names.find(stem) == want, stem
    assert names.find("unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0") == (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0")
    assert names.find("lora_unet_input_blocks_1_1_proj_in") is None


def test_folding_alpha_rounds_nothing_for_powers_of_two():
    parts = {keys.DOWN: torch.randn(16, 8), keys.UP: torch.randn(8, 16), keys.ALPHA: torch.tensor(1.0)}
    down, up = keys.folded(parts)
    assert torch.equal((up @ down) * 16, (parts[keys.UP] @ parts[keys.DOWN]))
    half = keys.folded({k: v.half() if v.dim() else v for k, v in parts.items()})
    assert all(t.isfinite().all() for t in half)


# ------------------------------------------------------------------------------------------------------- diffusers


def _pipeline(text, unet):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(vae=None, text_encoder=text, tokenizer=None, unet=unet, scheduler=DDIMScheduler(),
                                   safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def _latents(pipeline, text):
    """Two sampling steps from fixed noise under a fixed prompt."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 60, (2, 8), generator=generator)
    embeds = text(ids).last_hidden_state.detach()
    noise = torch.randn(1, 4, 8, 8, generator=generator)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(prompt_embeds=embeds[:1], negative_prompt_embeds=embeds[1:], latents=noise, num_inference_steps=2,
                    output_type="latent", height=64, width=64).images


@pytest.mark.parametrize(("fmt", "args"), [("kohya", {}), ("kohya", {"conv_dim": "2", "conv_alpha": "1"}),
                                           ("diffusers", {}), ("diffusers", {"conv_dim": "2", "conv_alpha": "1"})])
def test_diffusers_loads_every_module_and_draws_the_same_picture(tmp_path, fmt, args):
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import save_file

    text, unet = tiny()
    plain = _latents(_pipeline(text, unet), text)
    network = tiny_network(lora, text, unet, **args)
    ours = _latents(_pipeline(text, unet), text)
    save_file(network.file_tensors(fmt=fmt), tmp_path / "a.safetensors")

    text2, unet2 = tiny()
    pipeline = _pipeline(text2, unet2)
    pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    found = [m for model in (text2, unet2) for m in model.modules() if isinstance(m, LoraLayer)]
    assert len(found) == len(network.adapters)
    theirs = _latents(pipeline, text2)
    assert (ours - plain).abs().max() > 1e-2
    assert torch.allclose(theirs, ours, atol=1e-4)
