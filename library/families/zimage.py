"""Z-Image (base and Turbo): a single-stream transformer over patches and text, captions read by Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, language, tiny as tiny_models, vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

ROLES = {
    "text-stream": (r"^context_refiner\.", r"^cap_embedder\."),
    "self-attention": (r"\.attention\.to_(q|k|v|out\.0)$",),
    "feed-forward": (r"\.feed_forward\.w[123]$",),
    "modulation": (r"adaLN_modulation",),
    "projection": (r"^all_x_embedder\.", r"^all_final_layer\."),
    "time": (r"^t_embedder\.",),
}
SPEC = FamilySpec(
    name="zimage",
    title="Z-Image",
    scripts=("zimage_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=512, trainable=False),),
    cond_padding={"text": PadRule(dim=1), "text_mask": PadRule(dim=1)},
    cache_suffix="_zi",
    cache_raw=False,
    text_cache_suffix="_zi_te",
    roles=ROLES,
    never_touch=(r"^context_refiner\.", r"^cap_embedder\."),
    joint_stream=(r"^layers\.",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "diffusers"), "comfy": ("ComfyUI",), "diffusers": ("diffusers", "ComfyUI"),
              "apart": ("ComfyUI",)},
    distilled_marks=("turbo",),
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 2.0},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "shift"
    discrete_flow_shift: float = 2.0
    qwen3: str | None = None
    ae: str | None = None
    qwen3_max_token_length: int = 512


BLOCK = (("attention.to_q", "attention.qkv"), ("attention.to_k", "attention.qkv"), ("attention.to_v", "attention.qkv"),
         ("attention.to_out.0", "attention.out"), ("feed_forward.w1", "feed_forward.w1"),
         ("feed_forward.w2", "feed_forward.w2"), ("feed_forward.w3", "feed_forward.w3"),
         ("adaLN_modulation.0", "adaLN_modulation.0"), ("attention.norm_q", "attention.q_norm"),
         ("attention.norm_k", "attention.k_norm"),
         *((n, n) for n in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")))  # fmt: skip
"""Modules of a block: diffusers' path, original path."""
ROOT = {"all_x_embedder.2-1": "x_embedder", "all_final_layer.2-1.linear": "final_layer.linear",
        "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        **{n: n for n in ("t_embedder.mlp.0", "t_embedder.mlp.2", "cap_embedder.0", "cap_embedder.1")}}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place; the main blocks first."""
    head = config["dim"] // config["n_heads"]
    wide, narrow = config["dim"], config["n_kv_heads"] * head
    rows = {"attention.to_q": (0, wide), "attention.to_k": (wide, narrow), "attention.to_v": (wide + narrow, narrow)}
    found = {f"{stem}.{i}.{ours}": Native(f"{stem}.{i}.{theirs}", rows.get(ours))
             for stem, count in (("layers", config["n_layers"]), ("noise_refiner", config["n_refiner_layers"]),
                                 ("context_refiner", config["n_refiner_layers"]))
             for i in range(count) for ours, theirs in BLOCK}  # fmt: skip
    tokens = {name: Native(name, leaf="") for name in ("x_pad_token", "cap_pad_token")}
    return found | {path: Native(original) for path, original in ROOT.items()} | tokens


def matches(header: Header) -> bool:
    """Tell a Z-Image transformer, in either spelling, from tensor names."""
    return {"layers.0.adaLN_modulation.0.weight", "cap_embedder.0.weight"} <= header.shapes.keys()


TRANSFORMER = Transformer("transformer_z_image", "ZImageTransformer2DModel", "x_embedder.weight", native_modules)
QWEN3 = assemble.Text("qwen3", language.builder(language.QWEN3), language.qwen_tokenizer(),
                      f"model.{language.LAYER}")  # fmt: skip
RECIPE = assemble.Recipe(
    SPEC.title, "zimage.json", TRANSFORMER,
    assemble.counted(n_layers="layers", n_refiner_layers="noise_refiner"), (QWEN3,), vae, vae_option="ae",
)  # fmt: skip

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("zimage"), answers.always("Z-Image")
encode_image, decode_latents, normalise, denormalise = answers.images(vae)
schedule = answers.flow_schedule()
pipeline = answers.pipeline("ZImagePipeline")


def _is_usual(target: Target) -> bool:
    """Attention and feed-forward of the main blocks, as musubi-tuner chooses; refiners and modulation are left out."""
    return target.path.startswith("layers.") and target.role != "modulation"


adapter_targets, extra_targets = answers.targets(TRANSFORMER, ROLES, _is_usual)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --qwen3, --vae (or --ae)."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("zimage", seed)
    return Parts(built["transformer"], built["vae"], [built["text_encoder"]], [tiny_models.qwen_tokenizer()], Options(),
                 built["scheduler"], "tiny", "tiny")  # fmt: skip


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``text`` B,L,2560 (Qwen3's last but one state, thinking allowed) and ``text_mask`` B,L."""
    asked = [f"<|im_start|>user\n{caption}<|im_end|>\n<|im_start|>assistant\n" for caption in captions]
    length = parts.options.qwen3_max_token_length
    states, mask = language.encode(parts.tokenizers[0], parts.text_encoders[0], asked, length)
    return {"text": states, "text_mask": mask}


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W; the model runs from noise at 0 to picture at 1 and answers x0 - noise."""
    import torch

    model, x = parts.denoiser, noised.x_BCHW
    dtype, device = run_dtype(model), x.device
    texts = [text[mask.bool()] for text, mask in zip(cond["text"].to(device, dtype), cond["text_mask"].to(device), strict=True)]
    times_B = 1 - noised.timesteps_B.to(device).float() / 1000
    found = model(list(x.to(dtype)[:, :, None]), times_B, texts, return_dict=False)[0]
    return -torch.stack(list(found))[:, :, 0]
