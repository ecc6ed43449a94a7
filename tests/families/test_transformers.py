"""Families of one transformer against their references: diffusers' conversion, pipelines, loaders and kohya's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import family_helpers as helpers
import pytest
import torch
from diffusers.loaders import single_file_utils as converters
from safetensors.torch import load_file, save_file

from library.diffusion.schedule import Noised
from library.families import answers, assemble, detect, flux2_vae, native, qwenimage, registry, source
from library.families.interface import Family, LoadRequest, Parts
from library.util.records import UserError
from networks import keys

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "lora_names.json").read_text(encoding="utf-8"))
WAN = ("wan", "wan5b")
NEW = ("zimage", "lumina2", "chroma", "qwenimage", "flux2", "hunyuanimage", "anima", "wan", "wan5b", "auraflow")
CLASSES = {"zimage": diffusers.ZImageTransformer2DModel, "lumina2": diffusers.Lumina2Transformer2DModel,
           "chroma": diffusers.ChromaTransformer2DModel, "qwenimage": diffusers.QwenImageTransformer2DModel,
           "flux2": diffusers.Flux2Transformer2DModel, "hunyuanimage": diffusers.HunyuanImageTransformer2DModel,
           "anima": diffusers.CosmosTransformer3DModel, "wan": diffusers.WanTransformer3DModel,
           "wan5b": diffusers.WanTransformer3DModel,
           "auraflow": diffusers.AuraFlowTransformer2DModel}  # fmt: skip
SHALLOW: dict[str, dict[str, int]] = {
    "zimage": {"n_layers": 2}, "lumina2": {"num_layers": 2}, "qwenimage": {"num_layers": 2},
    "chroma": {"num_layers": 2, "num_single_layers": 2, "approximator_layers": 2},
    "flux2": {"num_layers": 2, "num_single_layers": 2}, "hunyuanimage": {"num_layers": 2, "num_single_layers": 2},
    "anima": {"num_layers": 2}, "wan": {"num_layers": 2}, "wan5b": {"num_layers": 2},
    "auraflow": {"num_mmdit_layers": 2, "num_single_dit_layers": 2},
}  # fmt: skip
CONVERT = {"zimage": converters.convert_z_image_transformer_checkpoint_to_diffusers,
           "lumina2": converters.convert_lumina2_to_diffusers,
           "chroma": converters.convert_chroma_transformer_checkpoint_to_diffusers,
           "flux2": converters.convert_flux2_transformer_checkpoint_to_diffusers,
           "wan": converters.convert_wan_transformer_to_diffusers,
           "wan5b": converters.convert_wan_transformer_to_diffusers,
           "anima": converters.convert_cosmos_transformer_checkpoint_to_diffusers,
           "auraflow": converters.convert_auraflow_transformer_checkpoint_to_diffusers}  # fmt: skip
CAPTION = "a red fox in the snow beside a frozen lake, seen from far above, early light"


@pytest.fixture(scope="module", params=NEW)
def family(request: pytest.FixtureRequest) -> Family:
    return registry.get(request.param)


@pytest.fixture(scope="module")
def tiny(family: Family) -> Parts:
    return family.tiny(0)


def full_width(name: str, depth: dict[str, int] | None = None) -> Any:
    """A transformer of the released size without memory, perhaps with fewer blocks."""
    config = source.asset(f"{name}.json")["transformer"] | (SHALLOW[name] if depth is None else depth)
    with torch.device("meta"):
        return CLASSES[name](**config)


@pytest.mark.parametrize("name", sorted(CONVERT))
def test_full_width_spelling_agrees_with_diffusers_own_conversion(name: str) -> None:
    model = full_width(name)
    own, table = model.state_dict(), registry.get(name).native_modules(model.config)
    heights: dict[str, int] = {}
    for tensor_name, tensor in own.items():
        spot, original = native.find(table, tensor_name)
        heights[original] = max(heights.get(original, 0), (spot.rows or (0, 0))[0] + tensor.shape[0])
    marks = {n: (1000 * i + torch.arange(h, dtype=torch.float64) / h) for i, (n, h) in enumerate(heights.items())}
    converted = CONVERT[name](dict(marks))
    assert converted.keys() == own.keys()
    for tensor_name in own:
        spot, original = native.find(table, tensor_name)
        mark = marks[original]
        whole = torch.cat(mark.chunk(2)[::-1]) if spot.swapped else mark
        assert torch.equal(converted[tensor_name], whole[spot.rows[0] : sum(spot.rows)] if spot.rows else whole), tensor_name


FLOW = [spec.name for spec in registry.specs() if spec.target_space == "flow"]
WITHOUT_GUIDANCE: dict[str, dict[str, Any]] = {
    "zimage": {"guidance_scale": 0.0}, "lumina2": {"guidance_scale": 1.0, "system_prompt": "Draw."},
    "sd3": {"guidance_scale": 1.0, "max_sequence_length": 32},
    "chroma": {"guidance_scale": 1.0, "max_sequence_length": 64}, "flux1": {"guidance_scale": 3.5, "max_sequence_length": 32},
    "flux2": {"guidance_scale": 1.0}, "auraflow": {"guidance_scale": 1.0},
}  # fmt: skip


def diffusers_pipeline(name: str, parts: Parts) -> Any:
    """diffusers' pipeline of a family; where sampling does without one, that which the weights were made for."""
    if name == "lumina2":  # the family's own reads prompts as training does
        return answers.pipeline("Lumina2Pipeline")(parts)
    if name not in WAN:
        return registry.get(name).pipeline(parts)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    return diffusers.WanPipeline(tokenizer=parts.tokenizers[0], text_encoder=parts.text_encoders[0], vae=parts.vae,
                                 scheduler=scheduler, transformer=parts.denoiser, expand_timesteps=name == "wan5b")  # fmt: skip


