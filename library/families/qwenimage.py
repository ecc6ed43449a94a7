"""Qwen-Image: a transformer of joint blocks over packed latents, captions read by Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import assemble, flow, language, native, tiny as tiny_models, video_vae, weights
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule

ROLES = {
    "text-stream": (r"\.attn\.(add_[qkv]_proj|to_add_out)$", r"\.txt_mlp\.", r"^txt_in$"),
    "self-attention": (r"\.attn\.to_(q|k|v|out\.0)$",),
    "feed-forward": (r"\.img_mlp\.",),
    "modulation": (r"_mod\.1$", r"^norm_out\.linear$"),
    "projection": (r"^img_in$", r"^proj_out$"),
    "time": (r"^time_text_embed\.",),
}
SYSTEM = ("Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
          "objects and background:")  # fmt: skip
INSTRUCTION_TOKENS = 34
"""Tokens of the template in front of the caption; the model does not get their states."""
SPEC = FamilySpec(
    name="qwenimage",
    title="Qwen-Image",
    scripts=("qwen_image_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=1024, trainable=False),),
    cond_padding={"text": PadRule(dim=1), "text_mask": PadRule(dim=1)},
    cache_suffix="_qi",
    cache_raw=False,
    text_cache_suffix="_qi_te",
    roles=ROLES,
    never_touch=(r"add_[qkv]_proj", r"to_add_out", r"txt_"),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "diffusers"), "comfy": ("ComfyUI", "diffusers"), "diffusers": ("diffusers", "ComfyUI")},
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 2.2},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "shift"
    discrete_flow_shift: float = 2.2
    qwen_vl: str | None = None


def native_modules(denoiser: Any) -> dict[str, Native]:
    """Every module with weights under its own name: the original checkpoint is spelled as diffusers spells it."""
    paths = dict.fromkeys(name.rpartition(".")[0] for name in denoiser.state_dict())
    return {path: Native(path) for path in paths}


def matches(header: Header) -> bool:
    """Tell a Qwen-Image transformer from tensor names."""
    return {"txt_norm.weight", "transformer_blocks.0.img_mlp.net.0.proj.weight"} <= header.shapes.keys()


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell a Qwen-Image folder by its transformer's class."""
    return (model_index.get("transformer") or [None, ""])[1] == "QwenImageTransformer2DModel"


def hints(header: Header) -> dict[str, Any]:
    """Nothing: Edit models have the same shapes."""
    return {}


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Nothing."""
    return {}


def base_version(options: Options) -> str:
    """``ss_base_model_version``, as musubi-tuner writes it."""
    return "qwen_image"


def architecture(options: Options) -> str:
    """``modelspec.architecture``."""
    return "Qwen-Image"


def build_transformer(config: Mapping[str, Any], header: Header, request: LoadRequest) -> Any:
    """QwenImageTransformer2DModel of ``config`` with the weights in ``header``, in either spelling."""
    from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel

    model = weights.empty(lambda: QwenImageTransformer2DModel.from_config(dict(config)))
    found = native.places(header, list(model.state_dict()), native_modules(model), "img_in.weight")
    return weights.fill(model, found, weights.torch_dtype(request.dtype), request.device, "the transformer")


def _sizes(header: Header) -> dict[str, Any]:
    return {"num_layers": assemble.block_count(header, "transformer_blocks")}


def _tokenizer(folder: Path | None) -> Any:
    return language.load_tokenizer("Qwen2Tokenizer", folder, "Qwen/Qwen2.5-VL-7B-Instruct", "--qwen_vl")


RECIPE = assemble.Recipe(
    title=SPEC.title, asset="qwenimage.json", transformer=build_transformer, sizes=_sizes,
    text=lambda config, header, dtype, device: language.build(language.QWEN25_VL, config, header, dtype, device),
    text_mark=f"model.{language.LAYER}", text_flag="--qwen_vl", tokenizer=_tokenizer, vae=video_vae,
)  # fmt: skip


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --qwen_vl, --vae."""
    return assemble.load(request, RECIPE, request.options.qwen_vl, request.vae)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("qwenimage", seed)
    text = built["text_encoder"].model.language_model
    return Parts(built["transformer"], built["vae"], [text], [tiny_models.qwen_tokenizer()], Options(), built["scheduler"],
                 "tiny", "tiny")  # fmt: skip


