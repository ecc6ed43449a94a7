"""Flux.2 (dev, klein): joint and single blocks over patched latents, captions read by Mistral Small 3 or Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, flux1, flux2_vae, language, roles, tiny as tiny_models
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

SPEC = FamilySpec(
    name="flux2",
    title="Flux.2",
    scripts=("flux_2_train_network.py",),
    target_space="flow",
    latent_channels=128,
    vae_factor=16,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=512, trainable=False),),
    cond_padding={"text": PadRule()},
    cache_suffix="_f2",
    cache_raw=False,
    text_cache_suffix="_f2_te",
    roles=roles.ROLES,
    never_touch=(*flux1.SPEC.never_touch, r"_txt\."),
    joint_stream=(r"^single_transformer_blocks\.",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "diffusers"), "comfy": ("ComfyUI", "diffusers"), "diffusers": ("diffusers", "ComfyUI"),
              "apart": ()},
    sampling_defaults={"timestep_sampling": "flux_shift"},
)
SYSTEM = ("You are an AI that reasons about image descriptions. You give structured responses focusing on object "
          "relationships, object\nattribution and actions without speculation.")  # fmt: skip
"""What Mistral is told before every caption (Flux.2 dev)."""
MISTRAL_TOKENIZER = "mistralai/Mistral-Small-3.1-24B-Instruct-2503"


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "flux_shift"
    qwen3: str | None = None
    mistral: str | None = None
    ae: str | None = None
    guidance_scale: float = 1.0
    """The value that dev is given in training; klein takes none."""


DOUBLE = tuple((ours.replace("ff.net.0.proj", "ff.linear_in").replace("ff.net.2", "ff.linear_out")
                .replace("ff_context.net.0.proj", "ff_context.linear_in").replace("ff_context.net.2", "ff_context.linear_out"),
                theirs, part) for ours, theirs, part in flux1.DOUBLE if "mod.lin" not in theirs)  # fmt: skip
"""Modules of a double block, as Flux.1's without their modulation: one for all blocks stands outside."""
SINGLE = (("attn.to_qkv_mlp_proj", "linear1", None), ("attn.to_out", "linear2", None))
ROOT = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        **{f"{name}.linear": f"{name}.lin" for name in ("double_stream_modulation_img", "double_stream_modulation_txt",
                                                        "single_stream_modulation")},
        **{f"time_guidance_embed.{a}.linear_{n}": f"{b}.{layer}" for a, b in (("timestep_embedder", "time_in"),
           ("guidance_embedder", "guidance_in")) for n, layer in ((1, "in_layer"), (2, "out_layer"))},
        "norm_out.linear": "final_layer.adaLN_modulation.1"}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place; block modules first."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    found: dict[str, Native] = {}
    for ours, theirs, count, table, norms in (
        ("transformer_blocks", "double_blocks", config["num_layers"], DOUBLE, flux1.NORMS),
        ("single_transformer_blocks", "single_blocks", config["num_single_layers"], SINGLE, flux1.SINGLE_NORMS),
    ):
        for i in range(count):
            for path, original, part in table:
                rows = None if part is None else (part * width, width)
                found[f"{ours}.{i}.{path}"] = Native(f"{theirs}.{i}.{original}", rows)
            for path, original in norms.items():
                found[f"{ours}.{i}.{path}"] = Native(f"{theirs}.{i}.{original}", leaf="scale")
    return found | {path: Native(original, swapped=path == "norm_out.linear") for path, original in ROOT.items()}


def matches(header: Header) -> bool:
    """Tell a Flux.2 transformer, in either spelling, from tensor names."""
    return bool({"single_stream_modulation.lin.weight", "single_stream_modulation.linear.weight"} & header.shapes.keys())


def _sizes(header: Header) -> dict[str, Any]:
    """What differs between dev and the sizes of klein."""
    names = {name.rpartition("diffusion_model.")[2]: shape for name, shape in header.shapes.items()}
    width = (names.get("img_in.weight") or names["x_embedder.weight"])[0]
    text = (names.get("txt_in.weight") or names["context_embedder.weight"])[1]
    head = next(shape[0] for name, shape in names.items() if name.endswith(("query_norm.scale", "attn.norm_q.weight")))
    counts = assemble.counted(num_layers=("double_blocks", "transformer_blocks"),
                              num_single_layers=("single_blocks", "single_transformer_blocks"))(header)  # fmt: skip
    guided = any("guidance_in." in name or "guidance_embedder." in name for name in names)
    return counts | {"num_attention_heads": width // head, "attention_head_dim": head, "joint_attention_dim": text,
                     "guidance_embeds": guided}  # fmt: skip


MISTRAL = ("transformers.models.mistral.modeling_mistral", "MistralModel", "MistralConfig")


