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

from library.families import marks, registry, source, weights
from library.util.fetch import fetch, is_link
from library.util.header import FileKind, Header, read_header
from library.util.hub_access import present_place
from library.util.said import say

Kind = Literal[
    "diffusers folder", "single file", "hub id", "missing", "lora", "vae", "text encoder", "unknown", "damaged"
]
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "transformer.", "unet.")
AN = ("A", "E", "I", "O", "SDXL", "LTX")
"""Beginnings of names that are spoken with a vowel."""
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
    instead: str = ""
    """What to use instead, where it has no family here but something near has."""


TEXT_ENCODERS = (
    "text_model.embeddings.token_embedding.weight",
    "embeddings.token_embedding.weight",
    "encoder.block.0.layer.0.SelfAttention.q.weight",
    "model.layers.0.self_attn.q_proj.weight",
    "model.language_model.layers.0.self_attn.q_proj.weight",
    "layers.0.self_attn.q_proj.weight",
    "text_model.embeddings.position_embedding.weight",
    "blk.0.attn_q.weight",
    "enc.blk.0.attn_q.weight",
)
"""The last two are a GGUF file's names."""


def named(title: str) -> str:
    """A model of the architecture ``title``, in words and with the right article."""
    return say("an {title} model", title=title) if title.startswith(AN) else say("a {title} model", title=title)


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
        return Found(None, say("a path that does not exist"), "missing", path=path)
    return identify_hub(present_place(text))


def identify_file(path: Path) -> Found:
    """Tell what a single file is; a piece of a model that is cut into pieces stands for all of them."""
    pieces = [piece for piece in weights.pieces_of(path) if piece.is_file()] or [path]
    headers = [read_header(piece) for piece in pieces]
    header = next((one for one in headers if not one.readable), None) or weights.joined(headers)
    if not header.readable:
        kind: Kind = "missing" if header.kind == FileKind.MISSING else "damaged"
        return Found(None, say("{name} {detail}", name=path.name, detail=header.detail), kind, header=header, path=path)
    return classify(header, path)


def classify(header: Header, path: Path | None = None) -> Found:
    """The same from a header that has been read."""
    bare = strip(header)
    if any(mark in name for name in header.shapes for mark in LORA_MARKS):
        base = header.metadata.get("ss_base_model_version")
        what = say("a LoRA file for {base}, not a base model", base=base) if base else say("a LoRA file, not a base model")
        return Found(None, what, "lora", header=header, path=path)
    foreign = next((m for m in marks.EXTENDED if m.fits(bare.shapes)), None)
    if foreign is not None:
        return Found(None, named(foreign.title), "single file", header=header, path=path)
    for name in registry.names():
        family = registry.get(name)
        if family.matches(bare):
            return Found(name, named(family.SPEC.title), "single file", family.hints(bare), header, path)
    mark = next((m for m in marks.MARKS if m.fits(bare.shapes)), None)
    if mark is not None:
        return Found(None, named(mark.title), "single file", header=header, path=path, instead=mark.instead)
    return _part_or_unknown(bare, header, path)


def _part_or_unknown(bare: Header, header: Header, path: Path | None) -> Found:
    if any(n in bare.shapes for n in TEXT_ENCODERS):
        return Found(None, say("a text encoder alone"), "text encoder", header=header, path=path)
    if any(
        p + "decoder.conv_in.weight" in header.shapes or p + "decoder.conv1.weight" in header.shapes
        for p in ("first_stage_model.", "vae.", "")
    ):
        return Found(None, say("a VAE alone"), "vae", header=header, path=path)
    common = Counter(name.split(".")[0] for name in bare.shapes).most_common(10)
    return Found(
        None,
        say(
            "of an architecture that is not known here (its tensors: {names})",
            names=", ".join(f"{name}.* {n}" for name, n in common),
        ),
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
        what = say("the part {name} of the model folder {folder}", name=path.name, folder=path.parent)
        return Found(None, what, "unknown", path=path)
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in source.FILE_ENDINGS)
    if not files:
        return Found(None, say("a folder without model_index.json"), "unknown", path=path)
    return Found(None, say("a folder without model_index.json, but with {count:model file|model files} ({first})",
                           count=len(files), first=files[0].name), "unknown", path=path)  # fmt: skip


def from_index(
    index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]], kind: Kind, path: Path | None
) -> Found:
    """Tell the family of a diffusers model by its model_index.json and its parts' configurations."""
    for name in registry.names():
        family = registry.get(name)
        if family.matches_index(index, configs):
            return Found(name, named(family.SPEC.title), kind, family.index_hints(index, configs), path=path)
    return Found(
        None,
        say("a model for diffusers' {name}, for which there is no family here", name=index.get("_class_name", "?")),
        kind,
        path=path,
    )


def identify_hub(repo: str) -> Found:
    """Tell what a hub repository holds, from its model_index.json and its parts' config.json."""
    found = source.hub_file(repo, "model_index.json")
    if found is None:
        return Found(
            None,
            say("neither a file or folder here nor a diffusers model on the hub that can be reached"),
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
