"""Flux.1 (dev, schnell): a transformer of joint and single blocks over packed latents, CLIP and T5 texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import clip, flow, native, source, t5, tiny as tiny_models, vae, weights
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native
from library.families.unet_models import run_dtype
from library.util.records import Cond, Problem, Target, UserError

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule

MODEL_FLAG = "--pretrained_model_name_or_path"
ROLES = {
    "text-stream": (r"\.attn\.(add_[qkv]_proj|to_add_out)$", r"\.ff_context\.net\.", r"\.norm1_context\.linear$"),
    "self-attention": (r"\.attn\.to_(q|k|v|out\.0)$",),
    "feed-forward": (r"\.ff\.net\.", r"\.proj_mlp$"),
    "projection": (r"^single_transformer_blocks\.\d+\.proj_out$", r"^proj_out$", r"^(x|context)_embedder$"),
    "modulation": (r"\.norm1?\.linear$", r"^norm_out\.linear$"),
    "time": (r"^time_text_embed\.",),
}
SPEC = FamilySpec(
    name="flux1",
    title="Flux.1",
    scripts=("flux_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(
        TextSlot("text_encoder", "lora_te1", "text_model."),
        TextSlot("text_encoder_2", "lora_te3", max_length=512, trainable=False),
    ),
    cond_padding={"l_pooled": PadRule(), "t5_out": PadRule(dim=1), "t5_attn_mask": PadRule(dim=1)},
    cache_suffix="_flux",
    cache_raw=False,
    text_cache_suffix="_flux_te",
    roles=ROLES,
    never_touch=(r"add_[qkv]_proj", r"to_add_out", r"_context", r"context_embedder", r"text_embedder"),
    joint_stream=(r"^single_transformer_blocks\.",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "Forge", "diffusers"), "comfy": ("ComfyUI",), "diffusers": ("diffusers", "ComfyUI")},
    sampling_defaults={"timestep_sampling": "flux_shift", "guidance_scale": 1.0},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    clip_l: str | None = None
    t5xxl: str | None = None
    ae: str | None = None
    t5xxl_max_token_length: int | None = None
    guidance_scale: float = 3.5


DOUBLE: tuple[tuple[str, str, int | None], ...] = tuple(
    (ours.format(**names), f"{stream}_{theirs}", part)
    for stream, names in (
        ("img", {"mod": "norm1", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0", "ff": "ff"}),
        ("txt", {"mod": "norm1_context", "q": "add_q_proj", "k": "add_k_proj", "v": "add_v_proj", "out": "to_add_out",
                 "ff": "ff_context"}),
    )
    for ours, theirs, part in (
        ("{mod}.linear", "mod.lin", None), ("attn.{q}", "attn.qkv", 0), ("attn.{k}", "attn.qkv", 1),
        ("attn.{v}", "attn.qkv", 2), ("attn.{out}", "attn.proj", None), ("{ff}.net.0.proj", "mlp.0", None),
        ("{ff}.net.2", "mlp.2", None),
    )
)  # fmt: skip
"""Modules of a double block: diffusers' path, original path, third of a fused module; in kohya's order."""
SINGLE = (("attn.to_q", "linear1", 0), ("attn.to_k", "linear1", 1), ("attn.to_v", "linear1", 2), ("proj_mlp", "linear1", 3),
          ("proj_out", "linear2", None), ("norm.linear", "modulation.lin", None))  # fmt: skip
NORMS = {"attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
         "attn.norm_added_q": "txt_attn.norm.query_norm", "attn.norm_added_k": "txt_attn.norm.key_norm"}  # fmt: skip
SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
ROOT = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear",
        "norm_out.linear": "final_layer.adaLN_modulation.1",
        **{f"time_text_embed.{a}.linear_{n}": f"{b}.{layer}" for a, b in (("timestep_embedder", "time_in"),
           ("text_embedder", "vector_in"), ("guidance_embedder", "guidance_in")) for n, layer in ((1, "in_layer"),
           (2, "out_layer"))}}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place; block modules first, in kohya's order."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    found: dict[str, Native] = {}
    for ours, theirs, count, table, norms in (
        ("transformer_blocks", "double_blocks", config["num_layers"], DOUBLE, NORMS),
        ("single_transformer_blocks", "single_blocks", config["num_single_layers"], SINGLE, SINGLE_NORMS),
    ):
        for i in range(count):
            for path, original, part in table:
                rows = None if part is None else (part * width, width if part < 3 else 4 * width)
                found[f"{ours}.{i}.{path}"] = Native(f"{theirs}.{i}.{original}", rows)
            for path, original in norms.items():
                found[f"{ours}.{i}.{path}"] = Native(f"{theirs}.{i}.{original}", leaf="scale")
    return found | {path: Native(original, swapped=path == "norm_out.linear") for path, original in ROOT.items()}


def matches(header: Header) -> bool:
    """Tell a Flux.1 transformer, in either spelling, from tensor names."""
    names = header.shapes
    original = "double_blocks.0.img_attn.norm.key_norm.scale" in names and "img_in.weight" in names
    ours = "single_transformer_blocks.0.proj_mlp.weight" in names and "time_text_embed.text_embedder.linear_1.weight" in names
    foreign = any(n.startswith(("distilled_guidance_layer.", "byt5_in.", "single_stream_modulation.")) for n in names)
    return ((original and "vector_in.in_layer.weight" in names) or ours) and not foreign


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell a Flux.1 folder by its transformer's class."""
    return (model_index.get("transformer") or [None, ""])[1] == "FluxTransformer2DModel"