def _build_text(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """Mistral (dev) or Qwen3 (klein): by a folder's configuration, or by the width of a single file's embedding."""
    if "hidden_size" in config or "text_config" in config:
        known = config
    else:
        width = next(shape[1] for name, shape in header.shapes.items() if name.endswith("embed_tokens.weight"))
        known = config[str(width)]
    kind = MISTRAL if "text_config" in known or known["num_hidden_layers"] == 40 else language.QWEN3
    return language.build(kind, known, header, dtype, device)


def _is_mistral(model: Any) -> bool:
    return model.config.model_type == "mistral"


def _tokenizer(model: Any, of_model: Path, own: Path | None) -> Any:
    folder = assemble.tokenizer_folder(of_model, own, ships=not _is_mistral(model))
    if _is_mistral(model):
        return language.load_tokenizer("PreTrainedTokenizerFast", folder, MISTRAL_TOKENIZER, "--mistral")
    return language.qwen_tokenizer()(folder)


TRANSFORMER = Transformer("transformer_flux2", "Flux2Transformer2DModel", "img_in.weight", native_modules)
TEXT = assemble.Text("qwen3", _build_text, lambda folder: None, f"model.{language.LAYER}", "mistral")
RECIPE = assemble.Recipe(SPEC.title, "flux2.json", TRANSFORMER, _sizes, (TEXT,), flux2_vae, vae_option="ae")

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("flux_2"), answers.always("Flux.2")
encode_image, decode_latents, normalise, denormalise = answers.images(flux2_vae)
adapter_targets, extra_targets = answers.targets(TRANSFORMER, SPEC.roles, answers.in_blocks)


def empirical_mu(size: tuple[int, int], steps: int = 50) -> float:
    """How far noise levels are moved when pictures are drawn in 50 steps (diffusers' Flux2Pipeline); ``size`` in tokens.

    Two lines in the number of tokens, measured at 10 and at 200 steps, with the number of steps in between.
    """
    tokens = size[0] * size[1]
    many, few = 0.00016927 * tokens + 0.45666666, 8.73809524e-05 * tokens + 1.89833333
    return many if tokens > 4300 else many + (few - many) * (200 - steps) / 190


schedule = answers.flow_schedule(patch=1, names=("flux2_shift",), further={"empirical_shift": empirical_mu})


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --qwen3 or --mistral (dev), --vae (or --ae)."""
    parts = assemble.load(request, RECIPE)
    given = TEXT.file(request.options)
    parts.tokenizers = [made or _tokenizer(model, Path(parts.name_or_path) / "tokenizer", Path(given) if given else None)
                        for made, model in zip(parts.tokenizers, parts.text_encoders, strict=True)]  # fmt: skip
    return parts


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of klein's kind."""
    return tiny_models.parts("flux2", seed, Options(), [tiny_models.qwen_tokenizer()])


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``text`` B,512,C: three states of the language model, at a quarter, half and three quarters of its depth."""
    import torch

    model, tokenizer = parts.text_encoders[0], parts.tokenizers[0]
    if _is_mistral(model):
        asked = [f"<s>[SYSTEM_PROMPT]{SYSTEM}[/SYSTEM_PROMPT][INST]{c.replace('[IMG]', '')}[/INST]" for c in captions]
    else:
        asked = [f"<|im_start|>user\n{c}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n" for c in captions]
    made = tokenizer(asked, padding="max_length", truncation=True, max_length=512, add_special_tokens=False, return_tensors="pt")
    device = next(model.parameters()).device
    states = model(input_ids=made.input_ids.to(device), attention_mask=made.attention_mask.to(device),
                   output_hidden_states=True, use_cache=False).hidden_states  # fmt: skip
    return {"text": torch.cat([states[model.config.num_hidden_layers * quarter // 4] for quarter in (1, 2, 3)], dim=-1)}


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,128,H,W."""
    import torch

    model, x = parts.denoiser, noised.x_BCHW
    dtype, device, size = run_dtype(model), x.device, x.shape[-2:]
    text = cond["text"].to(device, dtype)
    guidance_B = torch.full((len(x),), parts.options.guidance_scale, device=device) if model.config.guidance_embeds else None
    places = flow.grid_ids((2 * size[0], 2 * size[1]), 4).to(device)
    words = torch.zeros(text.shape[1], 4, device=device)
    words[:, 3] = torch.arange(text.shape[1], device=device)
    found = model(hidden_states=x.to(dtype).flatten(2).transpose(1, 2), encoder_hidden_states=text, guidance=guidance_B,
                  timestep=(noised.timesteps_B.to(device).float() / 1000).to(dtype),
                  img_ids=places.expand(len(x), -1, -1), txt_ids=words.expand(len(x), -1, -1), return_dict=False)[0]  # fmt: skip
    return found.transpose(1, 2).unflatten(2, tuple(size))


def pipeline(parts: Parts) -> Any:
    """Flux2KleinPipeline; None for dev, whose pipeline wants a reader of pictures too: our own sampler draws then."""
    if parts.denoiser.config.guidance_embeds:
        return None
    return answers.pipeline("Flux2KleinPipeline")(parts)