def adapter_targets(parts: Parts) -> list[Target]:
    """The linear layers of all blocks but the modulation, as musubi-tuner chooses."""
    every = _targets(parts.denoiser) if parts.denoiser is not None else []
    return [t for t in every if _is_usual(t)]


def extra_targets(parts: Parts) -> list[Target]:
    """The other linear layers."""
    return [t for t in _targets(parts.denoiser) if not _is_usual(t)]


def _is_usual(target: Target) -> bool:
    return target.path.startswith("transformer_blocks.") and target.role != "modulation"


def _targets(denoiser: Any) -> list[Target]:
    return native.targets(denoiser, native_modules(denoiser), ROLES)


def encode_image(parts: Parts, pixels_BCHW: torch.Tensor) -> torch.Tensor:
    """Pixels in [-1, 1] -> normalised latents B,16,H/8,W/8."""
    return video_vae.normalise(parts.vae, video_vae.encode(parts.vae, pixels_BCHW))


def decode_latents(parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """Normalised latents -> pixels in [-1, 1]."""
    return video_vae.decode(parts.vae, latents_BCHW)


def normalise(parts: Parts, raw_BCHW: torch.Tensor) -> torch.Tensor:
    """The VAE's own latents -> normalised ones."""
    return video_vae.normalise(parts.vae, raw_BCHW)


def denormalise(parts: Parts, latents_BCHW: torch.Tensor) -> torch.Tensor:
    """The inverse of ``normalise``."""
    return video_vae.denormalise(parts.vae, latents_BCHW)


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``text`` B,L,3584 (Qwen's last state, the instruction cut off) and ``text_mask`` B,L."""
    asked = [f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{caption}<|im_end|>\n<|im_start|>assistant\n"
             for caption in captions]  # fmt: skip
    states, mask = language.encode(parts.tokenizers[0], parts.text_encoders[0], asked, 1024, -1, INSTRUCTION_TOKENS)
    return {"text": states, "text_mask": mask}


def size_cond(original_sizes: list[tuple[int, int]], crops: list[tuple[int, int]], target_size: tuple[int, int]) -> Cond:
    """Nothing: these models are not told sizes."""
    return {}


def schedule(options: Options, noise: Any) -> Schedule:
    """Rectified flow; ``flux_shift`` shifts by the number of image tokens, between this model's own ends."""
    from library.diffusion.timesteps import MuRange

    return flow.schedule(options, noise, MuRange((256, 8192), (0.5, 0.9)))


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W."""
    model, x = parts.denoiser, noised.x_BCHW
    dtype, device, (h, w) = run_dtype(model), x.device, x.shape[-2:]
    mask = cond["text_mask"].to(device).bool()
    found = model(hidden_states=flow.packed(x.to(dtype)), encoder_hidden_states=cond["text"].to(device, dtype),
                  encoder_hidden_states_mask=None if mask.all() else mask,
                  timestep=(noised.timesteps_B.to(device).float() / 1000).to(dtype),
                  img_shapes=[[(1, h // 2, w // 2)]] * len(x), return_dict=False)[0]  # fmt: skip
    return flow.unpacked(found, (h, w))


def pipeline(parts: Parts) -> Any:
    """QwenImagePipeline over these parts."""
    from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(parts.scheduler_config))
    return QwenImagePipeline(scheduler=scheduler, vae=parts.vae, text_encoder=parts.text_encoders[0],
                          tokenizer=parts.tokenizers[0], transformer=parts.denoiser)  # fmt: skip
