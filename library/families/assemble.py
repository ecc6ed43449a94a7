"""Models of one transformer, one text encoder and one VAE: put together from a diffusers folder or single files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from library.families import source, weights
from library.families.interface import LoadRequest, Parts
from library.util.header import Header
from library.util.records import Problem, UserError

MODEL_FLAG = "--pretrained_model_name_or_path"
PARTS = ("transformer", "vae", "text_encoder")


class VaeModule(Protocol):
    """``vae.py`` and ``video_vae.py``."""

    def build(self, config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any: ...
    def load(self, path: Path, default_config: Mapping[str, Any], dtype: str, device: str) -> Any: ...
    def is_vae(self, header: Header) -> bool: ...


@dataclass(frozen=True)
class Recipe:
    """How a family's parts are made."""

    title: str
    asset: str
    """Name of the shipped configurations of the released model."""
    transformer: Callable[[Mapping[str, Any], Header, LoadRequest], Any]
    sizes: Callable[[Header], dict[str, Any]]
    """What a single file's shapes tell of the transformer's configuration."""
    text: Callable[[Mapping[str, Any], Header, str, str], Any]
    """(configuration, weights, dtype, device) -> text encoder."""
    text_mark: str
    """End of a tensor's name that tells that a file holds the text encoder."""
    text_flag: str
    tokenizer: Callable[[Path | None], Any]
    vae: VaeModule


def load(request: LoadRequest, recipe: Recipe, text_file: str | None, vae_file: str | None) -> Parts:
    """Load the parts that are asked for; files of their own win over what the model holds.

    Raises UserError naming at once all the files that a single file needs beside itself.
    """
    path = source.locate(request.source, MODEL_FLAG, ("scheduler", *PARTS, "tokenizer"), request.dtype)
    shipped = source.asset(recipe.asset)
    configs, headers = (_folder(path, request) if path.is_dir() else _file(path, shipped, recipe))
    if text_file and "text" in request.parts:
        place = source.locate(text_file, recipe.text_flag)
        headers["text_encoder"], configs["text_encoder"] = weights.usable(weights.read_header(place)), shipped["text_encoder"]
    _complete(path, request, recipe, headers, vae_file)
    parts = Parts(None, None, [], [], request.options, dict(configs.get("scheduler") or shipped["scheduler"]))
    if "denoiser" in request.parts:
        parts.denoiser = recipe.transformer(configs["transformer"], headers["transformer"], request)
    if "text" in request.parts:
        parts.text_encoders = [recipe.text(configs["text_encoder"], headers["text_encoder"], request.dtype, request.device)]
        parts.tokenizers = [recipe.tokenizer(path / "tokenizer" if path.is_dir() else None)]
    if "vae" in request.parts and vae_file:
        parts.vae = recipe.vae.load(source.locate(vae_file, "--vae"), shipped["vae"], request.vae_dtype, request.device)
    elif "vae" in request.parts:
        parts.vae = recipe.vae.build(configs["vae"], headers["vae"], request.vae_dtype, request.device)
    parts.source, parts.name_or_path = request.source, str(path)
    return parts


def _folder(path: Path, request: LoadRequest) -> tuple[dict[str, Any], dict[str, Header]]:
    configs = dict(source.complete(path, MODEL_FLAG, PARTS))
    wanted = {"denoiser": "transformer", "vae": "vae", "text": "text_encoder"}
    dtypes = {"vae": request.vae_dtype}
    return configs, {part: weights.folder_weights(path / part, dtypes.get(part, request.dtype))
                     for name, part in wanted.items() if name in request.parts}  # fmt: skip


def _file(path: Path, shipped: Mapping[str, Any], recipe: Recipe) -> tuple[dict[str, Any], dict[str, Header]]:
    header = weights.usable(weights.read_header(path))
    headers = {"transformer": header}
    if recipe.vae.is_vae(header):
        headers["vae"] = header
    if any(name.endswith(recipe.text_mark) for name in header.shapes):
        headers["text_encoder"] = header
    return {**shipped, "transformer": shipped["transformer"] | recipe.sizes(header)}, headers


def _complete(path: Path, request: LoadRequest, recipe: Recipe, headers: Mapping[str, Header], vae_file: str | None) -> None:
    lacks = [recipe.text_flag] if "text" in request.parts and "text_encoder" not in headers else []
    lacks += ["--vae"] if "vae" in request.parts and "vae" not in headers and not vae_file else []
    if lacks:
        raise UserError(
            Problem(MODEL_FLAG,
                    f"{path.name} does not hold every part of {recipe.title}; {', '.join(lacks)} must be given too.",
                    "Give the files of these parts, or use a diffusers folder.")
        )  # fmt: skip


def block_count(header: Header, stem: str) -> int:
    """Number of blocks ``stem.0``, ``stem.1``, ... in a file, whatever stands in front of their names."""
    found = [name.split(f"{stem}.", 1)[1].split(".")[0] for name in header.shapes
             if name.startswith(f"{stem}.") or f"model.{stem}." in name]  # fmt: skip
    return 1 + max((int(n) for n in found if n.isdigit()), default=-1)
