"""Anima: Cosmos-Predict2's transformer over Qwen-Image's latents; an adapter makes Qwen3's states of T5's tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, language, roles, source, t5, tiny as tiny_models, video_vae, weights
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import PREFIXES, Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

SPEC = FamilySpec(
    name="anima",
    title="Anima",
    scripts=("anima_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=512),),
    cond_padding={name: PadRule(dim=1) for name in ("prompt_embeds", "attn_mask", "t5_input_ids", "t5_attn_mask")},
    cache_suffix="_anima",
    cache_raw=False,
    text_cache_suffix="_anima_te",
    roles=roles.ROLES,
    never_touch=(r"^text_conditioner\.", r"\.attn2\.to_[kv]$"),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI",), "comfy": ("ComfyUI", "diffusers"), "diffusers": ("diffusers",)},
    sampling_defaults={"timestep_sampling": "sigmoid", "discrete_flow_shift": 1.0},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "sigmoid"
    discrete_flow_shift: float = 1.0
    qwen3: str | None = None
    llm_adapter_path: str | None = None
    t5_tokenizer_path: str | None = None
    qwen3_max_token_length: int = 512
    t5_max_token_length: int = 512
    train_llm_adapter: bool = False
    """Whether the text adapter's blocks carry adapters, too: of ``--network_args``, as kohya has it."""


ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "output_proj", "norm_q": "q_norm",
             "norm_k": "k_norm"}  # fmt: skip
PARTS = (("norm1", "self_attn"), ("norm2", "cross_attn"), ("norm3", "mlp"))
BLOCK = {**{f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
            for a, b in ATTENTION.items()},
         "ff.net.0.proj": "mlp.layer1", "ff.net.2": "mlp.layer2",
         **{f"{norm}.linear_{n}": f"adaln_modulation_{part}.{n}" for norm, part in PARTS for n in (1, 2)}}  # fmt: skip
"""Modules of a block: diffusers' path, original path."""
ROOT = {"patch_embed.proj": "x_embedder.proj.1", "time_embed.norm": "t_embedding_norm", "proj_out": "final_layer.linear",
        **{f"time_embed.t_embedder.linear_{n}": f"t_embedder.1.linear_{n}" for n in (1, 2)},
        **{f"norm_out.linear_{n}": f"final_layer.adaln_modulation.{n}" for n in (1, 2)}}  # fmt: skip
ADAPTER = "text_conditioner"
ADAPTER_BLOCK = (*(f"{kind}_attn.{name}" for kind in ("self", "cross") for name in ("q_proj", "q_norm", "k_proj", "k_norm",
                                                                                   "v_proj", "o_proj")),
                 "mlp.0", "mlp.2", "norm_self_attn", "norm_cross_attn", "norm_mlp")  # fmt: skip
"""Modules of a block of the adapter, which is spelled alike everywhere but for its own name, ``llm_adapter``."""
ADAPTER_BLOCKS = 6


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module with weights -> its original place, in kohya's order: the adapter, the blocks."""
    inner = [f"blocks.{i}.{name}" for i in range(ADAPTER_BLOCKS) for name in ADAPTER_BLOCK]
    found = {f"{ADAPTER}.{name}": Native(f"llm_adapter.{name}") for name in ("embed", "in_proj", *inner, "out_proj", "norm")}
    for i in range(config["num_layers"]):
        found |= {f"transformer_blocks.{i}.{ours}": Native(f"blocks.{i}.{theirs}") for ours, theirs in BLOCK.items()}
    return found | {path: Native(original) for path, original in ROOT.items()}


def matches(header: Header) -> bool:
    """Tell an Anima transformer from names: Cosmos-Predict2's with the adapter beside it, in either spelling."""
    names = header.shapes.keys()
    original = {"x_embedder.proj.1.weight", "blocks.0.self_attn.q_proj.weight"} <= names
    ours = {"patch_embed.proj.weight", "time_embed.t_embedder.linear_1.weight"} <= names
    return (original and "llm_adapter.embed.weight" in names) or (ours and f"{ADAPTER}.embed.weight" in names)


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell an Anima folder by its adapter."""
    return (model_index.get(ADAPTER) or [None, ""])[1] == "AnimaTextConditioner"


TRANSFORMER = Transformer("transformer_cosmos", "CosmosTransformer3DModel", "x_embedder.proj.1.weight", native_modules)
QWEN3 = assemble.Text("qwen3", language.builder(language.QWEN3), language.qwen_tokenizer(),
                      f"model.{language.LAYER}")  # fmt: skip
RECIPE = assemble.Recipe(SPEC.title, "anima.json", TRANSFORMER,
                         assemble.counted(num_layers=("net.blocks", "diffusion_model.blocks", "blocks", "transformer_blocks")),
                         (QWEN3,), video_vae)  # fmt: skip

hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("anima"), answers.always("anima-preview")
encode_image, decode_latents, normalise, denormalise = answers.images(video_vae)
schedule = answers.flow_schedule()


def _is_usual(target: Target) -> bool:
    """Attention and feed-forward of the blocks, as kohya chooses; the adapter and the modulation are left out."""
    return target.path.startswith("transformer_blocks.") and ".norm" not in target.path


_usual_targets, _others = answers.targets(TRANSFORMER, SPEC.roles, _is_usual, answers.language_targets)


def _of_text_adapter(parts: Parts) -> list[Target]:
    inside = [target for target in _others(parts) if target.path.startswith(f"{ADAPTER}.blocks.")]
    return inside if parts.options.train_llm_adapter else []


def adapter_targets(parts: Parts) -> list[Target]:
    """Attention and feed-forward of the blocks and the text encoder's layers; the text adapter's where it is trained."""
    return _usual_targets(parts) + _of_text_adapter(parts)


def extra_targets(parts: Parts) -> list[Target]:
    """The other linear layers: modulation, first and last layers, the text adapter."""
    chosen = {target.path for target in _of_text_adapter(parts)}
    return [target for target in _others(parts) if target.path not in chosen]


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder, or from single files: transformer with the adapter, --qwen3, --vae."""
    parts = assemble.load(request, RECIPE)
    path = Path(parts.name_or_path)
    if parts.denoiser is not None:
        parts.denoiser.add_module(ADAPTER, _adapter(path, request))
    if "text" in request.parts:
        parts.tokenizers.append(t5_tokenizer(path, request.options))
    return parts


