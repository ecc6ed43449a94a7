"""What a model is: its architecture, found from names and shapes of its tensors or from its folder's configurations.

Nothing is loaded. Keys decide; an architecture that has no family here is named all the same, and a file that is no
base model (a LoRA, a VAE, a text encoder) is called what it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from library.families import registry, source
from library.util.fetch import fetch, is_link
from library.util.header import FileKind, Header, read_header
from library.util.hub_access import present_place

Kind = Literal[
    "diffusers folder", "single file", "hub id", "missing", "lora", "vae", "text encoder", "unknown", "damaged"
]
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "transformer.", "unet.")
LORA_MARKS = (
    ".lora_down.weight",
    ".lora_up.weight",
    ".lora_A.weight",
    ".lora_B.weight",
    ".lora.down.weight",
    ".hada_w1_a",
    ".lokr_w1",
    ".lokr_w1_a",
    ".oft_blocks",
    ".oft_diag",
    ".lora_A.default.weight",
    ".dora_scale",
    ".on_input",
)


@dataclass(frozen=True)
class Found:
    """What stands behind a model's name."""

    family: str | None
    """Name in the registry; None where it is no base model or has no family here."""
    what: str
    """In words, for a message: ``a Stable Diffusion 2.x model``, ``a LoRA file``, ``a web page ...``."""
    kind: Kind
    hints: Mapping[str, Any] = field(default_factory=dict)
    """Options that the model's files tell (v2, v_parameterization, in_channels where it is not 4, ...)."""
    header: Header | None = None
    """Of a single file."""
    path: Path | None = None
    """The file or folder on this machine, where there is one."""


@dataclass(frozen=True)
class Mark:
    """An architecture by names that only its files have (all of ``names`` present, none of ``without``)."""

    title: str
    names: tuple[str, ...]
    without: tuple[str, ...] = ()

    def fits(self, shapes: Mapping[str, Any]) -> bool:
        return all(n in shapes for n in self.names) and not any(n in shapes for n in self.without)


MARKS = (
    Mark(
        "SDXL refiner, Kolors or another U-Net with size embedding", ("input_blocks.0.0.weight", "label_emb.0.0.weight")
    ),
    Mark("Kolors or another U-Net of the SDXL kind", ("conv_in.weight", "add_embedding.linear_1.weight")),
    Mark("ControlNet", ("input_hint_block.0.weight",)),
    Mark("ControlNet", ("controlnet_cond_embedding.conv_in.weight",)),
    Mark("Chroma Radiance", ("distilled_guidance_layer.in_proj.weight", "nerf_blocks.0.param_generator.weight")),
    Mark("Chroma", ("distilled_guidance_layer.in_proj.weight",)),
    Mark("Flux.3", ("early_stream_modulations.image.lin.weight",)),
    Mark("Flux.2", ("single_stream_modulation.lin.weight",)),
    Mark("HunyuanImage 2.1", ("byt5_in.fc1.weight", "double_blocks.0.img_attn_qkv.weight")),
    Mark("HunyuanVideo", ("txt_in.individual_token_refiner.blocks.0.norm1.weight",), ("byt5_in.fc1.weight",)),
    Mark("Flux.1", ("double_blocks.0.img_attn.norm.key_norm.scale",)),
    Mark("Stable Diffusion 3", ("joint_blocks.0.x_block.attn.qkv.weight",)),
    Mark("AuraFlow", ("double_layers.0.attn.w2q.weight", "cond_seq_linear.weight")),
    Mark("Z-Image", ("layers.0.adaLN_modulation.0.weight", "cap_embedder.0.weight")),
    Mark("OmniGen 2", ("cap_embedder.0.weight", "ref_image_refiner.0.attn.to_q.weight")),
    Mark("Lumina 2", ("cap_embedder.0.weight", "layers.0.adaLN_modulation.1.weight")),
    Mark("Krea 2", ("txtfusion.projector.weight",)),
    Mark("Ideogram 4", ("llm_cond_proj.weight",)),
    Mark("Qwen-Image 2.1", ("txt_in.text_norm.weight",)),
    Mark("Qwen-Image", ("txt_norm.weight", "transformer_blocks.0.img_mlp.net.0.proj.weight")),
    Mark("HiDream-I1", ("double_stream_blocks.0.block.adaLN_modulation.1.bias",)),
    Mark("Kandinsky 5", ("visual_transformer_blocks.0.self_attention.to_query.weight",)),
    Mark("Anima", ("x_embedder.proj.1.weight", "blocks.0.self_attn.q_proj.weight", "llm_adapter.embed.weight")),
    Mark("Cosmos-Predict2", ("x_embedder.proj.1.weight", "blocks.0.self_attn.q_proj.weight")),
    Mark("Wan", ("head.modulation", "patch_embedding.weight")),
    Mark("LTX-Video", ("patchify_proj.weight",)),
    Mark("Stable Cascade (stage C)", ("clip_txt_mapper.weight",)),
    Mark("Stable Cascade (stage B)", ("clip_mapper.weight",)),
    Mark("Sana", ("blocks.0.mlp.inverted_conv.conv.weight", "blocks.0.cross_attn.q_linear.weight")),
    Mark("PixArt", ("y_embedder.y_proj.fc1.weight", "t_block.1.weight")),
    Mark("PixArt", ("adaln_single.emb.timestep_embedder.linear_1.weight", "pos_embed.proj.weight")),
    Mark("HunyuanDiT", ("mlp_t5.0.weight", "blocks.0.attn1.Wqkv.weight")),
    Mark("Stable Video Diffusion", ("input_blocks.1.0.time_stack.in_layers.0.weight",)),
)
"""Architectures in the order in which they must be asked; families of the registry are asked before all of them."""
TEXT_ENCODERS = (
    "text_model.embeddings.token_embedding.weight",
    "embeddings.token_embedding.weight",
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.language_model.layers.0.self_attn.q_proj.weight",
    "layers.0.self_attn.q_proj.weight",
)


