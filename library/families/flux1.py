"""Flux.1 (dev, schnell): a transformer of joint and single blocks over packed latents, CLIP and T5 texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, clip, flow, t5, tiny as tiny_models, vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

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
    loads_in={"kohya": ("ComfyUI", "Forge", "diffusers"), "comfy": ("ComfyUI",), "diffusers": ("diffusers", "ComfyUI"),
              "apart": ("ComfyUI",)},
    sampling_defaults={"timestep_sampling": "flux_shift", "guidance_scale": 1.0},
    recommended={"timestep_sampling": "flux_shift", "model_prediction_type": "raw", "guidance_scale": 1.0},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    clip_l: str | None = None
    t5xxl: str | None = None
    ae: str | None = None
    t5xxl_max_token_length: int | None = None
    guidance_scale: float = 3.5
    apply_t5_attn_mask: bool = False
    model_type: str = "flux"


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


def hints(header: Header) -> dict[str, Any]:
    """``in_channels`` where the transformer takes more than the 64 of packed latents (fill, control)."""
    shape = header.shapes.get("img_in.weight") or header.shapes.get("x_embedder.weight")
    return {"in_channels": shape[1]} if shape and shape[1] not in (64,) else {}


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The same from a folder's configurations."""
    count = configs.get("transformer", {}).get("in_channels", 64)
    return {"in_channels": count} if count != 64 else {}


def _sizes(header: Header) -> dict[str, Any]:
    """What differs between Flux.1 files: number of blocks, guidance embedding, input channels."""
    names = [n.removeprefix("model.diffusion_model.") for n in header.shapes]
    original = any(n.startswith("double_blocks.") for n in names)
    double, single = ("double_blocks", "single_blocks") if original else ("transformer_blocks", "single_transformer_blocks")
    counts = {key: 1 + max(int(n.split(".")[1]) for n in names if n.startswith(stem + "."))
              for key, stem in (("num_layers", double), ("num_single_layers", single))}  # fmt: skip
    return counts | {"guidance_embeds": any("guidance_in" in n or "guidance_embedder" in n for n in names)}


TRANSFORMER = Transformer("transformer_flux", "FluxTransformer2DModel", "img_in.weight", native_modules)
CLIP_L = assemble.Text("clip_l", clip.builder("clip_l", projection=False), clip.load_tokenizer, "text_encoders.clip_l.")
T5 = assemble.Text("t5xxl", t5.build, lambda folder: t5.load_tokenizer(folder), "t5xxl.transformer.encoder.final_layer_norm.weight")
RECIPE = assemble.Recipe(SPEC.title, "flux1.json", TRANSFORMER, _sizes, (CLIP_L, T5), vae, vae_option="ae")

matches_index = answers.folder_of(TRANSFORMER.name)
size_cond = answers.no_sizes
base_version, architecture = answers.always("flux1"), answers.always("flux-1-dev")
encode_image, decode_latents, normalise, denormalise = answers.images(vae)
schedule = answers.flow_schedule()
pipeline = answers.pipeline("FluxPipeline")


def _clip_targets(parts: Parts) -> list[Target]:
    slot = SPEC.text_slots[0]
    return [t for te in parts.text_encoders[:1] for t in clip.adapter_targets(te, slot.part, slot.lora_prefix)]


adapter_targets, extra_targets = answers.targets(TRANSFORMER, ROLES, answers.in_blocks, _clip_targets)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --clip_l, --t5xxl, --ae (or --vae)."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("flux1", seed)
    return Parts(built["transformer"], built["vae"], [built["text_encoder"], built["text_encoder_2"]],
                 [tiny_models.clip_tokenizer(), tiny_models.t5_tokenizer()], Options(t5xxl_max_token_length=32),
                 built["scheduler"], "tiny", "tiny")  # fmt: skip


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``l_pooled`` B,768 (CLIP), ``t5_out`` B,L,4096 and ``t5_attn_mask`` B,L."""
    ids_BN77 = clip.token_ids(parts.tokenizers[0], captions, None)
    encoder = parts.text_encoders[0]
    pooled = encoder(ids_BN77[:, 0].to(next(encoder.parameters()).device)).pooler_output
    guided = parts.denoiser is None or parts.denoiser.config.guidance_embeds
    length = parts.options.t5xxl_max_token_length or (512 if guided else 256)
    states, mask = t5.encode(parts.tokenizers[1], parts.text_encoders[1], captions, length,
                             parts.options.apply_t5_attn_mask)  # fmt: skip
    return {"l_pooled": pooled, "t5_out": states, "t5_attn_mask": mask}


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W."""
    import torch

    model, x = parts.denoiser, noised.x_BCHW
    dtype, device, size = run_dtype(model), x.device, tuple(x.shape[-2:])
    sigmas_B = (noised.timesteps_B.to(device).float() / 1000).to(dtype)
    guidance_B = torch.full((len(x),), parts.options.guidance_scale, device=device) if model.config.guidance_embeds else None
    text, tokens = cond["t5_out"].to(device, dtype), flow.packed(x.to(dtype))
    hidden = {}
    if parts.options.apply_t5_attn_mask:
        words_BL, picture_BL = cond["t5_attn_mask"].to(device).bool(), torch.ones(tokens.shape[:2], dtype=torch.bool, device=device)
        hidden = {"joint_attention_kwargs": {"attention_mask": torch.cat([words_BL, picture_BL], 1)[:, None, None]}}
    found = model(hidden_states=tokens, encoder_hidden_states=text, timestep=sigmas_B, guidance=guidance_B,
                  pooled_projections=cond["l_pooled"].to(device, dtype), img_ids=flow.grid_ids(size).to(device),
                  txt_ids=torch.zeros(text.shape[1], 3, device=device), return_dict=False, **hidden)[0]  # fmt: skip
    return flow.unpacked(found, size)
