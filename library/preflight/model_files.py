"""Checks of the base model and the VAE from their headers: what a file is, whether it is whole, whether it fits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from library.preflight.files import beside_config, nearest
from library.preflight.registry import Context, check
from library.preflight.words import is_unfilled
from library.util.header import FileKind
from library.util.records import Problem
from library.util.said import say

if TYPE_CHECKING:
    from library.families.detect import Found

FLAG = "--pretrained_model_name_or_path"
MODEL_ENDINGS = (".safetensors", ".ckpt", ".pt", ".sft", ".gguf")
SCALED = ("scaled_fp8", ".scale_weight", ".weight_scale")
"""Ends of tensor names that only 8-bit scaled files have."""


def typed_model(context: Context) -> str:
    """The base model as typed, without quotes and blanks around it."""
    from library.families.source import cleaned

    return cleaned(str(context.flag("pretrained_model_name_or_path") or ""))


def local_path(context: Context, typed: str) -> Path | None:
    """What was typed as a path of this machine; None for a hub id or a link."""
    from library.families.source import looks_like_path
    from library.util.fetch import is_link

    if not typed or is_link(typed):
        return None
    path = context.cwd / Path(typed).expanduser()
    return path if path.exists() or looks_like_path(typed) else None


def found(context: Context) -> Found | None:
    """What the local base model is; None where it is not local or not there."""
    from library.families.detect import identify_file, identify_folder

    path = local_path(context, typed_model(context))
    if path is None or not path.exists():
        return None
    return context.remember("model", lambda: identify_folder(path) if path.is_dir() else identify_file(path))


@check("model_not_found", level="files", row="F75")
def check_model_exists(context: Context) -> Iterator[Problem]:
    """A model file that is not there is never taken for a hub repository; the message says how far the path is right."""
    typed = typed_model(context)
    path = local_path(context, typed)
    if path is not None and not path.exists() and not is_unfilled(context, typed):
        yield not_found(context, FLAG, typed)


def not_found(context: Context, flag: str, typed: str) -> Problem:
    """A stop for a model file that is not there: which part of its path exists, and what stands there."""
    path = context.cwd / Path(typed).expanduser()
    drive = PureWindowsPath(typed).drive
    if drive and context.machine.system != "Windows":
        return context.stop("model_not_found.windows", flag, typed=typed, system=context.machine.system)
    beside = beside_config(context, typed)
    if beside is not None:
        return context.stop("model_not_found.beside", flag, typed=typed, cwd=context.cwd, found=beside)
    parent, near = nearest(path)
    if not parent.is_dir():
        return context.stop("model_not_found.drive", flag, path=path, drive=path.drive or parent)
    missing = path.relative_to(parent).parts[0]
    if near:
        key = "model_not_found.blank" if f"{missing} ".lower() in near.lower() else "model_not_found.near"
        return context.stop(key, flag, path=path, parent=parent, missing=missing, near=near)
    inside = sorted(n for n in os.listdir(parent) if n.lower().endswith(MODEL_ENDINGS))[:5] if parent == path.parent else []
    if inside:
        return context.stop("model_not_found.inside", flag, path=path, parent=parent, missing=missing, inside=", ".join(inside))
    return context.stop("model_not_found", flag, path=path, parent=parent, missing=missing, cwd=context.cwd)


@check("model_damaged", level="files", row="F55")
def check_model_whole(context: Context) -> Iterator[Problem]:
    """Half downloads, web pages, pointers and empty files under a model's name."""
    model = found(context)
    if model is not None and model.header is not None and model.kind == "damaged":
        yield _damaged(context, FLAG, model.header)


def _damaged(context: Context, flag: str, header: Any) -> Problem:
    name = header.path.name
    if header.kind == FileKind.CUT_OFF and header.expected_size:
        short = header.expected_size - header.size
        return context.stop(
            "model_damaged.short",
            flag,
            name=name,
            have=f"{header.size:,}",
            want=f"{header.expected_size:,}",
            short=f"{short:,}",
        )
    keys = {FileKind.WEB_PAGE: "page", FileKind.LFS_POINTER: "pointer", FileKind.EMPTY: "empty", FileKind.UNSAFE: "unsafe"}
    if header.kind == FileKind.UNREADABLE:
        return context.stop("model_damaged.other", flag, name=name, detail=header.detail)
    key = keys.get(header.kind)
    if key:
        return context.stop(f"model_damaged.{key}", flag, name=name, size=f"{header.size:,}")
    return context.stop("model_damaged", flag, name=name, detail=header.detail)


@check("model_ending", level="files", row="F55")
def check_model_ending(context: Context) -> Iterator[Problem]:
    """A .ckpt that was renamed .safetensors loads here, but nowhere else."""
    model = found(context)
    if model is None or model.header is None or model.path is None:
        return
    if model.header.kind == FileKind.PICKLE and model.path.suffix.lower() == ".safetensors":
        yield context.warn("model_ending", FLAG, name=model.path.name)


