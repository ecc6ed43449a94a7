"""Stable Diffusion XL: a U-Net that is also told sizes and crops, two CLIP text encoders, a VAE of factor 8."""

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
    name="sdxl",
    title="Stable Diffusion XL",
    scripts=("sdxl_train_network.py", "sdxl_train_leco.py"),
    target_space="eps",
    latent_channels=4,
    vae_factor=8,
    bucket_step=32,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te1", "text_model."), TextSlot("text_encoder_2", "lora_te2")),
    cond_padding={"hidden_state1": PadRule(), "hidden_state2": PadRule(), "pool2": PadRule(), "time_ids": PadRule()},
    cache_suffix="_sdxl",
    cache_raw=True,
    text_cache_suffix="_te_outputs",
    roles=unet.ROLES,
    never_touch=(r"\.attn2\.to_[kv]$",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "Forge", "A1111", "diffusers"), "comfy": ("ComfyUI",),
              "diffusers": ("diffusers", "ComfyUI")},
    fragile_half_vae=True,
)
OTHER_WIDTHS = {2560: "refiner", 5632: "Kolors"}
"""Width of the size-and-text embedding of U-Nets that are built alike and are not SDXL."""


@dataclass(frozen=True)
class Options:
    """Options of this family, named like their flags."""

    v_parameterization: bool = False
    max_token_length: int | None = None
    weighted_captions: bool = False


TEXTS = (
    TextLayout(
        "text_encoder",
        "tokenizer",
        ("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.0.transformer."),
    ),
    TextLayout(
        "text_encoder_2",
        "tokenizer_2",
        ("conditioner.embedders.1.transformer.text_model.",),
        ("conditioner.embedders.1.model.",),
        projection=True,
        pad_token="!",
    ),
)


def _configs(header: Header) -> unet_models.Config:
    return source.asset("sdxl.json")


def layout() -> Layout:
    """What the models consist of, and where single files keep it."""
    return Layout(lambda configs: TEXTS, _configs, source.asset("sdxl.json"))


def matches(header: Header) -> bool:
    """Tell an SDXL checkpoint, U-Net file included, from tensor names and shapes."""
    shapes = unet_models.unet_shapes(header)
    sizes = shapes.get("label_emb.0.0.weight") or shapes.get("add_embedding.linear_1.weight")
    return (
        sizes is not None
        and sizes[-1] not in OTHER_WIDTHS
        and unet_models.context_width(header) > 0
        and not any(mark in name for name in shapes for mark in unet_models.FOREIGN)
    )


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell an SDXL folder: two text encoders and a U-Net that is told text and sizes."""
    config = configs.get("unet", {})
    return (
        config.get("addition_embed_type") == "text_time"
        and config.get("encoder_hid_dim") is None
        and "text_encoder" in model_index
        and "text_encoder_2" in model_index
    )


def hints(header: Header) -> dict[str, Any]:
    """Options that a single file tells: velocity prediction and zero terminal SNR by their marker tensors."""
    found: dict[str, Any] = {}
    if "v_pred" in header.shapes:
        found["v_parameterization"] = True
    if "ztsnr" in header.shapes:
        found["zero_terminal_snr"] = True
    return found | unet_models.channel_hint(header)


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same from a folder's configurations."""
    scheduler = configs.get("scheduler", {})
    found: dict[str, Any] = {}
    if "prediction_type" in scheduler:
        found["v_parameterization"] = scheduler["prediction_type"] == "v_prediction"
    if scheduler.get("rescale_betas_zero_snr"):
        found["zero_terminal_snr"] = True
    if configs["unet"].get("in_channels", 4) != 4:
        found["in_channels"] = configs["unet"]["in_channels"]
    return found


def base_version(options: Options) -> str:
    """kohya's ``ss_base_model_version``."""
    return "sdxl_base_v1-0"


def architecture(options: Options) -> str:
    """``modelspec.architecture``."""
    return "stable-diffusion-xl-v1-base"


