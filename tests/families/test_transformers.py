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
from safetensors.torch import save_file

from library.diffusion.schedule import Noised
from library.families import assemble, detect, native, qwenimage, registry, source
from library.families.interface import Family, LoadRequest, Parts
from library.util.records import UserError
from networks import keys

GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "lora_names.json").read_text(encoding="utf-8"))
NEW = ("zimage", "lumina2", "chroma", "qwenimage")
CLASSES = {"zimage": diffusers.ZImageTransformer2DModel, "lumina2": diffusers.Lumina2Transformer2DModel,
           "chroma": diffusers.ChromaTransformer2DModel, "qwenimage": diffusers.QwenImageTransformer2DModel}  # fmt: skip
SHALLOW: dict[str, dict[str, int]] = {
    "zimage": {"n_layers": 2}, "lumina2": {"num_layers": 2}, "qwenimage": {"num_layers": 2},
    "chroma": {"num_layers": 2, "num_single_layers": 2, "approximator_layers": 2},
}  # fmt: skip
CONVERT = {"zimage": converters.convert_z_image_transformer_checkpoint_to_diffusers,
           "lumina2": converters.convert_lumina2_to_diffusers,
           "chroma": converters.convert_chroma_transformer_checkpoint_to_diffusers}  # fmt: skip
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
        assert torch.equal(converted[tensor_name], mark[spot.rows[0] : sum(spot.rows)] if spot.rows else mark), tensor_name


FLOW = [spec.name for spec in registry.specs() if spec.target_space == "flow"]
WITHOUT_GUIDANCE: dict[str, dict[str, Any]] = {
    "zimage": {"guidance_scale": 0.0}, "lumina2": {"guidance_scale": 1.0, "system_prompt": "Draw."},
    "sd3": {"guidance_scale": 1.0, "max_sequence_length": 32},
    "chroma": {"guidance_scale": 1.0, "max_sequence_length": 64}, "flux1": {"guidance_scale": 3.5, "max_sequence_length": 32},
}  # fmt: skip


@pytest.mark.parametrize("name", FLOW)
def test_one_euler_step_of_diffusers_pipeline_follows_the_prediction(name: str) -> None:
    family = registry.get(name)
    parts = family.tiny(0)
    parts.scheduler_config = {k: v for k, v in parts.scheduler_config.items() if k != "shift_terminal"}
    if name == "lumina2":
        parts.options = family.Options(system_prompt="Draw.")
    pipe, noise = family.pipeline(parts), torch.randn(1, family.SPEC.latent_channels, 8, 8)
    pipe.set_progress_bar_config(disable=True)
    # 64 tokens and more, so that no model sees padding: diffusers' Chroma adds its mask to the scores.
    arguments = {"sigmas": [0.7], **WITHOUT_GUIDANCE.get(name, {})}
    given = noise if name in ("zimage", "lumina2", "sd3") else pipe._pack_latents(noise, 1, noise.shape[1], 8, 8)
    moved = pipe(CAPTION, height=64, width=64, latents=given, output_type="latent", num_inference_steps=1, **arguments).images
    if given is not noise:
        moved = helpers.unpacked(moved, (8, 8))
    sigma = float(pipe.scheduler.sigmas[0])
    with torch.no_grad():
        cond = family.encode_text(parts, [CAPTION])
        velocity = family.predict(parts, Noised(noise, noise, torch.tensor([1000 * sigma])), cond)
    assert torch.allclose(moved, noise - sigma * velocity, atol=1e-4)


def test_text_states_equal_diffusers_prompt_encoding(family: Family, tiny: Parts) -> None:
    captions = ["a cat", "a much longer text about two dogs"]
    pipe, found = family.pipeline(tiny), family.encode_text(tiny, captions)
    if family is registry.get("zimage"):
        expected = pipe.encode_prompt(list(captions), "cpu", do_classifier_free_guidance=False)[0]
    elif family is registry.get("lumina2"):
        states, _ = pipe._get_gemma_prompt_embeds(captions, "cpu")
        expected = [s[:n] for s, n in zip(states, found["text_mask"].sum(1), strict=True)]
    elif family is registry.get("qwenimage"):
        states, mask = pipe.encode_prompt(captions, "cpu")
        expected = [s[m.bool()] for s, m in zip(states, mask, strict=True)]
    else:
        states = pipe.encode_prompt(captions, device="cpu", do_classifier_free_guidance=False, max_sequence_length=64)[0]
        assert torch.allclose(found["t5_out"], states, atol=1e-5)
        return
    for mine, mask, theirs in zip(found["text"], found["text_mask"].bool(), expected, strict=True):
        assert torch.allclose(mine[mask], theirs, atol=1e-5)
        assert not mine[~mask].any()


@pytest.mark.parametrize("kind", ["folder", "files", "files in a package"])
def test_every_packaging_is_the_same_model(family: Family, tiny: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                           kind: str) -> None:  # fmt: skip
    name = family.SPEC.name
    text_option = next(o for o in ("qwen3", "gemma2", "t5xxl", "qwen_vl") if o in family.Options.__dataclass_fields__)
    place, options, vae_file = tmp_path / "model.safetensors", {}, None
    if kind == "folder":
        place = helpers.save_folder(tiny, tmp_path / "m", "APipeline", "transformer")
    else:
        prefix = "model.diffusion_model." if "package" in kind else ""
        table = family.TRANSFORMER.table(tiny.denoiser)
        save_file({prefix + n: t for n, t in helpers.native_tensors(tiny.denoiser, table).items()}, place)
        text = {n: t for n, t in tiny.text_encoders[0].state_dict().items() if n != "encoder.embed_tokens.weight"}
        front = "" if name == "chroma" else "model."
        text = {front + n: t.contiguous() for n, t in text.items()} | {"lm_head.weight": torch.ones(1)}
        save_file(text, tmp_path / "text.safetensors")
        save_file({n: t.contiguous() for n, t in tiny.vae.state_dict().items()}, tmp_path / "vae.safetensors")
        options, vae_file = {text_option: str(tmp_path / "text.safetensors")}, str(tmp_path / "vae.safetensors")
        configs = {p: e.get("config") for p, e in source.asset(f"tiny/{name}.json")["components"].items()}
        configs["vae"]["_class_name"] = type(tiny.vae).__name__
        monkeypatch.setattr(source, "asset", lambda file: configs)
        monkeypatch.setattr(family, "RECIPE", helpers.tiny_recipe(family.RECIPE, tiny))
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
    assert family.RECIPE.texts[0].flag in str(error.value) and family.RECIPE.vae_flag() in str(error.value)


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
           "qwenimage": diffusers.QwenImagePipeline}  # fmt: skip


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
