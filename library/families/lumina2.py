"""Lumina Image 2.0: a single-stream transformer over patches and text, captions read by Gemma 2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, language, tiny as tiny_models, vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

ROLES = {
    "text-stream": (r"^context_refiner\.", r"caption_embedder"),
    "self-attention": (r"\.attn\.to_(q|k|v|out\.0)$",),
    "feed-forward": (r"\.feed_forward\.linear_[123]$",),
    "modulation": (r"\.norm1\.linear$", r"^norm_out\.linear_1$"),
    "projection": (r"^x_embedder$", r"^norm_out\.linear_2$"),
    "time": (r"timestep_embedder",),
}
SPEC = FamilySpec(
    name="lumina2",
    title="Lumina Image 2.0",
    scripts=("lumina_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=256, ignored_by=("ComfyUI",),
                         tokenizer_of="Alpha-VLLM/Lumina-Image-2.0/tokenizer", option="gemma2"),),
    cond_padding={"hidden_state": PadRule(dim=1), "attention_mask": PadRule(dim=1)},
    cache_suffix="_lumina",
    cache_raw=False,
    text_cache_suffix="_lumina_te",
    roles=ROLES,
    never_touch=(r"^context_refiner\.", r"caption_embedder"),
    joint_stream=(r"^layers\.",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI",), "comfy": ("ComfyUI",), "diffusers": ("diffusers",),
              "apart": ()},
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 6.0},
    recommended={"timestep_sampling": "nextdit_shift"},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "shift"
    discrete_flow_shift: float = 6.0
    gemma2: str | None = None
    ae: str | None = None
    gemma2_max_token_length: int | None = None
    system_prompt: str = ""


ATTENTION = (("attn.to_q", "attention.qkv"), ("attn.to_k", "attention.qkv"), ("attn.to_v", "attention.qkv"),
             ("attn.to_out.0", "attention.out"), ("feed_forward.linear_1", "feed_forward.w1"),
             ("feed_forward.linear_2", "feed_forward.w2"), ("feed_forward.linear_3", "feed_forward.w3"))  # fmt: skip
NORMS = (("attn.norm_q", "attention.q_norm"), ("attn.norm_k", "attention.k_norm"), ("norm2", "attention_norm2"),
         ("ffn_norm1", "ffn_norm1"), ("ffn_norm2", "ffn_norm2"))  # fmt: skip
MODULATED = (("norm1.linear", "adaLN_modulation.1"), ("norm1.norm", "attention_norm1"))
PLAIN = (("norm1", "attention_norm1"),)
"""Modules of a block: diffusers' path, original path; the context's refiner is not modulated by time."""
ROOT = {"norm_out.linear_2": "final_layer.linear", "norm_out.linear_1": "final_layer.adaLN_modulation.1",
        "x_embedder": "x_embedder", **{f"time_caption_embed.caption_embedder.{n}": f"cap_embedder.{n}" for n in (0, 1)},
        **{f"time_caption_embed.timestep_embedder.linear_{n}": f"t_embedder.mlp.{2 * n - 2}" for n in (1, 2)}}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place, in kohya's order."""
    wide = config["hidden_size"]
    narrow = wide // config["num_attention_heads"] * config["num_kv_heads"]
    rows = {"attn.to_q": (0, wide), "attn.to_k": (wide, narrow), "attn.to_v": (wide + narrow, narrow)}
    refiners = config["num_refiner_layers"]
    found = {f"{stem}.{i}.{ours}": Native(f"{stem}.{i}.{theirs}", rows.get(ours))
             for stem, count, first in (("context_refiner", refiners, PLAIN), ("noise_refiner", refiners, MODULATED),
                                        ("layers", config["num_layers"], MODULATED))
             for i in range(count) for ours, theirs in (*ATTENTION, *first, *NORMS)}  # fmt: skip
    return found | {path: Native(original) for path, original in ROOT.items()}