def strip(header: Header) -> Header:
    """The header without the prefixes that UIs and trainers put in front of a denoiser's names."""
    names = {}
    for name in header.shapes:
        prefix = next((p for p in PREFIXES if name.startswith(p)), "")
        names.setdefault(name[len(prefix) :], name)
    return header.renamed({old: new for new, old in names.items()})


def identify(typed: str) -> Found:
    """Tell what a model is from what the user typed: a folder, file, link or hub id.

    Downloads no more than a few small JSON files of a hub repository, and a link's file (once). Raises UserError only
    where a download is refused.
    """
    text = source.cleaned(typed)
    if is_link(text):
        return identify_file(fetch(text))
    path = Path(text).expanduser()
    if path.is_dir():
        return identify_folder(path)
    if path.is_file():
        return identify_file(path)
    if source.looks_like_path(text):
        return Found(None, "a path that does not exist", "missing", path=path)
    return identify_hub(present_place(text))


def identify_file(path: Path) -> Found:
    """Tell what a single file is."""
    header = read_header(path)
    if not header.readable:
        kind: Kind = "missing" if header.kind == FileKind.MISSING else "damaged"
        return Found(None, f"{path.name} {header.detail}", kind, header=header, path=path)
    return classify(header, path)


def classify(header: Header, path: Path | None = None) -> Found:
    """The same from a header that has been read."""
    bare = strip(header)
    if any(mark in name for name in header.shapes for mark in LORA_MARKS):
        base = header.metadata.get("ss_base_model_version")
        made_for = f" for {base}" if base else ""
        return Found(None, f"a LoRA file{made_for}, not a base model", "lora", header=header, path=path)
    for name in registry.names():
        family = registry.get(name)
        if family.matches(bare):
            return Found(name, f"a {family.SPEC.title} model", "single file", family.hints(bare), header, path)
    mark = next((m for m in MARKS if m.fits(bare.shapes)), None)
    if mark is not None:
        return Found(None, f"a {mark.title} model", "single file", header=header, path=path)
    return _part_or_unknown(bare, header, path)


def _part_or_unknown(bare: Header, header: Header, path: Path | None) -> Found:
    if any(n in bare.shapes for n in TEXT_ENCODERS):
        return Found(None, "a text encoder alone", "text encoder", header=header, path=path)
    if any(
        p + "decoder.conv_in.weight" in header.shapes or p + "decoder.conv1.weight" in header.shapes
        for p in ("first_stage_model.", "vae.", "")
    ):
        return Found(None, "a VAE alone", "vae", header=header, path=path)
    common = Counter(name.split(".")[0] for name in bare.shapes).most_common(10)
    return Found(
        None,
        "of an architecture that is not known here (its tensors: "
        + ", ".join(f"{name}.* {n}" for name, n in common)
        + ")",
        "unknown",
        header=header,
        path=path,
    )


def identify_folder(path: Path) -> Found:
    """Tell what a folder is: a diffusers model, or what it holds instead."""
    index = source.read_json(path / "model_index.json")
    if index:
        return from_index(index, source.part_configs(path, index), "diffusers folder", path)
    if (path.parent / "model_index.json").is_file():
        return Found(None, f"the part {path.name!r} of the model folder {path.parent}", "unknown", path=path)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in source.FILE_ENDINGS)
    inside = f", but {files[0].name}" if len(files) == 1 else f", but {len(files)} model files" if files else ""
    return Found(None, f"a folder without model_index.json{inside}", "unknown", path=path)


def from_index(
    index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]], kind: Kind, path: Path | None
) -> Found:
    """Tell the family of a diffusers model by its model_index.json and its parts' configurations."""
    for name in registry.names():
        family = registry.get(name)
        if family.matches_index(index, configs):
            return Found(name, f"a {family.SPEC.title} model", kind, family.index_hints(index, configs), path=path)
    return Found(
        None,
        f"a model for diffusers' {index.get('_class_name', 'unknown pipeline')}, for which there is no family here",
        kind,
        path=path,
    )


def identify_hub(repo: str) -> Found:
    """Tell what a hub repository holds, from its model_index.json and its parts' config.json."""
    found = source.hub_file(repo, "model_index.json")
    if found is None:
        return Found(
            None,
            f"{repo}: neither a file or folder here nor a diffusers model on the hub that can be reached",
            "missing",
        )
    index = source.read_json(found)
    configs = {}
    for part in ("unet", "transformer", "text_encoder", "vae", "scheduler"):
        if part in index:
            name = "scheduler_config.json" if part == "scheduler" else "config.json"
            file = source.hub_file(repo, f"{part}/{name}")
            if file is not None:
                configs[part] = source.read_json(file)
    return from_index(index, configs, "hub id", None)
