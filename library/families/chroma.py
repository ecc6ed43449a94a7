"""Chroma: Flux.1's blocks with their modulation made by one small network, captions read by T5 alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from library.families import answers, assemble, flow, flux1, tiny as tiny_models, vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Native, Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

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
    loads_in={"kohya": ("ComfyUI", "diffusers"), "comfy": ("ComfyUI",), "diffusers": ("diffusers", "ComfyUI"),
              "apart": ("ComfyUI",)},
    sampling_defaults={"timestep_sampling": "sigmoid"},
    recommended={"timestep_sampling": "sigmoid", "model_prediction_type": "raw"},
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


TRANSFORMER = Transformer("transformer_chroma", "ChromaTransformer2DModel", "img_in.weight", native_modules)
SIZES = assemble.counted(num_layers=("double_blocks", "transformer_blocks"), approximator_layers="distilled_guidance_layer.layers",
                         num_single_layers=("single_blocks", "single_transformer_blocks"))  # fmt: skip
RECIPE = assemble.Recipe(SPEC.title, "chroma.json", TRANSFORMER, SIZES, (flux1.T5,), vae, vae_option="ae")

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("chroma"), answers.always("chroma")
encode_image, decode_latents, normalise, denormalise = answers.images(vae)
adapter_targets, extra_targets = answers.targets(TRANSFORMER, ROLES, answers.in_blocks)
schedule = answers.flow_schedule()
pipeline = answers.pipeline("ChromaPipeline")


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --t5xxl, --ae (or --vae)."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("chroma", seed)
    return Parts(built["transformer"], built["vae"], [built["text_encoder"]], [tiny_models.t5_tokenizer()],
                 Options(t5xxl_max_token_length=64), built["scheduler"], "tiny", "tiny")  # fmt: skip


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``t5_out`` B,L,4096 and ``t5_attn_mask`` B,L of real tokens; T5 sees the mask too."""
    length = parts.options.t5xxl_max_token_length or 512
    made = parts.tokenizers[0](captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    encoder = parts.text_encoders[0]
    device = next(encoder.parameters()).device
    mask = made.attention_mask.to(device)
    return {"t5_out": encoder(made.input_ids.to(device), attention_mask=mask, return_dict=False)[0], "t5_attn_mask": mask}


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
    seen = None if whole.all() else whole
    with _mask_kept(model, seen):
        found = model(hidden_states=tokens, encoder_hidden_states=text, attention_mask=seen,
                      timestep=(noised.timesteps_B.to(device).float() / 1000).to(dtype), img_ids=flow.grid_ids(size).to(device),
                      txt_ids=torch.zeros(text.shape[1], 3, device=device), return_dict=False)[0]  # fmt: skip
    return flow.unpacked(found, size)


@contextmanager
def _mask_kept(model: Any, mask: torch.Tensor | None) -> Iterator[None]:
    """Give single blocks the mask under gradient checkpointing too: diffusers 0.42 leaves it out there."""
    if mask is None or not model.gradient_checkpointing:
        yield
        return
    plain, single = model._gradient_checkpointing_func, set(model.single_transformer_blocks)

    def run(block: Any, *args: Any, **kwargs: Any) -> Any:
        # The mask goes with the block, so that its recomputation sees it as well.
        return plain(partial(block, attention_mask=mask) if block in single else block, *args, **kwargs)

    model._gradient_checkpointing_func = run
    try:
        yield
    finally:
        model._gradient_checkpointing_func = plain