@pytest.mark.parametrize("name", [name for name in FLOW if name != "anima"])
def test_one_euler_step_of_diffusers_pipeline_follows_the_prediction(name: str) -> None:
    family = registry.get(name)
    parts = family.tiny(0)
    parts.scheduler_config = {k: v for k, v in parts.scheduler_config.items() if k != "shift_terminal"}
    if name == "lumina2":
        parts.options = family.Options(system_prompt="Draw.")
    side = 64 // family.SPEC.vae_factor
    pipe, noise = diffusers_pipeline(name, parts), torch.randn(1, family.SPEC.latent_channels, side, side)
    pipe.set_progress_bar_config(disable=True)
    # 64 tokens and more, so that no model sees padding: diffusers' Chroma adds its mask to the scores.
    arguments = {"sigmas": [0.7], **WITHOUT_GUIDANCE.get(name, {})}
    if name in WAN:
        arguments = {"num_frames": 1, "guidance_scale": 1.0}
    into, back = layout(name, pipe, parts, side)
    made = pipe(prompt=CAPTION, height=64, width=64, latents=into(noise), output_type="latent", num_inference_steps=1, **arguments)
    moved, sigma = back(made[0]), float(pipe.scheduler.sigmas[0])
    with torch.no_grad():
        cond = family.encode_text(parts, [CAPTION])
        velocity = family.predict(parts, Noised(noise, noise, torch.tensor([1000 * sigma])), cond)
    assert torch.allclose(moved, noise - sigma * velocity, atol=1e-4)


def layout(name: str, pipe: Any, parts: Parts, side: int) -> tuple[Any, Any]:
    """Our 4-D latents to what a pipeline takes, and what it gives back to ours."""
    if name in WAN:
        return (lambda x: x[:, :, None]), (lambda x: x[:, :, 0])
    if name == "flux2":  # it gives what its VAE decodes
        return (lambda x: x), (lambda x: flux2_vae.normalise(parts.vae, flux2_vae.gathered(x)))
    if "_pack_latents" in dir(pipe):
        return (lambda x: pipe._pack_latents(x, 1, x.shape[1], side, side)), (lambda x: helpers.unpacked(x, (side, side)))
    return (lambda x: x), (lambda x: x)


def encoded(pipe: Any, captions: list[str], **more: Any) -> Any:
    return pipe.encode_prompt(captions, device="cpu", **more)