def hints(header: Header) -> dict[str, Any]:
    """``in_channels`` where the transformer takes more than the 64 of packed latents (fill, control)."""
    shape = header.shapes.get("img_in.weight") or header.shapes.get("x_embedder.weight")
    return {"in_channels": shape[1]} if shape and shape[1] not in (64,) else {}


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same from a folder's configurations."""
    count = configs.get("transformer", {}).get("in_channels", 64)
    return {"in_channels": count} if count != 64 else {}


def base_version(options: Options) -> str:
    """kohya's ``ss_base_model_version``."""
    return "flux1"


def architecture(options: Options) -> str:
    """``modelspec.architecture``."""
    return "flux-1-dev"


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --clip_l, --t5xxl, --ae."""
    folders = ("scheduler", "transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    path = source.locate(request.source, MODEL_FLAG, folders, request.dtype)
    parts = _from_folder(path, request) if path.is_dir() else _from_files(path, request)
    other = request.options.ae or request.vae
    if other and "vae" in request.parts:
        place = source.locate(other, "--ae")
        parts.vae = vae.load(place, source.asset("flux1.json")["vae"], request.vae_dtype, request.device)
    parts.source, parts.name_or_path = request.source, str(path)
    return parts


def build_transformer(config: Mapping[str, Any], header: Header, request: LoadRequest) -> Any:
    """FluxTransformer2DModel of ``config`` with the weights in ``header``, in either spelling."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    model = weights.empty(lambda: FluxTransformer2DModel.from_config(dict(config)))
    found = native.places(header, list(model.state_dict()), native_modules(model.config), "img_in.weight")
    return weights.fill(model, found, weights.torch_dtype(request.dtype), request.device, "the transformer")


def _from_folder(path: Path, request: LoadRequest) -> Parts:
    configs = source.complete(path, MODEL_FLAG, ("transformer", "vae", "text_encoder", "text_encoder_2"))
    dtype, device = request.dtype, request.device
    scheduler = configs.get("scheduler") or source.asset("flux1.json")["scheduler"]
    parts = Parts(None, None, [], [], request.options, dict(scheduler))
    if "denoiser" in request.parts:
        parts.denoiser = build_transformer(configs["transformer"], weights.folder_weights(path / "transformer", dtype), request)
    if "text" in request.parts:
        found = clip.places(weights.folder_weights(path / "text_encoder", dtype), "")
        second = weights.folder_weights(path / "text_encoder_2", dtype)
        parts.text_encoders = [clip.build(configs["text_encoder"], found, dtype, device),
                               t5.build(configs["text_encoder_2"], second, dtype, device)]  # fmt: skip
        parts.tokenizers = [clip.load_tokenizer(path / "tokenizer"), t5.load_tokenizer(path / "tokenizer_2")]
    if "vae" in request.parts and not (request.options.ae or request.vae):
        header = weights.folder_weights(path / "vae", request.vae_dtype)
        parts.vae = vae.build(configs["vae"], header, request.vae_dtype, device)
    return parts


def _from_files(path: Path, request: LoadRequest) -> Parts:
    header, configs = weights.usable(weights.read_header(path)), source.asset("flux1.json")
    _complete(request)
    parts = Parts(None, None, [], [], request.options, dict(configs["scheduler"]))
    if "denoiser" in request.parts:
        parts.denoiser = build_transformer(configs["transformer"] | _sizes(header), header, request)
    if "text" in request.parts:
        files = {f: source.locate(v, f) for f, v in (("--clip_l", request.options.clip_l), ("--t5xxl", request.options.t5xxl))}
        first, second = (weights.usable(weights.read_header(p)) for p in files.values())
        found = clip.places(first, next((p for p in CLIP_PREFIXES if any(n.startswith(p) for n in first.shapes)), ""))
        parts.text_encoders = [clip.build(configs["text_encoder"], found, request.dtype, request.device),
                               t5.build(configs["text_encoder_2"], second, request.dtype, request.device)]  # fmt: skip
        parts.tokenizers = [clip.shipped_tokenizer(), t5.load_tokenizer(None)]
    return parts


CLIP_PREFIXES = ("text_encoders.clip_l.transformer.text_model.", "clip_l.transformer.text_model.", "text_model.")