@check("model_kind", level="files", row="F15")
def check_model_kind(context: Context) -> Iterator[Problem]:
    """A LoRA, a VAE or a text encoder was given as the base model, or an architecture that has no family here."""
    model = found(context)
    if model is None or model.family is not None or model.kind == "damaged" or (model.path and model.path.is_dir()):
        return
    assert model.path is not None
    name = model.path.name
    if model.kind == "lora":
        yield context.stop("model_kind.lora", FLAG, name=name, what=model.what)
    elif model.kind == "vae":
        yield context.stop("model_kind.vae", FLAG, name=name, what=model.what)
    elif model.kind == "text encoder":
        yield context.stop("model_kind.part", FLAG, name=name, what=model.what)
    elif model.kind == "unknown":
        yield context.stop("model_kind.unknown", FLAG, name=name, what=model.what)
    elif model.instead:
        yield context.stop("model_kind.instead", FLAG, name=name, what=model.what, instead=say(model.instead))
    else:
        yield context.stop("model_kind", FLAG, name=name, what=model.what)


@check("model_folder", level="files", row="F77")
def check_model_folder(context: Context) -> Iterator[Problem]:
    """A folder that is given as the model is a whole diffusers folder."""
    path = local_path(context, typed_model(context))
    if path is None or not path.is_dir():
        return
    if not (path / "model_index.json").is_file():
        yield _no_index(context, path)
        return
    model = found(context)
    if model is not None and model.family is None:
        yield context.stop("model_folder.family", FLAG, path=path, what=model.what)
        return
    missing = missing_parts(path)
    if missing:
        yield context.stop("model_folder.parts", FLAG, path=path, missing=", ".join(missing))


def _no_index(context: Context, path: Path) -> Problem:
    files = sorted(n for n in os.listdir(path) if n.lower().endswith(MODEL_ENDINGS))
    if (path.parent / "model_index.json").is_file():
        return context.stop("model_folder.above", FLAG, path=path, parent=path.parent)
    if len(files) == 1:
        from library.families.detect import identify_file

        if identify_file(path / files[0]).kind == "lora":
            return context.stop("model_folder.lora", FLAG, path=path, file=files[0])
        return context.stop("model_folder.one_file", FLAG, path=path, file=path / files[0])
    if files:
        return context.stop("model_folder.files", FLAG, path=path, files=", ".join(files[:5]))
    below = sorted(p.parent.name for p in path.glob("*/model_index.json"))
    if below:
        return context.stop("model_folder.below", FLAG, path=path, below=path / below[0])
    return context.stop("model_folder", FLAG, path=path)


def missing_parts(path: Path) -> list[str]:
    """Parts that model_index.json promises and the folder lacks: a configuration, weights, or tokenizer files."""
    from library.families.source import read_json

    missing = []
    for part, kind in read_json(path / "model_index.json").items():
        if (
            part.startswith("_")
            or not isinstance(kind, list)
            or kind[0] is None
            or part in ("safety_checker", "feature_extractor", "image_encoder")
        ):
            continue
        folder = path / part
        names = os.listdir(folder) if folder.is_dir() else []
        if kind[1] == "ByT5Tokenizer":  # bytes: it has no vocabulary file
            continue
        if part.startswith("tokenizer"):
            if not any(n in names for n in ("vocab.json", "tokenizer.json", "spiece.model", "tokenizer.model")):
                missing.append(f"{part} (vocab.json)")
        elif part.startswith("scheduler"):
            if not any(n.endswith("config.json") for n in names):
                missing.append(f"{part} (scheduler_config.json)")
        elif "config.json" not in names:
            missing.append(f"{part} (config.json)")
        elif not any(n.endswith((".safetensors", ".bin", ".index.json")) for n in names):
            missing.append(f"{part} (weights)")
    return missing


@check("model_folder_damaged", level="files", row="F55")
def check_folder_weights(context: Context) -> Iterator[Problem]:
    """The weight files of a diffusers folder are whole, and no Git LFS pointers."""
    from library.util.header import read_header

    path = local_path(context, typed_model(context))
    if path is None or not (path / "model_index.json").is_file():
        return
    for file in sorted(path.glob("*/*.safetensors")):
        header = read_header(file)
        if not header.readable:
            yield _damaged(context, str(file.relative_to(path)), header)


@check("model_inpainting", level="files", row="F65")
def check_inpainting(context: Context) -> Iterator[Problem]:
    """Inpainting, depth and editing models take more input channels than training feeds them."""
    model = found(context)
    channels = model.hints.get("in_channels") if model is not None else None
    if channels:
        kind = {9: "inpainting", 5: "depth", 8: "instruct-pix2pix"}.get(channels, "special")
        yield context.stop("model_inpainting", FLAG, name=Path(typed_model(context)).name, channels=channels, kind=kind)


