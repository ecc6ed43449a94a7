"""HunyuanImage 2.1: joint and single blocks over latents of factor 32, captions read by Qwen2.5-VL, quoted words by ByT5."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, flux1, hunyuan_vae, language, qwenimage, roles, t5, tiny as tiny_models
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

SPEC = FamilySpec(
    name="hunyuanimage",
    title="HunyuanImage 2.1",
    scripts=("hunyuan_image_train_network.py",),
    target_space="flow",
    latent_channels=64,
    vae_factor=32,
    bucket_step=32,
    default_resolution=2048,
    text_slots=(TextSlot("text_encoder", "lora_te1", max_length=1000, trainable=False),
                TextSlot("text_encoder_2", "lora_te2", max_length=128, trainable=False)),
    cond_padding={"vlm_embed": PadRule(dim=1), "vlm_mask": PadRule(dim=1), "byt5_embed": PadRule(dim=1),
                  "byt5_mask": PadRule(dim=1), "ocr_mask": PadRule()},
    cache_suffix="_hi",
    cache_raw=False,
    text_cache_suffix="_hi_te",
    roles=roles.ROLES,
    never_touch=(*flux1.SPEC.never_touch, r"token_refiner"),
    joint_stream=(r"^single_transformer_blocks\.",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": (), "comfy": ("ComfyUI",), "diffusers": ("diffusers",),
              "apart": ()},
    sampling_defaults={"discrete_flow_shift": 5.0},
)  # fmt: skip


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    discrete_flow_shift: float = 5.0
    text_encoder: str | None = None
    qwen_vl: str | None = None
    byt5: str | None = None
    guidance_scale: float = 3.5
    """The value that guidance-distilled models are given; others take none."""


DOUBLE = tuple((ours, theirs.replace("mod.lin", "mod.linear").replace("attn.qkv", "attn_qkv").replace("attn.proj", "attn_proj")
                .replace("mlp.0", "mlp.fc1").replace("mlp.2", "mlp.fc2"), part) for ours, theirs, part in flux1.DOUBLE)
SINGLE = (*flux1.SINGLE[:5], ("norm.linear", "modulation.linear", None))
"""Modules of a block, as Flux.1's but for the words: diffusers' path, original path, part of a fused module."""
NORMS = {f"attn.norm_{'added_' if stream == 'txt' else ''}{x}": f"{stream}_attn_{x}_norm" for stream in ("img", "txt")
         for x in "qk"}  # fmt: skip
SINGLE_NORMS = {"attn.norm_q": "q_norm", "attn.norm_k": "k_norm"}
REFINER = {**{f"attn.to_{x}": "self_attn_qkv" for x in "qkv"}, "attn.to_out.0": "self_attn_proj", "norm1": "norm1",
           "norm2": "norm2", "ff.net.0.proj": "mlp.fc1", "ff.net.2": "mlp.fc2",
           "norm_out.linear": "adaLN_modulation.1"}  # fmt: skip
TEXT_IN = {"proj_in": "input_embedder",
           **{f"time_text_embed.{a}.linear_{n}": f"{b}{numbers[n]}" for a, b, numbers in (
               ("timestep_embedder", "t_embedder.mlp.", {1: "0", 2: "2"}),
               ("text_embedder", "c_embedder.linear_", {1: "1", 2: "2"})) for n in (1, 2)}}  # fmt: skip
ROOT = {"x_embedder.proj": "img_in.proj", "proj_out": "final_layer.linear",
        **{f"context_embedder.{a}": f"txt_in.{b}" for a, b in TEXT_IN.items()},
        **{f"context_embedder_2.{a}": f"byt5_in.{b}" for a, b in (("norm", "layernorm"), ("linear_1", "fc1"),
                                                                  ("linear_2", "fc2"), ("linear_3", "fc3"))},
        **{f"time_guidance_embed.{a}.linear_{n}": f"{b}.mlp.{2 * n - 2}" for n in (1, 2) for a, b in (
            ("timestep_embedder", "time_in"), ("guidance_embedder", "guidance_in"), ("timestep_embedder_r", "time_r_in"))},
        "norm_out.linear": "final_layer.adaLN_modulation.1"}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place; block modules first, in kohya's order."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    inner = int(width * config["mlp_ratio"])
    found: dict[str, Native] = {}
    for ours, theirs, count, table, norms in (
        ("transformer_blocks", "double_blocks", config["num_layers"], DOUBLE, NORMS),
        ("single_transformer_blocks", "single_blocks", config["num_single_layers"], SINGLE, SINGLE_NORMS),
    ):
        for i in range(count):
            for path, original, part in table:
                rows = None if part is None else (part * width, width if part < 3 else inner)
                found[f"{ours}.{i}.{path}"] = Native(f"{theirs}.{i}.{original}", rows)
            found |= {f"{ours}.{i}.{path}": Native(f"{theirs}.{i}.{original}") for path, original in norms.items()}
    for i in range(config["num_refiner_layers"]):
        stem, original = f"context_embedder.token_refiner.refiner_blocks.{i}", f"txt_in.individual_token_refiner.blocks.{i}"
        thirds = {f"attn.to_{x}": (part * width, width) for part, x in enumerate("qkv")}
        found |= {f"{stem}.{path}": Native(f"{original}.{name}", thirds.get(path)) for path, name in REFINER.items()}
    return found | {path: Native(original, swapped=path == "norm_out.linear") for path, original in ROOT.items()}


def matches(header: Header) -> bool:
    """Tell a HunyuanImage 2.1 transformer, in either spelling, from tensor names."""
    ours = {"context_embedder_2.linear_1.weight", "context_embedder.token_refiner.refiner_blocks.0.norm1.weight",
            "single_transformer_blocks.0.proj_mlp.weight"}  # fmt: skip
    return {"byt5_in.fc1.weight", "double_blocks.0.img_attn_qkv.weight"} <= header.shapes.keys() or ours <= header.shapes.keys()


def _sizes(header: Header) -> dict[str, Any]:
    counts = assemble.counted(num_layers=("double_blocks", "transformer_blocks"),
                              num_single_layers=("single_blocks", "single_transformer_blocks"))(header)  # fmt: skip
    names = [name.rpartition("diffusion_model.")[2] for name in header.shapes]
    return counts | {"guidance_embeds": any(n.startswith(("guidance_in.", "time_guidance_embed.guidance")) for n in names),
                     "use_meanflow": any(n.startswith(("time_r_in.", "time_guidance_embed.timestep_embedder_r")) for n in names)}


TRANSFORMER = Transformer("transformer_hunyuanimage", "HunyuanImageTransformer2DModel", "byt5_in.fc1.weight", native_modules)


def _byt5_tokenizer(folder: Any) -> Any:
    """Bytes need no vocabulary file."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