PLAIN = {"do_classifier_free_guidance": False}
REFERENCES: dict[str, Any] = {
    "zimage": lambda pipe, texts: [("text", one) for one in [encoded(pipe, list(texts), **PLAIN)[0]]],
    "lumina2": lambda pipe, texts: [("hidden_state", pipe._get_gemma_prompt_embeds(texts, "cpu")[0])],
    "qwenimage": lambda pipe, texts: [("text", encoded(pipe, texts)[0])],
    "chroma": lambda pipe, texts: [("t5_out", encoded(pipe, texts, max_sequence_length=64, **PLAIN)[0])],
    "flux2": lambda pipe, texts: [("text", encoded(pipe, texts)[0])],
    "hunyuanimage": lambda pipe, texts: list(zip(("vlm_embed", "vlm_mask", "byt5_embed", "byt5_mask"),
                                                 encoded(pipe, texts, batch_size=2), strict=True)),
    **dict.fromkeys(WAN, lambda pipe, texts: [("text", encoded(pipe, texts, max_sequence_length=512, **PLAIN)[0])]),
    "auraflow": lambda pipe, texts: [("text", encoded(pipe, texts, **PLAIN)[0])],
}  # fmt: skip
"""Family -> (its name of a tensor of the conditioning, diffusers' tensor or a list of one for each caption)."""
MASKS = {"text": "text_mask", "hidden_state": "attention_mask", "vlm_embed": "vlm_mask"}


@pytest.mark.parametrize("name", REFERENCES)
def test_text_states_equal_diffusers_prompt_encoding(name: str) -> None:
    family = registry.get(name)
    parts, captions = family.tiny(0), ["a cat", 'a much longer text about two dogs and "a sign" they hold']
    pipe, found = diffusers_pipeline(name, parts), family.encode_text(parts, captions)
    for key, theirs in REFERENCES[name](pipe, captions):
        for i, mine in enumerate(found[key]):
            length = min(len(mine), len(theirs[i]))  # one pads to the longest, the other to the model's length
            mask = found[MASKS[key]][i].bool() if MASKS.get(key) in found else torch.ones(len(mine), dtype=torch.bool)
            assert torch.allclose(mine[:length][mask[:length]].float(), theirs[i][:length][mask[:length]].float(), atol=1e-5)
            assert not mine[~mask].any() and not mine[length:].any()


@pytest.mark.parametrize("system", ["", "Draw."])
def test_luminas_sample_pictures_read_prompts_as_training_does(system: str) -> None:
    family = registry.get("lumina2")
    parts = family.tiny(0)
    parts.options = family.Options(system_prompt=system)
    mine = family.pipeline(parts).encode_prompt("a cat", negative_prompt="blurry")
    asked = [f"{system} <Prompt Start> a cat" if system else "a cat", "blurry"]
    theirs = diffusers_pipeline("lumina2", parts)._get_gemma_prompt_embeds(asked, "cpu")[0]
    for states, reference in ((mine[0][0], theirs[0]), (mine[2][0], theirs[1])):
        assert torch.allclose(states, reference[: len(states)], atol=1e-5)
    assert mine[1].all() and mine[3].all()


def test_animas_text_states_equal_those_of_diffusers_blocks() -> None:
    from types import SimpleNamespace

    from diffusers.modular_pipelines.anima.encoders import AnimaTextEncoderStep

    anima = registry.get("anima")
    parts, captions = anima.tiny(0), ["a cat", "a much longer text about two dogs"]
    components = SimpleNamespace(tokenizer=parts.tokenizers[0], t5_tokenizer=parts.tokenizers[1],
                                 text_encoder=parts.text_encoders[0])  # fmt: skip
    theirs = AnimaTextEncoderStep.encode_prompt(components, captions, None, False, device="cpu", dtype=torch.float32)
    found = anima.encode_text(parts, captions)
    for mine, name in (("prompt_embeds", "qwen_prompt_embeds"), ("attn_mask", "qwen_attention_mask"),
                       ("t5_input_ids", "t5_input_ids"), ("t5_attn_mask", "t5_attention_mask")):  # fmt: skip
        assert torch.allclose(found[mine].float(), theirs[name].float(), atol=1e-5)