def _adapter(path: Path, request: LoadRequest) -> Any:
    """The adapter: a part of a folder, or of the transformer's file unless ``--llm_adapter_path`` names its own."""
    from diffusers.models.condition_embedders.condition_embedder_anima import AnimaTextConditioner

    config = source.asset(RECIPE.asset)[ADAPTER]
    if path.is_dir():
        config = {**config, **source.read_json(path / ADAPTER / "config.json")}
    own = request.options.llm_adapter_path
    if own or path.is_file():
        header = weights.given(source.locate(own, "--llm_adapter_path") if own else path)
    else:
        header = weights.folder_weights(path / ADAPTER, request.dtype)
    model = weights.empty(lambda: AnimaTextConditioner.from_config(config))
    fronts = [*(f"{prefix}{name}." for prefix in PREFIXES for name in ("llm_adapter", ADAPTER)), ""]
    front = next((f for f in fronts if f"{f}embed.weight" in header.places), "")
    found = {n: header.places[front + n] for n in model.state_dict() if front + n in header.places}
    return weights.fill(model, found, weights.torch_dtype(request.dtype), request.device, "the text adapter")


def t5_tokenizer(path: Path, options: Options) -> Any:
    """T5's tokenizer, of which only the ids are used: from ``--t5_tokenizer_path``, the model's folder or the hub."""
    folder = source.locate(options.t5_tokenizer_path, "--t5_tokenizer_path") if options.t5_tokenizer_path else path / "t5_tokenizer"
    return t5.load_tokenizer(folder if folder.is_dir() else None)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    made = tiny_models.parts("anima", seed, Options(), [tiny_models.qwen_tokenizer(), tiny_models.t5_tokenizer()])
    made.denoiser.add_module(ADAPTER, tiny_models.components("anima", seed)[ADAPTER])
    return made


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> kohya's four: ``prompt_embeds`` B,L,1024 (Qwen3's last state) and ``attn_mask``, T5's ids and their mask."""
    options = parts.options
    states, mask = language.encode(parts.tokenizers[0], parts.text_encoders[0], captions, options.qwen3_max_token_length, -1)
    made = parts.tokenizers[1](captions, padding=True, truncation=True, max_length=options.t5_max_token_length,
                               padding_side="right", return_tensors="pt")  # fmt: skip
    return {"prompt_embeds": states, "attn_mask": mask, "t5_input_ids": made.input_ids, "t5_attn_mask": made.attention_mask}


class Resizing:
    """What Cosmos' code takes from torchvision, for its padding mask, which is all zeros here."""

    class InterpolationMode:
        NEAREST = "nearest"

    class functional:
        @staticmethod
        def resize(mask: torch.Tensor, size: list[int], interpolation: Any = None) -> torch.Tensor:
            return mask.new_zeros((*mask.shape[:-2], *size))


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W."""
    from diffusers.models.transformers import transformer_cosmos

    if "transforms" not in transformer_cosmos.__dict__:  # diffusers imports it where torchvision is installed
        transformer_cosmos.__dict__["transforms"] = Resizing
    model, x = parts.denoiser, noised.x_BCHW
    dtype, device = run_dtype(model), x.device
    text = model.text_conditioner(cond["prompt_embeds"].to(device, dtype), cond["t5_input_ids"].to(device).long(),
                                  cond["t5_attn_mask"].to(device), cond["attn_mask"].to(device))  # fmt: skip
    times_B = (noised.timesteps_B.to(device).float() / 1000).to(dtype)
    return model(hidden_states=x.to(dtype)[:, :, None], timestep=times_B, encoder_hidden_states=text,
                 padding_mask=x.new_zeros(1, 1, *x.shape[-2:], dtype=dtype), return_dict=False)[0][:, :, 0]  # fmt: skip


def pipeline(parts: Parts) -> None:
    """None: diffusers has modular blocks alone for it; our own sampler draws."""