@check("model_script", level="files", row="F50")
def check_script(context: Context) -> Iterator[Problem]:
    """The model has an entry script of its own; the model decides what is trained, the script only which flags there are."""
    from library.families.registry import by_script, get

    model, family = found(context), by_script(context.script)
    if model is None or model.family is None or family is None or family.SPEC.name == model.family:
        return
    scripts = get(model.family).SPEC.scripts
    if context.script in scripts:
        return
    yield context.note(
        "model_script", FLAG, name=Path(typed_model(context)).name, what=model.what, script=context.script, right=scripts[0]
    )


@check("model_version", level="files", row="F07")
def check_version(context: Context) -> Iterator[Problem]:
    """--v2 says what the file's shapes say."""
    model = found(context)
    if model is None or "v2" not in model.hints or context.flag("v2") is None:
        return
    name = Path(typed_model(context)).name
    if context.flag("v2") and not model.hints["v2"]:
        yield context.stop("model_version.remove", "--v2", name=name)
    elif model.hints["v2"] and not context.flag("v2"):
        yield context.note("model_version.add", "--v2", name=name)


@check("model_prediction", level="files", row="F42")
def check_prediction(context: Context) -> Iterator[Problem]:
    """--v_parameterization says what the model predicts, as far as its files tell."""
    model = found(context)
    if model is None or model.family is None or context.flag("v_parameterization") is None:
        return
    name, asked = Path(typed_model(context)).name, bool(context.flag("v_parameterization"))
    told = model.hints.get("v_parameterization")
    if told and not asked:
        yield context.note("model_prediction.taken", "--v_parameterization", name=name)
        return
    metadata = model.header.metadata if model.header is not None else {}
    if told is None and metadata.get("modelspec.prediction_type"):
        told = metadata["modelspec.prediction_type"].lower().startswith("v")
    if told is True and not asked:
        yield context.warn("model_prediction.add", "--v_parameterization", name=name)
    elif told is False and asked:
        yield context.warn("model_prediction.remove", "--v_parameterization", name=name)
    elif told is None and asked and not _named_v(name) and not context.flag("v2"):
        yield context.warn("model_prediction.unlikely", "--v_parameterization", name=name)
    elif told is None and not asked and _named_v(name):
        yield context.warn("model_prediction.name", "--v_parameterization", name=name)


def _named_v(name: str) -> bool:
    import re

    return re.search(r"(?i)v[-_ ]?pred|768-v", name) is not None


@check("model_scaled", level="files", row="F15")
def check_scaled(context: Context) -> Iterator[Problem]:
    """8-bit scaled and GGUF files are made for drawing, not for training."""
    model = found(context)
    if model is None or model.header is None:
        return
    name = Path(typed_model(context)).name
    if model.header.kind == FileKind.GGUF:
        yield context.stop("model_scaled.gguf", FLAG, name=name)
    elif any(tensor.endswith(SCALED) for tensor in model.header.shapes):
        yield context.stop("model_scaled", FLAG, name=name)


@check("vae_file", level="files", row="F09")
def check_vae(context: Context) -> Iterator[Problem]:
    """--vae names a file or folder that is a VAE, and is whole."""
    from library.families.detect import identify_file
    from library.families.source import cleaned

    typed = cleaned(str(context.flag("vae") or ""))
    path = local_path(context, typed)
    if path is None:
        return
    if not path.exists():
        yield not_found(context, "--vae", typed)
    elif path.is_dir():
        if not any((path / n).is_file() for n in ("config.json", "vae/config.json")):
            yield context.stop("vae_file.folder", "--vae", path=path)
    else:
        vae = identify_file(path)
        if vae.kind == "damaged" and vae.header is not None:
            yield _damaged(context, "--vae", vae.header)
        elif vae.kind not in ("vae", "single file"):
            yield context.stop("vae_file", "--vae", name=path.name, what=vae.what)


@check("model_incomplete", level="files", row="F48")
def check_text_encoder(context: Context) -> Iterator[Problem]:
    """A single file that holds the denoiser alone lacks the text encoder and the VAE."""
    model = found(context)
    if model is None or model.family is None or model.kind != "single file" or model.header is None:
        return
    shapes = model.header.shapes
    has_text = any(n.startswith(("cond_stage_model.", "conditioner.", "text_encoder", "text_model.")) for n in shapes)
    if any(n.startswith("model.diffusion_model.input_blocks.") for n in shapes) and not has_text:
        yield context.stop("model_incomplete", FLAG, name=Path(typed_model(context)).name, what=model.what)