encode_image, decode_latents, normalise, denormalise = answers.images(vae)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder, hub id, https link or single file (.safetensors, .ckpt)."""
    return unet_models.load(request, layout())


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("sdxl", seed)
    return Parts(
        built["unet"],
        built["vae"],
        [built["text_encoder"], built["text_encoder_2"]],
        [tiny_models.clip_tokenizer(), tiny_models.clip_tokenizer("!")],
        Options(),
        built["scheduler"],
        "tiny",
        "tiny",
    )


def adapter_targets(parts: Parts) -> list[Target]:
    """kohya's modules in kohya's order and original spelling: both text encoders, then the U-Net."""
    text = [
        t
        for slot, encoder in zip(SPEC.text_slots, parts.text_encoders, strict=False)
        for t in clip.adapter_targets(encoder, slot.part, slot.lora_prefix)
    ]
    if parts.denoiser is None:
        return text
    return text + unet.in_original_spelling(unet.targets(parts.denoiser), parts.denoiser.config)


def extra_targets(parts: Parts) -> list[Target]:
    """First and last convolution, time and size embedding."""
    return unet.in_original_spelling(unet.extra_targets(parts.denoiser), parts.denoiser.config)


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``hidden_state1`` and ``hidden_state2`` B,(75n+2),C before the last layers, ``pool2`` B,1280."""
    options = parts.options
    states, pooled = [], None
    for tokenizer, encoder in zip(parts.tokenizers, parts.text_encoders, strict=True):
        if options.weighted_captions:
            ids, weights_BL = clip.weighted_ids(tokenizer, captions, options.max_token_length)
            state, pooled = clip.penultimate(encoder, ids)
            states.append(clip.emphasised(state, weights_BL))
        else:
            state, pooled = clip.penultimate(encoder, clip.token_ids(tokenizer, captions, options.max_token_length))
            states.append(state)
    return {"hidden_state1": states[0], "hidden_state2": states[1], "pool2": pooled}


def size_cond(
    original_sizes: list[tuple[int, int]], crops: list[tuple[int, int]], target_size: tuple[int, int]
) -> Cond:
    """``time_ids`` B,6: original height and width, crop top and left, target height and width."""
    import torch

    rows = [[*size, *crop, *target_size] for size, crop in zip(original_sizes, crops, strict=True)]
    return {"time_ids": torch.tensor(rows, dtype=torch.float32)}


def schedule(options: Options, noise: Any) -> Schedule:
    """DDPM, scaled-linear betas .00085 to .012, eps or v."""
    from library.diffusion.schedule import ddpm

    return ddpm(
        "v" if options.v_parameterization else "eps", noise.min_timestep, noise.max_timestep, noise.zero_terminal_snr
    )


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """Noise or velocity, in the space of ``schedule``; ``cond`` holds the texts and ``size_cond``'s time ids."""
    import torch

    dtype, device = unet_models.run_dtype(parts.denoiser), noised.x_BCHW.device
    states = torch.cat([cond["hidden_state1"], cond["hidden_state2"]], dim=-1)
    added = {"text_embeds": cond["pool2"].to(device, dtype), "time_ids": cond["time_ids"].to(device)}
    return parts.denoiser(
        noised.x_BCHW.to(dtype),
        noised.timesteps_B.to(device),
        states.to(device, dtype),
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def pipeline(parts: Parts) -> Any:
    """StableDiffusionXLPipeline over these parts; its scheduler may be exchanged."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    space = "v_prediction" if parts.options.v_parameterization else "epsilon"
    scheduler = DDIMScheduler.from_config({**parts.scheduler_config, "prediction_type": space})
    return StableDiffusionXLPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoders[0],
        text_encoder_2=parts.text_encoders[1],
        tokenizer=parts.tokenizers[0],
        tokenizer_2=parts.tokenizers[1],
        unet=parts.denoiser,
        scheduler=scheduler,
        add_watermarker=False,
    )
