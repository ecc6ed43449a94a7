"""AuraFlow: joint and single blocks over latents of SDXL's VAE, captions read by Pile-T5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, language, roles, t5, tiny as tiny_models, vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

SPEC = FamilySpec(
    name="auraflow",
    title="AuraFlow",
    scripts=("auraflow_train_network.py",),
    target_space="flow",
    latent_channels=4,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=256, trainable=False,
                         tokenizer_of="EleutherAI/pile-t5-xl", option="pile_t5"),),
    cond_padding={"text": PadRule(dim=1)},
    cache_suffix="_auraflow",
    cache_raw=False,
    text_cache_suffix="_auraflow_te",
    roles=roles.ROLES,
    never_touch=(r"add_[qkv]_proj", r"to_add_out", r"_context", r"context_embedder"),
    joint_stream=(r"^single_transformer_blocks\.",),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI",), "comfy": ("ComfyUI",), "diffusers": ("diffusers",)},
    fragile_half_vae=True,
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 1.73},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "shift"
    discrete_flow_shift: float = 1.73
    pile_t5: str | None = None


FEED = {"linear_1": "c_fc1", "linear_2": "c_fc2", "out_projection": "c_proj"}
DOUBLE = {**{f"attn.to_{ours}": f"attn.w2{letter}" for ours, letter in (("q", "q"), ("k", "k"), ("v", "v"), ("out.0", "o"))},
          **{f"attn.{ours}": f"attn.w1{letter}" for ours, letter in (("add_q_proj", "q"), ("add_k_proj", "k"),
                                                                     ("add_v_proj", "v"), ("to_add_out", "o"))},
          **{f"ff.{a}": f"mlpX.{b}" for a, b in FEED.items()}, **{f"ff_context.{a}": f"mlpC.{b}" for a, b in FEED.items()},
          "norm1.linear": "modX.1", "norm1_context.linear": "modC.1"}  # fmt: skip
SINGLE = {**{f"attn.to_{ours}": f"attn.w1{letter}" for ours, letter in (("q", "q"), ("k", "k"), ("v", "v"), ("out.0", "o"))},
          **{f"ff.{a}": f"mlp.{b}" for a, b in FEED.items()}, "norm1.linear": "modCX.1"}  # fmt: skip
"""Modules of a block: diffusers' path, original path."""
ROOT = {"context_embedder": "cond_seq_linear", "proj_out": "final_linear", "pos_embed.proj": "init_x_linear",
        "time_step_proj.linear_1": "t_embedder.mlp.0", "time_step_proj.linear_2": "t_embedder.mlp.2"}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module (and tensor) with weights -> its original place; the blocks first."""
    kinds = (("joint_transformer_blocks", "double_layers", config["num_mmdit_layers"], DOUBLE),
             ("single_transformer_blocks", "single_layers", config["num_single_dit_layers"], SINGLE))  # fmt: skip
    found = {f"{ours}.{i}.{a}": Native(f"{theirs}.{i}.{b}") for ours, theirs, count, table in kinds for i in range(count)
             for a, b in table.items()}  # fmt: skip
    tensors = {"pos_embed.pos_embed": Native("positional_encoding", leaf=""), "register_tokens": Native("register_tokens", leaf="")}
    return found | tensors | {"norm_out.linear": Native("modF.1", swapped=True)} | {a: Native(b) for a, b in ROOT.items()}


def matches(header: Header) -> bool:
    """Tell an AuraFlow transformer, in either spelling, from tensor names."""
    original = {"double_layers.0.attn.w2q.weight", "cond_seq_linear.weight"} <= header.shapes.keys()
    return original or {"joint_transformer_blocks.0.ff.linear_1.weight", "register_tokens"} <= header.shapes.keys()


def _sizes(header: Header) -> dict[str, Any]:
    counts = assemble.counted(num_mmdit_layers=("double_layers", "joint_transformer_blocks"),
                              num_single_dit_layers=("single_layers", "single_transformer_blocks"))(header)  # fmt: skip
    places = next(s for n, s in header.shapes.items() if n.endswith(("positional_encoding", "pos_embed.pos_embed")))
    return counts | {"pos_embed_max_size": places[1]}


TRANSFORMER = Transformer("auraflow_transformer_2d", "AuraFlowTransformer2DModel", "cond_seq_linear.weight", native_modules)
TEXT = assemble.Text("pile_t5", t5.build_umt5,
                     language.tokenizer("PreTrainedTokenizerFast", SPEC.text_slots[0].tokenizer_of, "--pile_t5"), "pile_t5xl.",
                     ships_tokenizer=False)
RECIPE = assemble.Recipe(SPEC.title, "auraflow.json", TRANSFORMER, _sizes, (TEXT,), vae)

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("auraflow"), answers.always("auraflow")
encode_image, decode_latents, normalise, denormalise = answers.images(vae)
schedule = answers.flow_schedule()
pipeline = answers.pipeline("AuraFlowPipeline")


def _is_usual(target: Target) -> bool:
    """The linear layers of all blocks but their modulation."""
    return answers.in_blocks(target) and ".norm1" not in target.path


adapter_targets, extra_targets = answers.targets(TRANSFORMER, SPEC.roles, _is_usual)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --pile_t5, --vae."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    return tiny_models.parts("auraflow", seed, Options(), [tiny_models.t5_tokenizer()])


LENGTH = 256
"""Tokens that the model reads, zeros behind the caption's own."""


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``text`` B,L,2048: the last states, zero where padded."""
    return {"text": t5.masked(parts.tokenizers[0], parts.text_encoders[0], captions, LENGTH)[0]}


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,4,H,W."""
    model, x = parts.denoiser, noised.x_BCHW
    dtype, device = run_dtype(model), x.device
    return model(hidden_states=x.to(dtype), encoder_hidden_states=t5.filled_up(cond["text"].to(device, dtype), LENGTH),
                 timestep=(noised.timesteps_B.to(device).float() / 1000).to(dtype), return_dict=False)[0]  # fmt: skip
