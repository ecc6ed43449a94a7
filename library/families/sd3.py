"""Stable Diffusion 3 and 3.5: a transformer of joint blocks over latents, two CLIP encoders and T5."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, clip, flow, sd3_positions, t5, tiny as tiny_models, vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, Share, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule

ROLES = {
    "text-stream": (r"\.attn\.(add_[qkv]_proj|to_add_out)$", r"\.ff_context\.net\.", r"\.norm1_context\.linear$"),
    "self-attention": (r"\.attn2?\.to_(q|k|v|out\.0)$",),
    "feed-forward": (r"\.ff\.net\.",),
    "projection": (r"^proj_out$", r"^context_embedder$", r"^pos_embed\.proj$"),
    "modulation": (r"\.norm1\.linear$", r"^norm_out\.linear$"),
    "time": (r"^time_text_embed\.",),
}
CLIP_L = 3 / 8
"""The share of CLIP-L in what both CLIPs answer: 768 of 2048."""
SPEC = FamilySpec(
    name="sd3",
    title="Stable Diffusion 3 / 3.5",
    scripts=("sd3_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te1"), TextSlot("text_encoder_2", "lora_te2"),
                TextSlot("text_encoder_3", "lora_te3", max_length=256, trainable=False)),
    cond_padding={"lg_out": PadRule(), "lg_pooled": PadRule(), "t5_out": PadRule(dim=1), "t5_attn_mask": PadRule(dim=1)},
    cache_suffix="_sd3",
    cache_raw=False,
    text_cache_suffix="_sd3_te",
    roles=ROLES,
    never_touch=(r"add_[qkv]_proj", r"to_add_out", r"_context", r"context_embedder", r"text_embedder"),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI",), "comfy": ("ComfyUI",), "diffusers": ("diffusers", "ComfyUI"),
              "apart": ("ComfyUI",)},
    cond_dropout={
        "clip_l_dropout_rate": (Share("lg_out", 0, CLIP_L), Share("lg_pooled", 0, CLIP_L)),
        "clip_g_dropout_rate": (Share("lg_out", CLIP_L), Share("lg_pooled", CLIP_L)),
        "t5_dropout_rate": (Share("t5_out"), Share("t5_attn_mask")),
    },
)


@dataclass(frozen=True)
class Options:
    """Options of this family, named like their flags."""

    clip_l: str | None = None
    clip_g: str | None = None
    t5xxl: str | None = None
    t5xxl_max_token_length: int | None = None
    weighting_scheme: str = "uniform"
    logit_mean: float = 0.0
    logit_std: float = 1.0
    mode_scale: float = 1.29
    training_shift: float = 1.0
    apply_lg_attn_mask: bool = False
    apply_t5_attn_mask: bool = False
    clip_l_dropout_rate: float = 0.0
    clip_g_dropout_rate: float = 0.0
    t5_dropout_rate: float = 0.0
    pos_emb_random_crop_rate: float = 0.0
    enable_scaled_pos_embed: bool = False
    resolutions: tuple[tuple[int, int], ...] = ()
    """(width, height) of the data sets, which ``enable_scaled_pos_embed`` follows; no flag."""


STREAMS = (
    ("context_block", (("attn.add_q_proj", "attn.qkv", 0), ("attn.add_k_proj", "attn.qkv", 1),
                       ("attn.add_v_proj", "attn.qkv", 2), ("attn.to_add_out", "attn.proj", None),
                       ("ff_context.net.0.proj", "mlp.fc1", None), ("ff_context.net.2", "mlp.fc2", None),
                       ("norm1_context.linear", "adaLN_modulation.1", None),
                       ("attn.norm_added_q", "attn.ln_q", None), ("attn.norm_added_k", "attn.ln_k", None))),
    ("x_block", (("attn.to_q", "attn.qkv", 0), ("attn.to_k", "attn.qkv", 1), ("attn.to_v", "attn.qkv", 2),
                 ("attn.to_out.0", "attn.proj", None), ("attn2.to_q", "attn2.qkv", 0), ("attn2.to_k", "attn2.qkv", 1),
                 ("attn2.to_v", "attn2.qkv", 2), ("attn2.to_out.0", "attn2.proj", None), ("ff.net.0.proj", "mlp.fc1", None),
                 ("ff.net.2", "mlp.fc2", None), ("norm1.linear", "adaLN_modulation.1", None),
                 ("attn.norm_q", "attn.ln_q", None), ("attn.norm_k", "attn.ln_k", None),
                 ("attn2.norm_q", "attn2.ln_q", None), ("attn2.norm_k", "attn2.ln_k", None))),
)  # fmt: skip
"""Original half of a joint block -> diffusers' path, original path, third of a fused module; in kohya's order."""
ROOT = {"pos_embed.pos_embed": Native("pos_embed", leaf=""), "pos_embed.proj": Native("x_embedder.proj"),
        "context_embedder": Native("context_embedder"), "proj_out": Native("final_layer.linear"),
        "norm_out.linear": Native("final_layer.adaLN_modulation.1", swapped=True),
        **{f"time_text_embed.{a}.linear_{n}": Native(f"{b}.mlp.{layer}") for n, layer in ((1, 0), (2, 2))
           for a, b in (("timestep_embedder", "t_embedder"), ("text_embedder", "y_embedder"))}}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place; block modules first, in kohya's order."""
    width, last = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"] - 1
    found: dict[str, Native] = {}
    for i in range(config["num_layers"]):
        for half, table in STREAMS:
            for path, original, part in table:
                rows = None if part is None else (part * width, width)
                # The last block's text half only scales and shifts; the original has these two the other way round.
                swapped = i == last and path == "norm1_context.linear"
                found[f"transformer_blocks.{i}.{path}"] = Native(f"joint_blocks.{i}.{half}.{original}", rows, swapped)
    return found | ROOT


