"""SD 1.x and 2.x against their references: kohya's names, diffusers' own pipeline and conversion functions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import family_helpers as helpers
import pytest
import torch
from safetensors.torch import save_file

from library.families import clip, sd1, source, unet, vae
from library.families.interface import LoadRequest, Parts
from library.util.records import UserError

DATA = Path(__file__).parent.parent / "data"
LONG = ", ".join(f"a{i} b{i}" for i in range(40))


@pytest.fixture(scope="module")
def tiny() -> Parts:
    return sd1.tiny(0)


@pytest.fixture(scope="module")
def single_file(tiny: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_file(helpers.ldm_tensors(tiny), path)
    return path


def tiny_layout(monkeypatch: pytest.MonkeyPatch, parts: Parts) -> None:
    """Let single files have the tiny model's sizes instead of the real ones."""
    table = source.asset("tiny/sd1.json")["components"]
    configs = {part: table[part]["config"] for part in ("unet", "vae", "text_encoder", "scheduler")}
    monkeypatch.setattr(sd1, "_configs", lambda header: configs)
    monkeypatch.setattr(clip, "shipped_tokenizer", lambda pad_token: parts.tokenizers[0])


def meta_parts(name: str) -> Parts:
    """A model of full size without memory."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    configs = source.asset(name)
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
        return Parts(UNet2DConditionModel(**configs["unet"]), None, [text], [], sd1.Options())


@pytest.fixture(scope="module")
def full_size() -> Parts:
    return meta_parts("sd1.json")


def test_targets_are_kohyas_264_modules_in_kohyas_order(full_size: Parts) -> None:
    names = [t.name for t in sd1.adapter_targets(full_size) if not t.conv_only]
    assert names == json.loads((DATA / "lora_module_order.json").read_text(encoding="utf-8"))


def test_targets_with_convolutions_are_kohyas_350_modules_in_kohyas_order(full_size: Parts) -> None:
    names = [t.name for t in sd1.adapter_targets(full_size)]
    assert names == json.loads((DATA / "locon_module_order.json").read_text(encoding="utf-8"))


def test_sd2_targets_have_kohyas_names_and_shapes() -> None:
    golden = json.loads((DATA / "lora_names.json").read_text(encoding="utf-8"))["sd2 lora"]
    targets = [t for t in sd1.adapter_targets(meta_parts("sd2.json")) if not t.conv_only]
    assert [t.name for t in targets] == [name for name, _, _ in golden]
    assert [(t.module.weight.shape[1], t.module.weight.shape[0]) for t in targets] == [
        (d[1], u[0]) for _, d, u in golden
    ]


def test_every_target_lies_at_its_path(full_size: Parts) -> None:
    roots = {"denoiser": full_size.denoiser, "text_encoder": full_size.text_encoders[0]}
    for target in [*sd1.adapter_targets(full_size), *sd1.extra_targets(full_size)]:
        path = target.path.removeprefix("text_model.") if target.root == "text_encoder" else target.path
        assert roots[target.root].get_submodule(path) is target.module
        assert target.role != "other", target.path


def test_extra_targets_are_the_four_modules_outside_the_blocks(full_size: Parts) -> None:
    assert [t.path for t in sd1.extra_targets(full_size)] == [
        "conv_in",
        "time_embedding.linear_1",
        "time_embedding.linear_2",
        "conv_out",
    ]


def test_targets_know_their_place_in_original_checkpoints(full_size: Parts) -> None:
    native = {t.path: t.native for t in [*sd1.adapter_targets(full_size), *sd1.extra_targets(full_size)]}
    first = "transformer_blocks.0.attn1.to_q"
    assert native[f"down_blocks.0.attentions.1.{first}"] == f"input_blocks.2.1.{first}"
    assert native["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.1.conv"
    assert native["conv_in"] == "input_blocks.0.0"


def test_blocks_are_numbered_as_kohya_numbers_them(full_size: Parts) -> None:
    blocks = {t.path: t.block for t in sd1.adapter_targets(full_size)}
    assert blocks["down_blocks.0.attentions.0.proj_in"] == 1
    assert blocks["down_blocks.0.downsamplers.0.conv"] == 3
    assert blocks["down_blocks.3.resnets.1.conv1"] == 11
    assert blocks["mid_block.attentions.0.proj_out"] == 12
    assert blocks["up_blocks.0.resnets.0.conv1"] == 13
    assert blocks["up_blocks.3.attentions.2.proj_out"] == 24
    assert {b for b in blocks.values() if b is not None} == set(range(1, 25))


def test_unet_spelling_agrees_with_diffusers_own_conversion(tiny: Parts) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    spelling = unet.Spelling(tiny.denoiser.config)
    original = {f"model.diffusion_model.{spelling.original(n)}": t for n, t in tiny.denoiser.state_dict().items()}
    back = convert_ldm_unet_checkpoint(original, config=dict(tiny.denoiser.config))
    assert back.keys() == tiny.denoiser.state_dict().keys()
    assert all(torch.equal(back[n], t) for n, t in tiny.denoiser.state_dict().items())


def test_vae_spelling_agrees_with_diffusers_own_conversion(tiny: Parts) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    own = tiny.vae.state_dict()
    original = {f"first_stage_model.{vae.original_name(n, 4)}": t for n, t in own.items()}
    back = convert_ldm_vae_checkpoint(original, config=dict(tiny.vae.config))
    assert back.keys() == own.keys()
    assert all(torch.equal(back[n].reshape(t.shape), t) for n, t in own.items())


def test_text_states_equal_diffusers_prompt_encoding(tiny: Parts) -> None:
    captions = ["a cat", LONG, ""]
    reference = sd1.pipeline(tiny).encode_prompt(captions, "cpu", 1, False)[0]
    assert torch.equal(sd1.encode_text(tiny, captions)["hidden_state"], reference)


@pytest.mark.parametrize("skip", [1, 2, 3])
def test_clip_skip_is_the_final_norm_of_that_hidden_state(tiny: Parts, skip: int) -> None:
    parts = replace(tiny, options=sd1.Options(clip_skip=skip))
    encoder = tiny.text_encoders[0]
    ids = tiny.tokenizers[0](["a cat"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    states = encoder(ids, output_hidden_states=True).hidden_states
    assert torch.equal(sd1.encode_text(parts, ["a cat"])["hidden_state"], encoder.final_layer_norm(states[-skip]))
    assert len(encoder.encoder.layers) == 3


def test_a_caption_of_225_tokens_is_three_chunks_joined_without_inner_ends(tiny: Parts) -> None:
    parts = replace(tiny, options=sd1.Options(max_token_length=225))
    tokenizer, encoder = tiny.tokenizers[0], tiny.text_encoders[0]
    flat = tokenizer(LONG, truncation=True, max_length=227, padding="max_length").input_ids
    chunks = [[flat[0], *flat[i : i + 75], flat[-1]] for i in (1, 76, 151)]
    states = encoder(torch.tensor(chunks)).last_hidden_state
    expected = torch.cat([states[0, :1], states[0, 1:76], states[1, 1:76], states[2, 1:76], states[2, -1:]])
    found = sd1.encode_text(parts, [LONG, "a cat"])["hidden_state"]
    assert found.shape == (2, 227, 32)
    assert torch.allclose(found[0], expected, atol=1e-6)


def test_an_empty_chunk_of_sd2_begins_with_the_end_token() -> None:
    tokenizer = clip.shipped_tokenizer("!")
    ids = clip.token_ids(tokenizer, ["a cat"], 150)[0]
    assert ids.shape == (2, 77)
    assert ids[0].tolist()[:5] == [49406, 320, 2368, 49407, 0]
    assert ids[1].tolist()[:3] == [49406, 49407, 0]
    long = clip.token_ids(tokenizer, ["cat " * 100], 150)[0]
    assert long[0, -1] == 49407 and long[0, -2] == 2368


def test_the_shipped_tokenizer_gives_clips_ids() -> None:
    tokenizer = clip.shipped_tokenizer()
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 49407


def test_emphasis_multiplies_the_states_of_its_words(tiny: Parts) -> None:
    parts = replace(tiny, options=sd1.Options(weighted_captions=True))
    plain = sd1.encode_text(tiny, ["ab cd"])["hidden_state"][0]
    heavy = sd1.encode_text(parts, ["ab (cd:1.5)"])["hidden_state"][0]
    factors = torch.tensor([1.0] * 3 + [1.5] * 2 + [1.0] * 72)
    assert torch.allclose(heavy, plain * factors[:, None], atol=1e-6)


def test_gradients_reach_the_layers_that_clip_skip_keeps(tiny: Parts) -> None:
    parts = replace(sd1.tiny(1), options=sd1.Options(clip_skip=2))
    parts.text_encoders[0].requires_grad_(True)
    sd1.encode_text(parts, ["a cat"])["hidden_state"].square().sum().backward()
    layers = parts.text_encoders[0].encoder.layers
    assert layers[1].mlp.fc1.weight.grad is not None and layers[2].mlp.fc1.weight.grad is None


@pytest.mark.parametrize("kind", ["safetensors", "ckpt", "legacy ckpt"])
def test_a_single_file_is_the_same_model_as_the_folder(
    tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tiny_layout(monkeypatch, tiny)
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.ckpt")
    if kind == "safetensors":
        save_file(helpers.ldm_tensors(tiny), path)
    else:
        torch.save(
            {"state_dict": helpers.ldm_tensors(tiny), "epoch": 3}, path, _use_new_zipfile_serialization=kind == "ckpt"
        )
    from_file = sd1.load(LoadRequest(str(path), sd1.Options()))
    from_folder = sd1.load(LoadRequest(str(helpers.save_folder(tiny, tmp_path / "folder")), sd1.Options()))
    for loaded in (from_file, from_folder):
        helpers.assert_same_weights(loaded.denoiser, tiny.denoiser)
        helpers.assert_same_weights(loaded.vae, tiny.vae)
        helpers.assert_same_weights(loaded.text_encoders[0], tiny.text_encoders[0])
    with torch.no_grad():
        states = [sd1.encode_text(p, ["a cat"])["hidden_state"] for p in (tiny, from_file, from_folder)]
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_weights_arrive_in_the_type_asked_for_and_frozen(
    single_file: Path, tiny: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_layout(monkeypatch, tiny)
    loaded = sd1.load(LoadRequest(str(single_file), sd1.Options(), dtype="bf16", vae_dtype="fp16"))
    assert {p.dtype for p in loaded.denoiser.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in loaded.vae.parameters()} == {torch.float16}
    assert not any(p.requires_grad for p in loaded.denoiser.parameters()) and not loaded.denoiser.training
    expected = {n: t.bfloat16() for n, t in tiny.denoiser.state_dict().items()}
    assert all(torch.equal(t, expected[n]) for n, t in loaded.denoiser.state_dict().items())


def test_loading_draws_no_random_numbers_and_leaves_the_file_replaceable(
    single_file: Path, tiny: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_layout(monkeypatch, tiny)
    before = torch.get_rng_state()
    loaded = sd1.load(LoadRequest(str(single_file), sd1.Options()))
    assert torch.equal(before, torch.get_rng_state())
    kept = {n: t.clone() for n, t in loaded.denoiser.state_dict().items()}
    content = single_file.read_bytes()
    single_file.write_bytes(b"\0" * len(content))
    assert all(torch.equal(t, kept[n]) for n, t in loaded.denoiser.state_dict().items())
    single_file.write_bytes(content)


def test_only_the_parts_asked_for_are_loaded(single_file: Path, tiny: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_layout(monkeypatch, tiny)
    loaded = sd1.load(LoadRequest(str(single_file), sd1.Options(), parts=frozenset({"text"})))
    assert loaded.denoiser is None and loaded.vae is None and len(loaded.text_encoders) == 1


@pytest.mark.parametrize("form", ["original file", "diffusers file", "folder", "model folder"])
def test_another_vae_replaces_the_models_own(
    single_file: Path, tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    tiny_layout(monkeypatch, tiny)
    monkeypatch.setattr(sd1, "layout", lambda: sd1.Layout(sd1._texts, sd1._configs, sd1._configs(None)))
    other = sd1.tiny(5)
    path = tmp_path / "vae.safetensors"
    if form == "original file":
        save_file({vae.original_name(n, 4): t for n, t in other.vae.state_dict().items()}, path)
    elif form == "diffusers file":
        save_file(other.vae.state_dict(), path)
    else:
        path = tmp_path / "vae"
        other.vae.save_pretrained(path if form == "folder" else path / "vae")
    loaded = sd1.load(LoadRequest(str(single_file), sd1.Options(), vae=str(path)))
    helpers.assert_same_weights(loaded.vae, other.vae)
    helpers.assert_same_weights(loaded.denoiser, tiny.denoiser)


def test_a_vae_folder_with_old_attention_names_loads(tiny: Parts, tmp_path: Path) -> None:
    tiny.vae.save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({vae.old_name(n): t for n, t in tiny.vae.state_dict().items()}, weights)
    assert "decoder.mid_block.attentions.0.query.weight" in weights.read_bytes()[:20000].decode("utf-8", "ignore")
    loaded = vae.load(tmp_path, {}, "fp32", "cpu")
    helpers.assert_same_weights(loaded, tiny.vae)


def test_a_checkpoint_with_code_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "boom.txt"
    path = helpers.malicious_checkpoint(tmp_path / "evil.ckpt", target)
    with pytest.raises(UserError, match="more than weights"):
        sd1.load(LoadRequest(str(path), sd1.Options()))
    assert not target.exists()


def test_a_file_without_vae_and_text_encoder_names_both(tiny: Parts, tmp_path: Path) -> None:
    save_file({n: t.contiguous() for n, t in tiny.denoiser.state_dict().items()}, tmp_path / "unet.safetensors")
    with pytest.raises(UserError) as error:
        sd1.load(LoadRequest(str(tmp_path / "unet.safetensors"), sd1.Options()))
    assert "VAE" in str(error.value) and "text encoder" in str(error.value)


def test_missing_tensors_are_counted_and_named(
    single_file: Path, tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_layout(monkeypatch, tiny)
    tensors = helpers.ldm_tensors(tiny)
    del tensors["model.diffusion_model.out.2.weight"]
    save_file(tensors, tmp_path / "holes.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 of \d+ tensors of the U-Net \(the first: conv_out.weight\)"):
        sd1.load(LoadRequest(str(tmp_path / "holes.safetensors"), sd1.Options()))


def test_sd2_text_encoder_reads_openclips_spelling() -> None:
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    from library.util.header import Header, Place

    config = CLIPTextConfig(
        **{
            **source.asset("sd2.json")["text_encoder"],
            "hidden_size": 1024,
            "num_hidden_layers": 23,
            "intermediate_size": 4,
            "vocab_size": 10,
        }
    )
    names = {
        "token_embedding.weight": (10, 1024),
        "positional_embedding": (77, 1024),
        "ln_final.weight": (1024,),
        "ln_final.bias": (1024,),
        "text_projection": (1024, 1024),
    }
    for i in range(24):
        block = f"transformer.resblocks.{i}"
        names |= {f"{block}.attn.in_proj_weight": (3072, 1024), f"{block}.attn.in_proj_bias": (3072,)}
        for part, shape in {"attn.out_proj": (1024, 1024), "mlp.c_fc": (4, 1024), "mlp.c_proj": (1024, 4)}.items():
            names |= {f"{block}.{part}.weight": shape, f"{block}.{part}.bias": shape[:1]}
        for part in ("ln_1", "ln_2"):
            names |= {f"{block}.{part}.weight": (1024,), f"{block}.{part}.bias": (1024,)}
    prefix = "cond_stage_model.model."
    places = {prefix + n: Place(Path(n), 0, s, "F32") for n, s in names.items()}
    found = clip.open_clip_places(Header({}, places=places), prefix, config.num_hidden_layers)
    with torch.device("meta"):
        model = CLIPTextModel(config)
        converted = convert_open_clip_checkpoint(
            model, {prefix + n: torch.empty(s) for n, s in names.items()}, prefix=prefix
        )
    wanted = {clip.canonical(n) for n in model.state_dict()}
    assert wanted <= found.keys()
    assert {n: found[n].shape for n in wanted} == {n: tuple(converted[n].shape) for n in wanted}


@pytest.mark.parametrize(
    ("options", "version", "architecture"),
    [
        (sd1.Options(), "sd_v1", "stable-diffusion-v1"),
        (sd1.Options(v2=True), "sd_v2", "stable-diffusion-v2-512"),
        (sd1.Options(v2=True, v_parameterization=True), "sd_v2_v", "stable-diffusion-v2-768-v"),
    ],
)
def test_versions_are_written_as_kohya_writes_them(options: sd1.Options, version: str, architecture: str) -> None:
    assert (sd1.base_version(options), sd1.architecture(options)) == (version, architecture)
