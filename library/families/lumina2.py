"""Lumina Image 2.0: a single-stream transformer over patches and text, captions read by Gemma 2."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import assemble, flow, language, native, tiny as tiny_models, vae, weights
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule

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
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=256),),
    cond_padding={"text": PadRule(dim=1), "text_mask": PadRule(dim=1)},
    cache_suffix="_lumina2",
    cache_raw=False,
    text_cache_suffix="_lumina2_te",
    roles=ROLES,
    never_touch=(r"^context_refiner\.", r"caption_embedder"),
    joint_stream=(r"^layers\.",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI",), "comfy": ("ComfyUI",), "diffusers": ("diffusers",)},
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 6.0},
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


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell a Lumina 2 folder by its transformer's class."""
    return (model_index.get("transformer") or [None, ""])[1] == "Lumina2Transformer2DModel"


def hints(header: Header) -> dict[str, Any]:
    """Nothing."""
    return {}


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Nothing."""
    return {}


def base_version(options: Options) -> str:
    """kohya's ``ss_base_model_version``."""
    return "lumina2"


def architecture(options: Options) -> str:
    """``modelspec.architecture``."""
    return "lumina-2"


def build_transformer(config: Mapping[str, Any], header: Header, request: LoadRequest) -> Any:
    """Lumina2Transformer2DModel of ``config`` with the weights in ``header``, in either spelling."""
    from diffusers.models.transformers.transformer_lumina2 import Lumina2Transformer2DModel

    model = weights.empty(lambda: Lumina2Transformer2DModel.from_config(dict(config)))
    found = native.places(header, list(model.state_dict()), native_modules(model.config), "cap_embedder.1.weight")
    return weights.fill(model, found, weights.torch_dtype(request.dtype), request.device, "the transformer")


def _sizes(header: Header) -> dict[str, Any]:
    return {"num_layers": assemble.block_count(header, "layers"),
            "num_refiner_layers": assemble.block_count(header, "noise_refiner")}  # fmt: skip


def _tokenizer(folder: Path | None) -> Any:
    return language.load_tokenizer("GemmaTokenizer", folder, "Alpha-VLLM/Lumina-Image-2.0", "--gemma2")


RECIPE = assemble.Recipe(
    title=SPEC.title, asset="lumina2.json", transformer=build_transformer, sizes=_sizes,
    text=lambda config, header, dtype, device: language.build(language.GEMMA2, config, header, dtype, device),
    text_mark=f"model.{language.LAYER}", text_flag="--gemma2", tokenizer=_tokenizer, vae=vae,
)  # fmt: skip


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --gemma2, --ae (or --vae)."""
    return assemble.load(request, RECIPE, request.options.gemma2, request.options.ae or request.vae)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("lumina2", seed)
    return Parts(built["transformer"], built["vae"], [built["text_encoder"]], [tiny_models.gemma_tokenizer()], Options(),
                 built["scheduler"], "tiny", "tiny")  # fmt: skip


OUTSIDE = re.compile(r"^(x_embedder|time_caption_embed)")
"""Modules that kohya's rule leaves out."""


def adapter_targets(parts: Parts) -> list[Target]:
    """Gemma's layers, then the linear layers of refiners, blocks and output, in kohya's order."""
    text = [t for te in parts.text_encoders for t in language.adapter_targets(te, "text_encoder", "lora_te")]
    every = _targets(parts.denoiser) if parts.denoiser is not None else []
    return text + [t for t in every if not OUTSIDE.match(t.path)]


def extra_targets(parts: Parts) -> list[Target]:
    """The embeddings of picture, text and time."""
    return [t for t in _targets(parts.denoiser) if OUTSIDE.match(t.path)]


def _targets(denoiser: Any) -> list[Target]:
    return native.targets(denoiser, native_modules(denoiser.config), ROLES)


def encode_image(parts: Parts, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] -> normalised latents B,16,H/8,W/8."""
    return vae.normalise(parts.vae, vae.encode(parts.vae, pixels_BCHW))


def decode_latents(parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalised latents -> pixels in [-1, 1]."""
    return vae.decode(parts.vae, latents_BCHW)


def normalise(parts: Parts, raw_BCHW: torch.Tensor) -> torch.Tensor:
    """The VAE's own latents -> normalised ones."""
    return vae.normalise(parts.vae, raw_BCHW)


def denormalise(parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """The inverse of ``normalise``."""
    return vae.denormalise(parts.vae, latents_BCHW)


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``text`` B,L,2304 (Gemma's last but one state) and ``text_mask`` B,L."""
    system, length = parts.options.system_prompt, parts.options.gemma2_max_token_length or 256
    asked = [f"{system} <Prompt Start> {caption}" if system else caption for caption in captions]
    states, mask = language.encode(parts.tokenizers[0], parts.text_encoders[0], asked, length)
    return {"text": states, "text_mask": mask}


def size_cond(original_sizes: list[tuple[int, int]], crops: list[tuple[int, int]], target_size: tuple[int, int]) -> Cond:
    """Nothing: these models are not told sizes."""
    return {}


def schedule(options: Options, noise: Any) -> Schedule:
    """Rectified flow, noise levels shifted towards noise."""
    from library.diffusion.timesteps import MuRange

    return flow.schedule(options, noise, MuRange())


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W; the model runs from noise at 0 to picture at 1 and answers x0 - noise."""
    model, x = parts.denoiser, noised.x_BCHW
    dtype, device = run_dtype(model), x.device
    times_B = 1 - noised.timesteps_B.to(device).float() / 1000
    return -model(hidden_states=x.to(dtype), timestep=times_B, encoder_hidden_states=cond["text"].to(device, dtype),
                  encoder_attention_mask=cond["text_mask"].to(device).bool(), return_dict=False)[0]  # fmt: skip


def pipeline(parts: Parts) -> Any:
    """Lumina2Pipeline over these parts."""
    from diffusers import FlowMatchEulerDiscreteScheduler, Lumina2Pipeline

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(parts.scheduler_config))
    return Lumina2Pipeline(scheduler=scheduler, vae=parts.vae, text_encoder=parts.text_encoders[0],
                          tokenizer=parts.tokenizers[0], transformer=parts.denoiser)  # fmt: skip