def matches(header: Header) -> bool:
    """Tell an SD3 or 3.5 transformer, in either spelling, from tensor names."""
    ours = "transformer_blocks.0.norm1_context.linear.weight" in header.shapes and "pos_embed.proj.weight" in header.shapes
    return "joint_blocks.0.x_block.attn.qkv.weight" in header.shapes or ours


def _sizes(header: Header) -> dict[str, Any]:
    """What differs between SD3 medium, 3.5 medium and 3.5 large, from shapes alone."""
    prefix = "model.diffusion_model." if "model.diffusion_model.x_embedder.proj.weight" in header.shapes else ""
    names = [n[len(prefix):] for n in header.shapes if n.startswith(f"{prefix}joint_blocks.")]
    width = header.shapes[f"{prefix}x_embedder.proj.weight"][0]
    return {"num_layers": 1 + max(int(n.split(".")[1]) for n in names), "caption_projection_dim": width,
            "num_attention_heads": width // 64, "pos_embed_max_size": math.isqrt(header.shapes[f"{prefix}pos_embed"][1]),
            "dual_attention_layers": sorted({int(n.split(".")[1]) for n in names if ".attn2." in n}),
            "qk_norm": "rms_norm" if any(n.endswith(".ln_q.weight") for n in names) else None}  # fmt: skip


TRANSFORMER = Transformer("transformer_sd3", "SD3Transformer2DModel", "x_embedder.proj.weight", native_modules)
TEXTS = (
    assemble.Text("clip_l", clip.builder("clip_l", projection=True), clip.load_tokenizer, "text_encoders.clip_l."),
    assemble.Text("clip_g", clip.builder("clip_g", projection=True), lambda folder: clip.load_tokenizer(folder, "!"),
                  "text_encoders.clip_g."),
    assemble.Text("t5xxl", t5.build, lambda folder: t5.load_tokenizer(folder), "text_encoders.t5xxl."),
)  # fmt: skip
RECIPE = assemble.Recipe(SPEC.title, "sd3.json", TRANSFORMER, _sizes, TEXTS, vae)

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("sd3"), answers.always("stable-diffusion-3")
encode_image, decode_latents, normalise, denormalise = answers.images(vae)
pipeline = answers.pipeline("StableDiffusion3Pipeline")


def _clip_targets(parts: Parts) -> list[Target]:
    return [t for slot, encoder in zip(SPEC.text_slots[:2], parts.text_encoders, strict=False)
            for t in clip.adapter_targets(encoder, slot.part, slot.lora_prefix)]  # fmt: skip


adapter_targets, extra_targets = answers.targets(TRANSFORMER, ROLES, answers.in_blocks, _clip_targets)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or a single file with --clip_l, --clip_g and --t5xxl where it lacks them."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("sd3", seed)
    tokenizers = [tiny_models.clip_tokenizer(), tiny_models.clip_tokenizer("!"), tiny_models.t5_tokenizer()]
    return Parts(built["transformer"], built["vae"], [built[f"text_encoder{i}"] for i in ("", "_2", "_3")], tokenizers,
                 Options(t5xxl_max_token_length=32), built["scheduler"], "tiny", "tiny")  # fmt: skip


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``lg_out`` B,77,2048, ``lg_pooled`` B,2048 (CLIPs), ``t5_out`` B,L,4096 and ``t5_attn_mask`` B,L."""
    import torch

    states, pooled = [], []
    for tokenizer, encoder in zip(parts.tokenizers[:2], parts.text_encoders[:2], strict=True):
        ids_BN77 = clip.token_ids(tokenizer, captions, None)
        seen_BN77 = clip.real_tokens(ids_BN77, tokenizer.eos_token_id) if parts.options.apply_lg_attn_mask else None
        state, pool = clip.penultimate(encoder, ids_BN77, seen_BN77)
        states.append(state)
        pooled.append(pool)
    length = parts.options.t5xxl_max_token_length or 256
    text, mask = t5.encode(parts.tokenizers[2], parts.text_encoders[2], captions, length, parts.options.apply_t5_attn_mask)
    return {"lg_out": torch.cat(states, -1), "lg_pooled": torch.cat(pooled, -1), "t5_out": text, "t5_attn_mask": mask}


def schedule(options: Options, noise: Any) -> Schedule:
    """Rectified flow; noise levels by ``weighting_scheme``, moved by ``training_shift``."""
    from library.diffusion.schedule import PICTURE, FlowSchedule
    from library.diffusion.timesteps import WEIGHTS, shift_sigmas

    draw = flow.density(options)
    first, last = noise.min_timestep or 0, 1000 if noise.max_timestep is None else noise.max_timestep
    return FlowSchedule(lambda count, size: shift_sigmas(draw(count, size), options.training_shift), first=first, last=last,
                        weigh=WEIGHTS[options.weighting_scheme], reading=PICTURE)  # fmt: skip


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W."""
    import torch

    dtype, x = run_dtype(parts.denoiser), noised.x_BCHW
    text = cond["t5_out"].to(x.device, dtype)
    both = cond["lg_out"].to(x.device, dtype)
    both = torch.nn.functional.pad(both, (0, text.shape[-1] - both.shape[-1]))
    with sd3_positions.of_training(parts.denoiser.pos_embed, parts.options):
        return parts.denoiser(hidden_states=x.to(dtype), encoder_hidden_states=torch.cat([both, text], dim=1),
                              pooled_projections=cond["lg_pooled"].to(x.device, dtype),
                              timestep=noised.timesteps_B.to(x.device), return_dict=False)[0]  # fmt: skip