def matches(header: Header) -> bool:
    """Tell a Lumina 2 transformer, in either spelling, from tensor names; OmniGen 2 has more."""
    names = header.shapes
    original = {"layers.0.adaLN_modulation.1.weight", "cap_embedder.0.weight"} <= names.keys()
    ours = {"layers.0.norm1.linear.weight", "time_caption_embed.caption_embedder.0.weight"} <= names.keys()
    return (original or ours) and not any(n.startswith("ref_image") for n in names)


TRANSFORMER = Transformer("transformer_lumina2", "Lumina2Transformer2DModel", "cap_embedder.1.weight", native_modules)
GEMMA = assemble.Text("gemma2", language.builder(language.GEMMA2),
                      language.tokenizer("GemmaTokenizer", SPEC.text_slots[0].tokenizer_of, "--gemma2"),
                      f"model.{language.LAYER}", ships_tokenizer=False)  # fmt: skip
RECIPE = assemble.Recipe(
    SPEC.title, "lumina2.json", TRANSFORMER,
    assemble.counted(num_layers="layers", num_refiner_layers="noise_refiner"), (GEMMA,), vae, vae_option="ae",
)  # fmt: skip

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("lumina2"), answers.always("lumina-2")
encode_image, decode_latents, normalise, denormalise = answers.images(vae)
schedule = answers.flow_schedule(reverse=True)

OUTSIDE = re.compile(r"^(x_embedder|time_caption_embed)")
"""Modules that kohya's rule leaves out: the embeddings of picture, text and time."""
adapter_targets, extra_targets = answers.targets(
    TRANSFORMER, ROLES, lambda target: not OUTSIDE.match(target.path), answers.language_targets
)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --gemma2, --ae (or --vae)."""
    parts = assemble.load(request, RECIPE)
    if parts.denoiser is not None:
        parts.latent_channels = parts.denoiser.config.in_channels  # a small model may have fewer than the published one
    return parts


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("lumina2", seed)
    return Parts(built["transformer"], built["vae"], [built["text_encoder"]], [tiny_models.gemma_tokenizer()], Options(),
                 built["scheduler"], "tiny", "tiny")  # fmt: skip


def pipeline(parts: Parts) -> Any:
    """Lumina2Pipeline that reads prompts as training does: with ``system_prompt`` in front, or as they are without one."""
    made = answers.pipeline("Lumina2Pipeline")(parts)

    def encode_prompt(prompt: str | list[str], do_classifier_free_guidance: bool = True,
                      negative_prompt: str | list[str] | None = None, **_: Any) -> tuple[Any, ...]:  # fmt: skip
        plain = replace(parts, options=replace(parts.options, system_prompt=""))
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        without = [negative_prompt or ""] * len(texts) if not isinstance(negative_prompt, list) else negative_prompt
        found = [encode_text(parts, texts), *([encode_text(plain, without)] if do_classifier_free_guidance else [])]
        states = [(cond["hidden_state"], cond["attention_mask"]) for cond in found] + [(None, None)]
        return (*states[0], *states[1])

    made.encode_prompt = encode_prompt
    return made


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> kohya's ``hidden_state`` B,L,2304 (Gemma's last but one state) and ``attention_mask`` B,L."""
    system, length = parts.options.system_prompt, parts.options.gemma2_max_token_length or 256
    asked = [f"{system} <Prompt Start> {caption}" if system else caption for caption in captions]
    states, mask = language.encode(parts.tokenizers[0], parts.text_encoders[0], asked, length)
    return {"hidden_state": states, "attention_mask": mask}


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W; the model runs from noise at 0 to picture at 1 and answers x0 - noise."""
    model, x = parts.denoiser, noised.x_BCHW
    dtype, device = run_dtype(model), x.device
    times_B = 1 - noised.timesteps_B.to(device).float() / 1000
    return -model(hidden_states=x.to(dtype), timestep=times_B, encoder_hidden_states=cond["hidden_state"].to(device, dtype),
                  encoder_attention_mask=cond["attention_mask"].to(device).bool(), return_dict=False)[0]  # fmt: skip