TEXTS = (
    assemble.Text("text_encoder", language.builder(language.QWEN25_VL), language.qwen_tokenizer(thinks=False),
                  f"model.{language.LAYER}", "qwen_vl"),
    assemble.Text("byt5", t5.build, _byt5_tokenizer, "byt5_small."),
)  # fmt: skip
RECIPE = assemble.Recipe(SPEC.title, "hunyuanimage.json", TRANSFORMER, _sizes, TEXTS, hunyuan_vae)

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("hunyuan-image-2.1"), answers.always("hunyuan-image-2.1")
encode_image, decode_latents, normalise, denormalise = answers.images(hunyuan_vae)
schedule = answers.flow_schedule(patch=1)
pipeline = answers.pipeline("HunyuanImagePipeline")


def _is_usual(target: Target) -> bool:
    """The linear layers of the two kinds of blocks, as kohya chooses."""
    return target.path.startswith(("transformer_blocks.", "single_transformer_blocks."))


adapter_targets, extra_targets = answers.targets(TRANSFORMER, SPEC.roles, _is_usual)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --text_encoder (or --qwen_vl), --byt5, --vae."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    made = tiny_models.parts("hunyuanimage", seed, Options(), [tiny_models.qwen_tokenizer(), _byt5_tokenizer(None)])
    made.text_encoders[0] = made.text_encoders[0].model.language_model
    return made


QUOTES = (r"'(.*?)'", r'"(.*?)"', "\u2018(.*?)\u2019", "\u201c(.*?)\u201d")
BYT5_LENGTH = 128


def quoted(caption: str) -> str | None:
    """What ByT5 reads of a caption: its quoted words in the form the model was trained with; None where there are none."""
    found = [text for pattern in QUOTES for text in re.findall(pattern, caption)]
    return ". ".join(f'Text "{text}"' for text in found) + ". " if found else None


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> kohya's five: ``vlm_embed`` B,L,3584 and its mask, ``byt5_embed`` B,128,1472 and its mask, ``ocr_mask`` B."""
    import torch

    asked = [f"<|im_start|>system\n{qwenimage.SYSTEM}<|im_end|>\n<|im_start|>user\n{caption}<|im_end|>" for caption in captions]
    states, mask = language.encode(parts.tokenizers[0], parts.text_encoders[0], asked, 1000, -3, qwenimage.INSTRUCTION_TOKENS)
    texts, encoder = [quoted(caption) for caption in captions], parts.text_encoders[1]
    made = parts.tokenizers[1]([text or "" for text in texts], padding="max_length", truncation=True, max_length=BYT5_LENGTH,
                               return_tensors="pt")  # fmt: skip
    device = next(encoder.parameters()).device
    has_B = torch.tensor([text is not None for text in texts], device=device)
    own = made.attention_mask.to(device)
    words = encoder(made.input_ids.to(device), attention_mask=own.float(), return_dict=False)[0]
    return {"vlm_embed": states, "vlm_mask": mask, "byt5_embed": words * has_B[:, None, None], "byt5_mask": own * has_B[:, None],
            "ocr_mask": has_B}  # fmt: skip


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,64,H,W."""
    import torch

    model, x = parts.denoiser, noised.x_BCHW
    dtype, device = run_dtype(model), x.device
    times_B = noised.timesteps_B.to(device).to(dtype)
    guidance_B = torch.full((len(x),), 1000 * parts.options.guidance_scale, dtype=dtype, device=device)
    return model(hidden_states=x.to(dtype), timestep=times_B, encoder_hidden_states=cond["vlm_embed"].to(device, dtype),
                 encoder_attention_mask=cond["vlm_mask"].to(device), timestep_r=times_B if model.config.use_meanflow else None,
                 encoder_hidden_states_2=cond["byt5_embed"].to(device, dtype),
                 encoder_attention_mask_2=cond["byt5_mask"].to(device),
                 guidance=guidance_B if model.config.guidance_embeds else None, return_dict=False)[0]  # fmt: skip
