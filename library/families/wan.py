"""Wan 2.1 and 2.2 (text to video, 16 latent channels), pictures as videos of one frame, captions read by UMT5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, language, roles, t5, tiny as tiny_models, video_vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised, Schedule

SPEC = FamilySpec(
    name="wan",
    title="Wan 2.1 and 2.2",
    scripts=("wan_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=960,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=512, trainable=False, tokenizer_of="google/umt5-xxl",
                         option="umt5"),),
    cond_padding={"text": PadRule(dim=1)},
    cache_suffix="_wan",
    cache_raw=False,
    text_cache_suffix="_wan_te",
    roles=roles.ROLES,
    never_touch=(r"text_embedder", r"\.attn2\.(to_[kv]|add_)"),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "diffusers"), "comfy": ("ComfyUI", "diffusers"), "diffusers": ("diffusers", "ComfyUI")},
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 3.0},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "shift"
    discrete_flow_shift: float = 3.0
    umt5: str | None = None
    expert: str | None = None


EXPERTS = {"high_noise": "transformer", "low_noise": "transformer_2"}
"""Wan 2.2's two transformers -> their folders."""
BOUNDARY = 875
"""Timestep at which Wan 2.2 (text to video) hands a picture from the one to the other (``boundary_ratio`` 0.875)."""
ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o", "norm_q": "norm_q", "norm_k": "norm_k"}
BLOCK = {**{f"{ours}.{a}": f"{theirs}.{b}" for ours, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
            for a, b in ATTENTION.items()},
         "ffn.net.0.proj": "ffn.0", "ffn.net.2": "ffn.2", "norm2": "norm3"}  # fmt: skip
"""Modules of a block: diffusers' path, original path."""
ROOT = {"patch_embedding": "patch_embedding", "proj_out": "head.head", "condition_embedder.time_proj": "time_projection.1",
        **{f"condition_embedder.{kind}_embedder.linear_{n}": f"{kind}_embedding.{2 * n - 2}" for kind in ("time", "text")
           for n in (1, 2)}}  # fmt: skip


def native_modules(config: Mapping[str, Any]) -> dict[str, Native]:
    """diffusers' path of every module (and tensor) with weights -> its original place; the blocks first."""
    count = config["num_layers"]
    found = {f"blocks.{i}.{ours}": Native(f"blocks.{i}.{theirs}") for i in range(count) for ours, theirs in BLOCK.items()}
    tables = {f"blocks.{i}.scale_shift_table": Native(f"blocks.{i}.modulation", leaf="") for i in range(count)}
    return found | tables | {"scale_shift_table": Native("head.modulation", leaf="")} | {o: Native(n) for o, n in ROOT.items()}


def is_transformer(header: Header, channels: int) -> bool:
    """Tell a Wan transformer over so many channels, in either spelling, from names and shapes."""
    names = header.shapes
    ours = {"condition_embedder.time_proj.weight", "scale_shift_table", "blocks.0.attn1.to_q.weight"} <= names.keys()
    known = ours or {"head.modulation", "time_projection.1.weight"} <= names.keys()
    return known and names.get("patch_embedding.weight", (0, 0))[1] == channels


def matches(header: Header) -> bool:
    """Tell a text-to-video Wan transformer of 16 channels."""
    return is_transformer(header, SPEC.latent_channels)


def sizes(header: Header) -> dict[str, Any]:
    """Depth and widths of a single file's transformer."""
    names = {name.rpartition("diffusion_model.")[2]: shape for name, shape in header.shapes.items()}
    inner = names.get("blocks.0.ffn.0.weight") or names["blocks.0.ffn.net.0.proj.weight"]
    width = names["patch_embedding.weight"][0]
    return {"num_layers": assemble.block_count(header, "blocks"), "num_attention_heads": width // 128, "ffn_dim": inner[0]}


TRANSFORMER = Transformer("transformer_wan", "WanTransformer3DModel", "head.modulation", native_modules)
TEXT = assemble.Text("umt5", t5.build_umt5, language.tokenizer("T5TokenizerFast", SPEC.text_slots[0].tokenizer_of, "--umt5"),
                     "umt5xxl.", ships_tokenizer=False)
RECIPE = assemble.Recipe(SPEC.title, "wan.json", TRANSFORMER, sizes, (TEXT,), video_vae,
                         denoiser_folder=lambda options: EXPERTS[options.expert or "high_noise"])

hints, size_cond = answers.no_hints, answers.no_sizes
base_version, architecture = answers.always("wan"), answers.always("Wan")
encode_image, decode_latents, normalise, denormalise = answers.images(video_vae)
adapter_targets, extra_targets = answers.targets(TRANSFORMER, SPEC.roles, lambda target: target.path.startswith("blocks."))
_whole_schedule = answers.flow_schedule()


def is_folder(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]], channels: int) -> bool:
    """Tell a folder by its transformer's class and channels."""
    right = (model_index.get("transformer") or [None, ""])[1] == TRANSFORMER.name
    return right and configs.get("transformer", {}).get("in_channels", 16) == channels


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell a text-to-video folder of 16 channels by its transformer."""
    return is_folder(model_index, configs, SPEC.latent_channels)


def index_hints(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of a folder of Wan 2.2's two transformers the one for much noise."""
    return {"expert": "high_noise"} if (model_index.get("transformer_2") or [None])[0] else {}


def schedule(options: Options, noise: Any) -> Schedule:
    """Rectified flow; one of Wan 2.2's two transformers takes the timesteps on its own side of ``BOUNDARY`` alone."""
    if options.expert == "high_noise" and noise.min_timestep is None:
        noise = replace(noise, min_timestep=BOUNDARY)
    elif options.expert == "low_noise" and noise.max_timestep is None:
        noise = replace(noise, max_timestep=BOUNDARY)
    return _whole_schedule(options, noise)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --umt5, --vae."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    return tiny_models.parts("wan", seed, Options(), [tiny_models.t5_tokenizer()])


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``text`` B,L,4096: UMT5's last states, zero where padded; blanks run together as in training."""
    states, _ = t5.masked(parts.tokenizers[0], parts.text_encoders[0], [" ".join(c.split()) for c in captions], LENGTH)
    return {"text": states}


LENGTH = 512
"""Tokens that the model reads, zeros behind the caption's own."""


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W."""
    model, x = parts.denoiser, noised.x_BCHW
    dtype, device = run_dtype(model), x.device
    text = t5.filled_up(cond["text"].to(device, dtype), LENGTH)
    return model(hidden_states=x.to(dtype)[:, :, None], timestep=noised.timesteps_B.to(device), encoder_hidden_states=text,
                 return_dict=False)[0][:, :, 0]  # fmt: skip


def pipeline(parts: Parts) -> None:
    """None: diffusers' pipeline draws videos; our own sampler draws pictures."""
