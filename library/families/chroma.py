"""Chroma: Flux.1's blocks with their modulation made by one small network, captions read by T5 alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import assemble, flow, flux1, native, t5, tiny as tiny_models, vae, weights
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule

ROLES = flux1.ROLES | {"modulation": (r"^distilled_guidance_layer\.",)}
SPEC = FamilySpec(
    name="chroma",
    title="Chroma",
    scripts=("chroma_train_network.py", "flux_train_network.py"),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te3", max_length=512, trainable=False),),
    cond_padding={"t5_out": PadRule(dim=1), "t5_attn_mask": PadRule(dim=1)},
    cache_suffix="_flux",
    cache_raw=False,
    text_cache_suffix="_chroma_te",
    roles=ROLES,
    never_touch=flux1.SPEC.never_touch,
    joint_stream=flux1.SPEC.joint_stream,
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "diffusers"), "comfy": ("ComfyUI",), "diffusers": ("diffusers", "ComfyUI")},
    sampling_defaults={"timestep_sampling": "sigmoid"},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "sigmoid"
    t5xxl: str | None = None
    ae: str | None = None
    t5xxl_max_token_length: int | None = None
    model_type: str = "chroma"
    apply_t5_attn_mask: bool = True
    """Always so: the model was trained with the mask."""
    guidance_scale: float = 0.0
    """Without effect: the model takes no guidance value."""


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place; block modules first, in kohya's order."""
    found = {path: spot for path, spot in flux1.native_modules(config).items()
             if not path.startswith("time_text_embed") and not spot.path.endswith(("mod.lin", "modulation.lin"))
             and path != "norm_out.linear"}  # fmt: skip
    stem = "distilled_guidance_layer"
    found |= {f"{stem}.{name}": Native(f"{stem}.{name}") for name in ("in_proj", "out_proj")}
    for i in range(config["approximator_layers"]):
        found |= {f"{stem}.layers.{i}.linear_1": Native(f"{stem}.layers.{i}.in_layer"),
                  f"{stem}.layers.{i}.linear_2": Native(f"{stem}.layers.{i}.out_layer"),
                  f"{stem}.norms.{i}": Native(f"{stem}.norms.{i}", leaf="scale")}  # fmt: skip
    return found


def matches(header: Header) -> bool:
    """Tell a Chroma transformer, in either spelling, from tensor names; the Radiance variant is another one."""
    names = header.shapes
    blocks = "double_blocks.0.img_attn.qkv.weight" in names or "transformer_blocks.0.attn.add_q_proj.weight" in names
    return "distilled_guidance_layer.in_proj.weight" in names and blocks and not any(n.startswith("nerf_") for n in names)


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell a Chroma folder by its transformer's class."""
    return (model_index.get("transformer") or [None, ""])[1] == "ChromaTransformer2DModel"


def hints(header: Header) -> dict[str, Any]:
    """Nothing."""
    return {}


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Nothing."""
    return {}


def base_version(options: Options) -> str:
    """kohya's ``ss_base_model_version``."""
    return "chroma"


def architecture(options: Options) -> str:
    """``modelspec.architecture``."""
    return "chroma"


def build_transformer(config: Mapping[str, Any], header: Header, request: LoadRequest) -> Any:
    """ChromaTransformer2DModel of ``config`` with the weights in ``header``, in either spelling."""
    from diffusers.models.transformers.transformer_chroma import ChromaTransformer2DModel

    model = weights.empty(lambda: ChromaTransformer2DModel.from_config(dict(config)))
    found = native.places(header, list(model.state_dict()), native_modules(model.config), "img_in.weight")
    return weights.fill(model, found, weights.torch_dtype(request.dtype), request.device, "the transformer")


def _sizes(header: Header) -> dict[str, Any]:
    counts = {"num_layers": "double_blocks", "num_single_layers": "single_blocks",
              "approximator_layers": "distilled_guidance_layer.layers"}  # fmt: skip
    return {name: assemble.block_count(header, stem) for name, stem in counts.items()}


RECIPE = assemble.Recipe(
    title=SPEC.title, asset="chroma.json", transformer=build_transformer, sizes=_sizes, text=t5.build,
    text_mark="t5xxl.transformer.encoder.final_layer_norm.weight", text_flag="--t5xxl", tokenizer=t5.load_tokenizer, vae=vae,
)  # fmt: skip


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --t5xxl, --ae (or --vae)."""
    return assemble.load(request, RECIPE, request.options.t5xxl, request.options.ae or request.vae)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("chroma", seed)
    return Parts(built["transformer"], built["vae"], [built["text_encoder"]], [tiny_models.t5_tokenizer()],
                 Options(t5xxl_max_token_length=64), built["scheduler"], "tiny", "tiny")  # fmt: skip


def adapter_targets(parts: Parts) -> list[Target]:
    """The linear layers of all blocks, in kohya's order; parts of fused ones by ``fused``."""
    return [t for t in _targets(parts.denoiser) if "_blocks." in t.path] if parts.denoiser is not None else []


def extra_targets(parts: Parts) -> list[Target]:
    """The linear layers outside the blocks."""
    return [t for t in _targets(parts.denoiser) if "_blocks." not in t.path]


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
    """Captions -> ``t5_out`` B,L,4096 and ``t5_attn_mask`` B,L of real tokens; T5 sees the mask too."""
    length = parts.options.t5xxl_max_token_length or 512
    made = parts.tokenizers[0](captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    encoder = parts.text_encoders[0]
    device = next(encoder.parameters()).device
    mask = made.attention_mask.to(device)
    return {"t5_out": encoder(made.input_ids.to(device), attention_mask=mask, return_dict=False)[0], "t5_attn_mask": mask}


def size_cond(original_sizes: list[tuple[int, int]], crops: list[tuple[int, int]], target_size: tuple[int, int]) -> Cond:
    """Nothing: these models are not told sizes."""
    return {}


def schedule(options: Options, noise: Any) -> Schedule:
    """Rectified flow; ``flux_shift`` shifts by the number of image tokens."""
    from library.diffusion.timesteps import MuRange

    return flow.schedule(options, noise, MuRange())


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W. Of a caption's padding the model sees the first token alone."""
    import torch

    model, x = parts.denoiser, noised.x_BCHW
    dtype, device, size = run_dtype(model), x.device, tuple(x.shape[-2:])
    seen_B = (cond["t5_attn_mask"].to(device).sum(1) + 1).clamp(max=cond["t5_out"].shape[1])
    text = cond["t5_out"].to(device, dtype)[:, : int(seen_B.max())]
    tokens = flow.packed(x.to(dtype))
    mask_BL = torch.arange(text.shape[1], device=device)[None] < seen_B[:, None]
    whole = torch.cat([mask_BL, torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)], dim=1)
    found = model(hidden_states=tokens, encoder_hidden_states=text, attention_mask=None if whole.all() else whole,
                  timestep=(noised.timesteps_B.to(device).float() / 1000).to(dtype), img_ids=flow.grid_ids(size).to(device),
                  txt_ids=torch.zeros(text.shape[1], 3, device=device), return_dict=False)[0]  # fmt: skip
    return flow.unpacked(found, size)


def pipeline(parts: Parts) -> Any:
    """ChromaPipeline over these parts."""
    from diffusers import ChromaPipeline, FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(dict(parts.scheduler_config))
    return ChromaPipeline(scheduler=scheduler, vae=parts.vae, text_encoder=parts.text_encoders[0],
                          tokenizer=parts.tokenizers[0], transformer=parts.denoiser)  # fmt: skip