def _complete(request: LoadRequest) -> None:
    """Say at once all the files that a transformer's file needs beside itself."""
    asked = (("text", "--clip_l", request.options.clip_l), ("text", "--t5xxl", request.options.t5xxl),
             ("vae", "--ae", request.options.ae or request.vae))  # fmt: skip
    lacks = [flag for part, flag, value in asked if part in request.parts and not value]
    if lacks:
        raise UserError(
            Problem(MODEL_FLAG, f"a Flux.1 file holds the transformer alone; {', '.join(lacks)} must be given too.",
                    "Give clip_l.safetensors, t5xxl_fp16.safetensors and ae.safetensors, or use a diffusers folder.")
        )  # fmt: skip


def _sizes(header: Header) -> dict[str, Any]:
    """What differs between Flux.1 files: number of blocks, guidance embedding, input channels."""
    names = [n.removeprefix("model.diffusion_model.") for n in header.shapes]
    original = any(n.startswith("double_blocks.") for n in names)
    double, single = ("double_blocks", "single_blocks") if original else ("transformer_blocks", "single_transformer_blocks")
    counts = {key: 1 + max(int(n.split(".")[1]) for n in names if n.startswith(stem + "."))
              for key, stem in (("num_layers", double), ("num_single_layers", single))}  # fmt: skip
    return counts | {"guidance_embeds": any("guidance_in" in n or "guidance_embedder" in n for n in names)}


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("flux1", seed)
    return Parts(built["transformer"], built["vae"], [built["text_encoder"], built["text_encoder_2"]],
                 [tiny_models.clip_tokenizer(), tiny_models.t5_tokenizer()], Options(t5xxl_max_token_length=32),
                 built["scheduler"], "tiny", "tiny")  # fmt: skip


def adapter_targets(parts: Parts) -> list[Target]:
    """CLIP's layers and the linear layers of all blocks, in kohya's order; parts of fused originals are told by ``fused``."""
    slot = SPEC.text_slots[0]
    text = [t for te in parts.text_encoders[:1] for t in clip.adapter_targets(te, slot.part, slot.lora_prefix)]
    if parts.denoiser is None:
        return text
    return text + [t for t in _targets(parts.denoiser) if "_blocks." in t.path]


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
    """Captions -> ``l_pooled`` B,768 (CLIP), ``t5_out`` B,L,4096 and ``t5_attn_mask`` B,L."""
    ids_BN77 = clip.token_ids(parts.tokenizers[0], captions, None)
    encoder = parts.text_encoders[0]
    pooled = encoder(ids_BN77[:, 0].to(next(encoder.parameters()).device)).pooler_output
    guided = parts.denoiser is None or parts.denoiser.config.guidance_embeds
    length = parts.options.t5xxl_max_token_length or (512 if guided else 256)
    states, mask = t5.encode(parts.tokenizers[1], parts.text_encoders[1], captions, length)
    return {"l_pooled": pooled, "t5_out": states, "t5_attn_mask": mask}


def size_cond(original_sizes: list[tuple[int, int]], crops: list[tuple[int, int]], target_size: tuple[int, int]) -> Cond:
    """Nothing: these models are not told sizes."""
    return {}


def schedule(options: Options, noise: Any) -> Schedule:
    """Rectified flow; ``flux_shift`` shifts by the number of image tokens."""
    from library.diffusion.timesteps import MuRange

    return flow.schedule(options, noise, MuRange())


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W."""
    import torch

    model, x = parts.denoiser, noised.x_BCHW
    dtype, device, size = run_dtype(model), x.device, tuple(x.shape[-2:])
    sigmas_B = (noised.timesteps_B.to(device).float() / 1000).to(dtype)
    guidance_B = torch.full((len(x),), parts.options.guidance_scale, device=device) if model.config.guidance_embeds else None
    text = cond["t5_out"].to(device, dtype)
    tokens = model(hidden_states=flow.packed(x.to(dtype)), encoder_hidden_states=text, timestep=sigmas_B,
                   pooled_projections=cond["l_pooled"].to(device, dtype), guidance=guidance_B,
                   img_ids=flow.grid_ids(size).to(device), txt_ids=torch.zeros(text.shape[1], 3, device=device),
                   return_dict=False)[0]  # fmt: skip
    return flow.unpacked(tokens, size)


def pipeline(parts: Parts) -> Any:
    """FluxPipeline over these parts."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    scheduler = FlowMatchEulerDiscreteScheduler.from_config(json.loads(json.dumps(parts.scheduler_config)))
    return FluxPipeline(scheduler=scheduler, vae=parts.vae, text_encoder=parts.text_encoders[0], tokenizer=parts.tokenizers[0],
                        text_encoder_2=parts.text_encoders[1], tokenizer_2=parts.tokenizers[1],
                        transformer=parts.denoiser)  # fmt: skip