def save_parts(family: Family, parts: Parts, folder: Path, prefix: str) -> tuple[dict[str, str], str]:
    """Files of a tiny model as people have them: transformer in the original spelling, text encoders, VAE.

    Returns the options that name the text encoders' files, and the VAE's file.
    """
    tensors = helpers.native_tensors(parts.denoiser, family.RECIPE.transformer.table(parts.denoiser))
    save_file({prefix + n: t for n, t in tensors.items()}, folder / "model.safetensors")
    options = {}
    for number, (text, model) in enumerate(zip(family.RECIPE.texts, parts.text_encoders, strict=True)):
        states = {n: t.contiguous() for n, t in model.state_dict().items() if n != "encoder.embed_tokens.weight"}
        if not any(n.startswith("encoder.") for n in states):
            states = {f"model.{n}": t for n, t in states.items()} | {"lm_head.weight": torch.ones(1)}
        options[text.option] = str(folder / f"text{number}.safetensors")
        save_file(states, options[text.option])
    save_file({n: t.contiguous() for n, t in parts.vae.state_dict().items()}, folder / "vae.safetensors")
    return options, str(folder / "vae.safetensors")


def cut_in_two(file: Path) -> Path:
    """The same tensors in two pieces with the hub's names; gives the first one."""
    tensors = load_file(file)
    first, second = (file.with_name(f"{file.stem}-0000{n}-of-00002.safetensors") for n in (1, 2))
    names = sorted(tensors)
    save_file({n: tensors[n] for n in names[::2]}, first)
    save_file({n: tensors[n] for n in names[1::2]}, second)
    file.unlink()
    return first


@pytest.mark.parametrize("kind", ["folder", "files", "files in a package", "files in pieces"])
def test_every_packaging_is_the_same_model(family: Family, tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           kind: str) -> None:  # fmt: skip
    name = family.SPEC.name
    place, options, vae_file = tmp_path / "model.safetensors", {}, None
    if kind == "folder":
        place = helpers.save_folder(tiny, tmp_path / "m", "APipeline", "transformer")
    else:
        options, vae_file = save_parts(family, tiny, tmp_path, "model.diffusion_model." if "package" in kind else "")
        if "pieces" in kind:
            place, options = cut_in_two(place), {name: str(cut_in_two(Path(file))) for name, file in options.items()}
        configs = {p: e.get("config") for p, e in source.asset(f"tiny/{name}.json")["components"].items()}
        configs["vae"]["_class_name"] = type(tiny.vae).__name__
        monkeypatch.setattr(source, "asset", lambda file: configs)
        sizes = {"sizes": lambda header: {}} if name in WAN else {}  # it counts heads of 128, which tiny ones are not
        monkeypatch.setattr(family, "RECIPE", helpers.tiny_recipe(family.RECIPE, tiny, **sizes))
        if name == "anima":
            monkeypatch.setattr(family, "t5_tokenizer", lambda path, options: tiny.tokenizers[1])
    found = detect.identify(str(place))
    assert found.family == name
    loaded = family.load(LoadRequest(str(place), family.Options(**options), vae=vae_file))
    for a, b in zip([loaded.denoiser, loaded.vae, *loaded.text_encoders], [tiny.denoiser, tiny.vae, *tiny.text_encoders],
                    strict=True):  # fmt: skip
        helpers.assert_same_weights(a, b)
    before, after = (family.encode_text(p, ["a cat"]) for p in (tiny, Parts(None, None, loaded.text_encoders, loaded.tokenizers,
                                                                            tiny.options)))  # fmt: skip
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_transformer_alone_names_every_file_that_must_be_given_too(family: Family, tiny: Parts, tmp_path: Path) -> None:
    save_file({n: t.contiguous() for n, t in tiny.denoiser.state_dict().items()}, tmp_path / "m.safetensors")
    with pytest.raises(UserError) as error:
        family.load(LoadRequest(str(tmp_path / "m.safetensors"), family.Options()))
    assert all(text.flag in str(error.value) for text in family.RECIPE.texts) and family.RECIPE.vae_flag() in str(error.value)


