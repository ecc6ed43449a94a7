"""Stable Diffusion 1.x and 2.x: a U-Net that predicts noise (or velocity), one CLIP text encoder, a VAE of factor 8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import answers, clip, source, tiny as tiny_models, unet, unet_models, vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.unet_models import Layout, TextLayout
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule

SPEC = FamilySpec(
    name="sd1",
    title="Stable Diffusion 1.x and 2.x",
    scripts=("train_network.py", "train_leco.py"),
    target_space="eps",
    latent_channels=4,
    vae_factor=8,
    bucket_step=64,
    default_resolution=512,
    text_slots=(TextSlot("text_encoder", "lora_te", "text_model."),),
    cond_padding={"hidden_state": PadRule()},
    cache_suffix="_sd",
    cache_raw=True,
    text_cache_suffix=None,
    roles=unet.ROLES,
    never_touch=(r"\.attn2\.to_[kv]$",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "Forge", "A1111", "diffusers"), "comfy": ("ComfyUI",),
              "diffusers": ("diffusers", "ComfyUI")},
)


@dataclass(frozen=True)
class Options:
    """Options of this family, named like their flags."""

    v2: bool = False
    v_parameterization: bool = False
    clip_skip: int | None = None
    max_token_length: int | None = None
    weighted_captions: bool = False


def _texts(configs: unet_models.Config) -> tuple[TextLayout, ...]:
    v2 = configs.get("text_encoder", {}).get("hidden_size") == 1024
    return (
        TextLayout(
            "text_encoder",
            "tokenizer",
            ("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer."),
            ("cond_stage_model.model.",),
            pad_token="!" if v2 else "<|endoftext|>",
        ),
    )


def _configs(header: Header) -> unet_models.Config:
    configs = source.asset("sd2.json" if unet_models.context_width(header) == 1024 else "sd1.json")
    configs["unet"]["in_channels"] = unet_models.in_channels(header)
    return configs


def layout() -> Layout:
    """What the models consist of, and where single files keep it."""
    return Layout(_texts, _configs, source.asset("sd1.json"))


def matches(header: Header) -> bool:
    """Tell an SD 1.x/2.x checkpoint, U-Net file included, from tensor names and shapes."""
    shapes = unet_models.unet_shapes(header)
    sized = ("label_emb.0.0.weight" in shapes) or ("add_embedding.linear_1.weight" in shapes)
    return (
        bool(shapes)
        and not sized
        and unet_models.context_width(header) > 0
        and not any(mark in name for name in shapes for mark in unet_models.FOREIGN)
    )


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell an SD 1.x/2.x folder: one text encoder and a U-Net without size embedding."""
    unet_config = configs.get("unet", {})
    return (
        "unet" in model_index
        and "text_encoder_2" not in model_index
        and "prior" not in model_index
        and unet_config.get("addition_embed_type") is None
        and unet_config.get("encoder_hid_dim") is None
        and (model_index.get("text_encoder") or [None, ""])[1] in ("CLIPTextModel", None)
        and str(model_index.get("_class_name", "")).startswith(("StableDiffusion", "LatentConsistency"))
    )


def hints(header: Header) -> dict[str, Any]:
    """Options that a single file's header tells: v2; ``in_channels`` where it is not 4 (inpainting, depth)."""
    found: dict[str, Any] = {"v2": unet_models.context_width(header) == 1024}
    if "v_pred" in header.shapes:
        found["v_parameterization"] = True
    return found | unet_models.channel_hint(header)


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same from a folder's configurations, and what its scheduler predicts."""
    found: dict[str, Any] = {}
    if "unet" in configs:
        found["v2"] = configs["unet"].get("cross_attention_dim") == 1024
        if configs["unet"].get("in_channels", 4) != 4:
            found["in_channels"] = configs["unet"]["in_channels"]
    if "prediction_type" in configs.get("scheduler", {}):
        found["v_parameterization"] = configs["scheduler"]["prediction_type"] == "v_prediction"
    return found


def base_version(options: Options) -> str:
    """kohya's ``ss_base_model_version``."""
    return ("sd_v2" if options.v2 else "sd_v1") + ("_v" if options.v_parameterization else "")


def architecture(options: Options) -> str:
    """``modelspec.architecture``."""
    if not options.v2:
        return "stable-diffusion-v1"
    return "stable-diffusion-v2-768-v" if options.v_parameterization else "stable-diffusion-v2-512"


encode_image, decode_latents, normalise, denormalise = answers.images(vae)
size_cond = answers.no_sizes


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder, hub id, https link or single file (.safetensors, .ckpt)."""
    return unet_models.load(request, layout())


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("sd1", seed)
    return Parts(
        built["unet"],
        built["vae"],
        [built["text_encoder"]],
        [tiny_models.clip_tokenizer()],
        Options(),
        built["scheduler"],
        "tiny",
        "tiny",
    )


def adapter_targets(parts: Parts) -> list[Target]:
    """kohya's modules in kohya's order: text encoder, U-Net attentions and, ``conv_only``, its convolutions."""
    slot = SPEC.text_slots[0]
    text = [t for te in parts.text_encoders for t in clip.adapter_targets(te, slot.part, slot.lora_prefix)]
    return text + (unet.targets(parts.denoiser) if parts.denoiser is not None else [])


def extra_targets(parts: Parts) -> list[Target]:
    """First and last convolution and time embedding."""
    return unet.extra_targets(parts.denoiser)


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``hidden_state`` B,(75n+2),C, after the final norm; gradients flow."""
    options, tokenizer, text_encoder = parts.options, parts.tokenizers[0], parts.text_encoders[0]
    if options.weighted_captions:
        ids, weights_BL = clip.weighted_ids(tokenizer, captions, options.max_token_length)
        return {"hidden_state": clip.emphasised(clip.hidden_state(text_encoder, ids, options.clip_skip), weights_BL)}
    ids = clip.token_ids(tokenizer, captions, options.max_token_length)
    return {"hidden_state": clip.hidden_state(text_encoder, ids, options.clip_skip)}


def schedule(options: Options, noise: Any) -> Schedule:
    """DDPM, scaled-linear betas .00085 to .012, eps or v."""
    from library.diffusion.schedule import ddpm

    return ddpm(
        "v" if options.v_parameterization else "eps", noise.min_timestep, noise.max_timestep, noise.zero_terminal_snr
    )


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """Noise or velocity, in the space of ``schedule``."""
    dtype = unet_models.run_dtype(parts.denoiser)
    timesteps_B = noised.timesteps_B.to(noised.x_BCHW.device)
    return parts.denoiser(noised.x_BCHW.to(dtype), timesteps_B, cond["hidden_state"].to(dtype), return_dict=False)[0]


def pipeline(parts: Parts) -> Any:
    """StableDiffusionPipeline over these parts, without safety checker; its scheduler may be exchanged."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    space = "v_prediction" if parts.options.v_parameterization else "epsilon"
    scheduler = DDIMScheduler.from_config({**parts.scheduler_config, "prediction_type": space})
    return StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoders[0],
        tokenizer=parts.tokenizers[0],
        unet=parts.denoiser,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
