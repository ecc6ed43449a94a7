"""Qwen-Image: a transformer of joint blocks over packed latents, captions read by Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from library.families import answers, assemble, flow, language, tiny as tiny_models, video_vae
from library.families.interface import FamilySpec, Header, LoadRequest, PadRule, Parts, TextSlot
from library.families.native import Transformer
from library.families.unet_models import run_dtype
from library.util.records import Cond, Target

if TYPE_CHECKING:
    import torch

    from library.diffusion.schedule import Noised

ROLES = {
    "text-stream": (r"\.attn\.(add_[qkv]_proj|to_add_out)$", r"\.txt_mlp\.", r"^txt_in$"),
    "self-attention": (r"\.attn\.to_(q|k|v|out\.0)$",),
    "feed-forward": (r"\.img_mlp\.",),
    "modulation": (r"_mod\.1$", r"^norm_out\.linear$"),
    "projection": (r"^img_in$", r"^proj_out$"),
    "time": (r"^time_text_embed\.",),
}
SYSTEM = ("Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
          "objects and background:")  # fmt: skip
INSTRUCTION_TOKENS = 34
"""Tokens of the template in front of the caption; the model does not get their states."""
SPEC = FamilySpec(
    name="qwenimage",
    title="Qwen-Image",
    scripts=("qwen_image_train_network.py",),
    target_space="flow",
    latent_channels=16,
    vae_factor=8,
    bucket_step=16,
    default_resolution=1024,
    text_slots=(TextSlot("text_encoder", "lora_te", max_length=1024, trainable=False),),
    cond_padding={"text": PadRule(dim=1), "text_mask": PadRule(dim=1)},
    cache_suffix="_qi",
    cache_raw=False,
    text_cache_suffix="_qi_te",
    roles=ROLES,
    never_touch=(r"add_[qkv]_proj", r"to_add_out", r"txt_"),
    save_formats=("kohya", "comfy", "diffusers"),
    loads_in={"kohya": ("ComfyUI", "diffusers"), "comfy": ("ComfyUI", "diffusers"), "diffusers": ("diffusers", "ComfyUI")},
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 2.2},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "shift"
    discrete_flow_shift: float = 2.2
    qwen_vl: str | None = None


def matches(header: Header) -> bool:
    """Tell a Qwen-Image transformer from tensor names."""
    return {"txt_norm.weight", "transformer_blocks.0.img_mlp.net.0.proj.weight"} <= header.shapes.keys()


TRANSFORMER = Transformer("transformer_qwenimage", "QwenImageTransformer2DModel", "img_in.weight")
QWEN_VL = assemble.Text("qwen_vl", language.builder(language.QWEN25_VL), language.qwen_tokenizer(thinks=False),
                        f"model.{language.LAYER}")  # fmt: skip
RECIPE = assemble.Recipe(
    SPEC.title, "qwenimage.json", TRANSFORMER, assemble.counted(num_layers="transformer_blocks"), (QWEN_VL,), video_vae
)

matches_index = answers.folder_of(TRANSFORMER.name)
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("qwen_image"), answers.always("Qwen-Image")
encode_image, decode_latents, normalise, denormalise = answers.images(video_vae)
schedule = answers.flow_schedule((256, 8192), (0.5, 0.9), names=("qwen_shift",))
pipeline = answers.pipeline("QwenImagePipeline")


def _is_usual(target: Target) -> bool:
    """The linear layers of all blocks but the modulation, as musubi-tuner chooses."""
    return target.path.startswith("transformer_blocks.") and target.role != "modulation"


adapter_targets, extra_targets = answers.targets(TRANSFORMER, ROLES, _is_usual)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --qwen_vl, --vae."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    built = tiny_models.components("qwenimage", seed)
    text = built["text_encoder"].model.language_model
    return Parts(built["transformer"], built["vae"], [text], [tiny_models.qwen_tokenizer()], Options(), built["scheduler"],
                 "tiny", "tiny")  # fmt: skip


def encode_text(parts: Parts, captions: list[str]) -> Cond:
    """Captions -> ``text`` B,L,3584 (Qwen's last state, the instruction cut off) and ``text_mask`` B,L."""
    asked = [f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{caption}<|im_end|>\n<|im_start|>assistant\n"
             for caption in captions]  # fmt: skip
    states, mask = language.encode(parts.tokenizers[0], parts.text_encoders[0], asked, 1024, -1, INSTRUCTION_TOKENS)
    return {"text": states, "text_mask": mask}


def predict(parts: Parts, noised: Noised, cond: Cond) -> torch.Tensor:
    """The velocity noise - x0, B,16,H,W."""
    model, x = parts.denoiser, noised.x_BCHW
    dtype, device, (h, w) = run_dtype(model), x.device, x.shape[-2:]
    mask = cond["text_mask"].to(device).bool()
    found = model(hidden_states=flow.packed(x.to(dtype)), encoder_hidden_states=cond["text"].to(device, dtype),
                  encoder_hidden_states_mask=None if mask.all() else mask,
                  timestep=(noised.timesteps_B.to(device).float() / 1000).to(dtype),
                  img_shapes=[[(1, h // 2, w // 2)]] * len(x), return_dict=False)[0]  # fmt: skip
    return flow.unpacked(found, (h, w))