def test_shipped_constants_of_the_qwen_vae_are_those_of_diffusers() -> None:
    with torch.device("meta"):
        released = diffusers.AutoencoderKLQwenImage().config
    config = source.asset("qwenimage.json")["vae"]
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in released.items() if k in config and k[0] != "_"} == {
        k: v for k, v in config.items() if k[0] != "_"
    }


def test_the_qwen_vae_is_read_in_its_original_spelling_too() -> None:
    from library.families import video_vae
    from library.util.header import Header

    with torch.device("meta"):
        names = list(diffusers.AutoencoderKLQwenImage().state_dict())
    original = {n: helpers.wan_vae_name(n) for n in names}
    header = Header(dict.fromkeys(original.values(), (1, 1, 1, 1, 1)), places={n: n for n in original.values()})
    assert video_vae.is_vae(header)
    assert video_vae.places(header, names) == original


def test_wan_22s_vae_is_read_in_its_original_spelling_too() -> None:
    from library.families import video_vae
    from library.util.header import Header

    config = source.asset("wan5b.json")["vae"]
    with torch.device("meta"):
        names = list(diffusers.AutoencoderKLWan.from_config(config).state_dict())
    depth = {"en": config["num_res_blocks"], "de": config["num_res_blocks"] + 1}
    original = {n: helpers.wan_vae_name(helpers.wan_stage_name(n, depth)) for n in names}
    assert {"encoder.downsamples.0.downsamples.0.residual.2.weight", "encoder.downsamples.1.downsamples.2.time_conv.weight",
            "encoder.downsamples.0.downsamples.2.resample.1.weight", "encoder.downsamples.1.downsamples.0.shortcut.weight",
            "decoder.upsamples.1.upsamples.2.residual.6.bias", "decoder.upsamples.0.upsamples.3.time_conv.weight",
            "decoder.middle.2.residual.3.gamma", "decoder.head.0.gamma", "conv2.bias"} <= set(original.values())  # fmt: skip
    header = Header(dict.fromkeys(original.values(), (1, 1, 1, 1, 1)), places={n: n for n in original.values()})
    assert video_vae.is_vae(header)
    assert video_vae.places(header, names) == original


def targets_of(name: str) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Targets of a shallow transformer of the released width, and an adapter of rank 1 on all of them."""
    family = registry.get(name)
    parts = Parts(full_width(name), None, [], [], family.Options())
    targets, tensors = family.adapter_targets(parts), {}
    for target in targets:
        rows, columns = target.module.weight.shape
        tensors[f"{target.name}.lora_down.weight"] = torch.rand(1, columns)
        tensors[f"{target.name}.lora_up.weight"] = torch.rand(rows, 1)
        tensors[f"{target.name}.alpha"] = torch.tensor(1.0)
    return targets, tensors


READERS = {"zimage": diffusers.ZImagePipeline, "chroma": diffusers.ChromaPipeline, "lumina2": diffusers.Lumina2Pipeline,
           "qwenimage": diffusers.QwenImagePipeline, "flux2": diffusers.Flux2KleinPipeline, "wan": diffusers.WanPipeline,
           "wan5b": diffusers.WanPipeline,
           "anima": diffusers.AnimaModularPipeline, "auraflow": diffusers.AuraFlowPipeline}  # fmt: skip


@pytest.mark.parametrize(("name", "fmt"), [(n, f) for n in READERS for f, programs in registry.get(n).SPEC.loads_in.items()
                                           if "diffusers" in programs])  # fmt: skip
def test_diffusers_reads_every_module_of_the_formats_that_the_spec_says_it_loads(name: str, fmt: Any) -> None:
    targets, tensors = targets_of(name)
    written = keys.from_kohya(tensors, fmt, keys.Names.of(targets))
    read = READERS[name].lora_state_dict(dict(written))
    for target in targets:
        down, up = (read[f"transformer.{target.path}.lora_{letter}.weight"] for letter in "AB")
        own = tensors[f"{target.name}.lora_up.weight"][:4] @ tensors[f"{target.name}.lora_down.weight"]
        assert torch.allclose(up[:4] @ down, own, atol=1e-5), target.path
    assert sum(n.endswith(".lora_B.weight") for n in read) == len(targets)


def test_lumina_files_have_kohyas_362_modules_with_their_widths() -> None:
    import transformers

    lumina = registry.get("lumina2")
    model = full_width("lumina2", {})
    with torch.device("meta"):
        text = transformers.Gemma2Model(transformers.Gemma2Config(**source.asset("lumina2.json")["text_encoder"]))
    targets = lumina.adapter_targets(Parts(model, None, [text], [], lumina.Options()))
    tensors = {}
    for target in targets:
        rows, columns = target.module.weight.shape
        tensors[f"{target.name}.lora_down.weight"] = torch.empty(1, columns, dtype=torch.int8)
        tensors[f"{target.name}.lora_up.weight"] = torch.empty(rows, 1, dtype=torch.int8)
    written = keys.group(keys.from_kohya(tensors, "kohya", keys.Names.of(targets)))
    assert list(written) == [name for name, _, _ in GOLDEN["lumina2 lora"]]
    for name, down, up in GOLDEN["lumina2 lora"]:
        assert written[name]["lora_down.weight"].shape[1] == down[1] and written[name]["lora_up.weight"].shape[0] == up[0]


@pytest.mark.parametrize(("name", "count"), [("anima", 476), ("hunyuanimage", 320)])
def test_files_have_kohyas_modules_with_their_widths(name: str, count: int) -> None:
    import transformers

    family, config = registry.get(name), source.asset(f"{name}.json")
    text = []
    if family.SPEC.text_slots[0].trainable:
        with torch.device("meta"):
            text = [transformers.Qwen3Model(transformers.Qwen3Config(**config["text_encoder"]))]
    targets = family.adapter_targets(Parts(full_width(name, {}), None, text, [], family.Options()))
    tensors = {}
    for target in targets:
        rows, columns = target.module.weight.shape
        tensors[f"{target.name}.lora_down.weight"] = torch.empty(1, columns, dtype=torch.int8)
        tensors[f"{target.name}.lora_up.weight"] = torch.empty(rows, 1, dtype=torch.int8)
    written = keys.group(keys.from_kohya(tensors, "kohya", keys.Names.of(targets)))
    golden = GOLDEN[f"{name} lora"]
    assert len(golden) == count and list(written) == [stem for stem, _, _ in golden]
    for stem, down, up in golden:
        assert written[stem]["lora_down.weight"].shape[1] == down[1] and written[stem]["lora_up.weight"].shape[0] == up[0]


def test_the_hunyuan_vae_is_read_in_its_original_spelling_too() -> None:
    from library.families import hunyuan_vae

    with torch.device("meta"):
        names = list(diffusers.AutoencoderKLHunyuanImage(**{k: v for k, v in source.asset("hunyuanimage.json")["vae"].items()
                                                            if k[0] != "_"}).state_dict())
    original = [hunyuan_vae.original_name(n, 2) for n in names]
    assert len(set(original)) == len(names)
    for name in ("encoder.down.0.block.1.conv2", "encoder.down.4.downsample.conv", "encoder.down.5.block.1.norm1",
                 "encoder.mid.attn_1.q", "decoder.mid.block_2.conv1", "decoder.up.0.block.2.conv1", "decoder.up.4.upsample.conv",
                 "decoder.up.5.block.2.conv2", "decoder.norm_out"):  # fmt: skip
        assert f"{name}.weight" in original, name


def test_wans_own_text_encoder_file_has_every_tensor() -> None:
    import transformers

    from library.families import t5

    parts = registry.get("wan").tiny(0)
    names = [n for n in parts.text_encoders[0].state_dict() if n != "encoder.embed_tokens.weight"]
    original = {t5.wan_name(n) for n in names}
    assert len(original) == len(names) and isinstance(parts.text_encoders[0], transformers.UMT5EncoderModel)
    assert {"token_embedding.weight", "blocks.0.attn.q.weight", "blocks.1.ffn.gate.0.weight", "norm.weight",
            "blocks.1.pos_embedding.embedding.weight", "blocks.0.norm2.weight"} <= original


def test_of_a_folder_with_two_wan_transformers_the_one_asked_for_trains_on_its_own_side(tmp_path: Path) -> None:
    from library.config.run_config import NoiseConfig

    wan = registry.get("wan")
    high, low = wan.tiny(0), wan.tiny(1)
    place = helpers.save_folder(high, tmp_path / "m", "WanPipeline", "transformer")
    low.denoiser.save_pretrained(place / "transformer_2")
    index = json.loads((place / "model_index.json").read_text(encoding="utf-8"))
    index |= {"transformer_2": index["transformer"]}
    (place / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    found = detect.identify(str(place)).hints
    assert found == {"expert": "high_noise"}
    cases = (found, high, (875, 1000)), ({"expert": "low_noise"}, low, (0, 875)), ({}, high, (0, 1000))
    for options, model, (first, last) in cases:
        request = LoadRequest(str(place), wan.Options(**options), parts=frozenset({"denoiser"}))
        helpers.assert_same_weights(wan.load(request).denoiser, model.denoiser)
        schedule = wan.schedule(request.options, NoiseConfig())
        assert (schedule.first, schedule.last) == (first, last)
    typed = wan.schedule(wan.Options(expert="low_noise"), NoiseConfig(max_timestep=600))
    assert (typed.first, typed.last) == (0, 600)


def test_flux2_devs_captions_are_read_by_mistral_with_its_instruction() -> None:
    from transformers import MistralConfig, MistralModel

    flux2, seen = registry.get("flux2"), []
    model = MistralModel(MistralConfig(vocab_size=600, hidden_size=16, intermediate_size=32, num_hidden_layers=40,
                                       num_attention_heads=2, num_key_value_heads=1, head_dim=8)).eval()
    words = flux2.tiny(0).tokenizers[0]
    parts = Parts(None, None, [model], [lambda texts, **more: seen.extend(texts) or words(texts, **more)], flux2.Options())
    with torch.no_grad():
        found = flux2.encode_text(parts, ["a cat"])["text"]
        made = words(seen, padding="max_length", max_length=512, add_special_tokens=False, return_tensors="pt")
        states = model(**made, output_hidden_states=True).hidden_states
    assert seen[0].endswith("[/SYSTEM_PROMPT][INST]a cat[/INST]") and "object attribution" not in seen[0]
    assert torch.allclose(found, torch.cat([states[i] for i in (10, 20, 30)], -1), atol=1e-6)


def test_blocks_are_counted_whatever_stands_in_front_of_their_names() -> None:
    from library.util.header import Header

    header = Header({f"model.diffusion_model.layers.{i}.a": (1,) for i in range(3)} | {"noise_refiner.0.a": (1,)})
    assert assemble.block_count(header, "layers") == 3 and assemble.block_count(header, "noise_refiner") == 1
    assert qwenimage.INSTRUCTION_TOKENS == 34


@pytest.mark.parametrize(("script", "fits"), [("flux_train_network.py", True), ("chroma_train_network.py", True),
                                              ("sd3_train_network.py", False)])  # fmt: skip
def test_only_a_script_that_is_not_the_models_own_is_told_of_the_right_one(script: str, fits: bool, tmp_path: Path) -> None:
    from library.preflight.machine import Machine
    from library.preflight.model_files import check_script
    from library.preflight.registry import Context

    chroma = registry.get("chroma")
    save_file({n: t.contiguous() for n, t in chroma.tiny(0).denoiser.state_dict().items()}, tmp_path / "m.safetensors")
    flags = {"pretrained_model_name_or_path": str(tmp_path / "m.safetensors")}
    assert (not list(check_script(Context(flags=flags, machine=Machine.read(), script=script)))) == fits


@pytest.mark.parametrize("name", FLOW)
def test_bfloat16_weights_predict_much_the_same(name: str) -> None:
    family = registry.get(name)
    parts = family.tiny(0)
    noise = torch.randn(2, family.SPEC.latent_channels, 8, 8)
    noised, cond = Noised(noise, noise, torch.tensor([300.0, 700.0])), family.encode_text(parts, ["a cat", CAPTION])
    with torch.no_grad():
        exact = family.predict(parts, noised, cond)
        parts.denoiser.to(torch.bfloat16)
        rough = family.predict(parts, noised, cond)
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.float().flatten(), 0) > 0.99
