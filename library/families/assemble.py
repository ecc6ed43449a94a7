"""Models of one transformer, one VAE and text encoders: put together from a diffusers folder or single files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from library.families import source, weights
from library.families.interface import LoadRequest, Parts
from library.families.native import Transformer
from library.util.header import Header
from library.util.records import Problem, UserError
from library.util.said import say

MODEL_FLAG = "--pretrained_model_name_or_path"


class VaeModule(Protocol):
    """``vae.py`` and its kin."""

    def build(self, config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any: ...
    def load(self, path: Path, default_config: Mapping[str, Any], dtype: str, device: str) -> Any: ...
    def is_vae(self, header: Header) -> bool: ...


@dataclass(frozen=True)
class Text:
    """How a text encoder is made; the second one of a model is its folder's ``text_encoder_2``."""

    option: str
    """Option (and flag) that names its file."""
    build: Callable[[Mapping[str, Any], Header, str, str], Any]
    """(configuration, weights, dtype, device) -> text encoder."""
    tokenizer: Callable[[Path | None], Any]
    """From the model folder's tokenizer, or without one."""
    mark: str
    """Part of a tensor's name that tells that a file of several parts holds this one."""
    other_option: str | None = None
    """A second option that names the same file: scripts differ in their flags, or models of the family in the encoder."""
    ships_tokenizer: bool = True

    @property
    def flag(self) -> str:
        """The flag that names its file, in words."""
        return f"--{self.option}" + (f" or --{self.other_option}" if self.other_option else "")

    def file(self, options: Any) -> str | None:
        """The encoder's own file, where one was given."""
        return getattr(options, self.option) or (getattr(options, self.other_option) if self.other_option else None)


@dataclass(frozen=True)
class Recipe:
    """How a family's parts are made."""

    title: str
    asset: str
    """Name of the shipped configurations of the released model."""
    transformer: Transformer
    sizes: Callable[[Header], dict[str, Any]]
    """What a single file's shapes tell of the transformer's configuration."""
    texts: tuple[Text, ...]
    vae: VaeModule
    vae_option: str | None = None
    """A flag besides ``--vae`` that names the VAE's file (``ae``)."""
    denoiser_folder: Callable[[Any], str] = lambda options: "transformer"
    """Which part of a folder the options make the denoiser."""

    def text_parts(self) -> list[tuple[str, str, Text]]:
        """Folder of each text encoder, folder of its tokenizer, how it is made."""
        numbers = ["", *(f"_{i}" for i in range(2, 1 + len(self.texts)))]
        return [(f"text_encoder{n}", f"tokenizer{n}", text) for n, text in zip(numbers, self.texts, strict=True)]

    def vae_flag(self) -> str:
        return f"--{self.vae_option or 'vae'}"

    def vae_file(self, request: LoadRequest) -> str | None:
        """The VAE's own file, where one was given."""
        named = getattr(request.options, self.vae_option) if self.vae_option else None
        return named or request.vae


def load(request: LoadRequest, recipe: Recipe) -> Parts:
    """Load the parts that are asked for; files of their own win over what the model holds.

    Raises UserError naming at once all the files that a single file needs beside itself.
    """
    denoiser = recipe.denoiser_folder(request.options)
    folders = ["scheduler", denoiser, "vae", *(f for text, tokenizer, _ in recipe.text_parts() for f in (text, tokenizer))]
    path = source.locate(request.source, MODEL_FLAG, tuple(folders), request.dtype)
    shipped = source.asset(recipe.asset)
    configs, headers = _folder(path, request, recipe) if path.is_dir() else _file(path, shipped, recipe)
    own: dict[str, Path] = {}
    for part, _, text in recipe.text_parts():
        given = text.file(request.options)
        if given and "text" in request.parts:
            own[part] = source.locate(given, text.flag)
            headers[part], configs[part] = weights.given(own[part]), shipped[part]
    _complete(path, request, recipe, headers)
    parts = Parts(None, None, [], [], request.options, dict(configs.get("scheduler") or shipped["scheduler"]))
    if "denoiser" in request.parts:
        parts.denoiser = recipe.transformer.build(configs["transformer"], headers["transformer"], request)
    if "text" in request.parts:
        for part, tokenizer, text in recipe.text_parts():
            parts.text_encoders.append(text.build(configs[part], headers[part], request.dtype, request.device))
            parts.tokenizers.append(text.tokenizer(tokenizer_folder(path / tokenizer, own.get(part), text.ships_tokenizer)))
    if "vae" in request.parts:
        parts.vae = _vae(request, recipe, configs, headers, shipped)
    parts.source, parts.name_or_path = request.source, str(path)
    return parts


def tokenizer_folder(of_model: Path, own: Path | None, ships: bool) -> Path | None:
    """Where a tokenizer's files may lie: in the model's folder, in the text encoder's, or (those that do not ship) beside
    the text encoder's file, where another encoder's might lie as well."""
    if of_model.is_dir() or own is None:
        return of_model if of_model.is_dir() else None
    return own if own.is_dir() else None if ships else own.parent


def _vae(request: LoadRequest, recipe: Recipe, configs: Mapping[str, Any], headers: Mapping[str, Header],
         shipped: Mapping[str, Any]) -> Any:  # fmt: skip
    if own := recipe.vae_file(request):
        place = source.locate(own, recipe.vae_flag())
        return recipe.vae.load(place, shipped["vae"], request.vae_dtype, request.device)
    return recipe.vae.build(configs["vae"], headers["vae"], request.vae_dtype, request.device)


def _folder(path: Path, request: LoadRequest, recipe: Recipe) -> tuple[dict[str, Any], dict[str, Header]]:
    texts = [part for part, _, _ in recipe.text_parts()]
    denoiser = recipe.denoiser_folder(request.options)
    configs = dict(source.complete(path, MODEL_FLAG, (denoiser, "vae", *texts)))
    folders = {"transformer": denoiser}
    wanted = {"denoiser": ["transformer"], "vae": ["vae"], "text": texts}
    dtypes = {"vae": request.vae_dtype}
    headers = {part: weights.folder_weights(path / folders.get(part, part), dtypes.get(part, request.dtype))
               for name, parts in wanted.items() if name in request.parts for part in parts}  # fmt: skip
    return {**configs, "transformer": configs[denoiser]}, headers


def _file(path: Path, shipped: Mapping[str, Any], recipe: Recipe) -> tuple[dict[str, Any], dict[str, Header]]:
    header = weights.given(path)
    headers = {"transformer": header}
    if recipe.vae.is_vae(header):
        headers["vae"] = header
    for part, _, text in recipe.text_parts():
        if any(text.mark in name for name in header.shapes):
            headers[part] = header
    return {**shipped, "transformer": shipped["transformer"] | recipe.sizes(header)}, headers


def _complete(path: Path, request: LoadRequest, recipe: Recipe, headers: Mapping[str, Header]) -> None:
    lacks = [text.flag for part, _, text in recipe.text_parts() if "text" in request.parts and part not in headers]
    lacks += [recipe.vae_flag()] if "vae" in request.parts and "vae" not in headers and not recipe.vae_file(request) else []
    if lacks:
        raise UserError(
            Problem(
                MODEL_FLAG,
                say(
                    "{path} does not hold every part of {title}; {lacks} must be given too.",
                    path=path.name,
                    title=recipe.title,
                    lacks=lacks,
                ),
                "Give the files of these parts, or use a diffusers folder.",
            )
        )


def block_count(header: Header, stem: str) -> int:
    """Number of blocks ``stem.0``, ``stem.1``, ... in a file, whatever stands in front of their names."""
    found = [name.split(f"{stem}.", 1)[1].split(".")[0] for name in header.shapes
             if name.startswith(f"{stem}.") or f"model.{stem}." in name]  # fmt: skip
    return 1 + max((int(n) for n in found if n.isdigit()), default=-1)


def counted(**stems: str | tuple[str, ...]) -> Callable[[Header], dict[str, Any]]:
    """``sizes`` that counts blocks: setting = the blocks' stem, or its two stems in the two spellings."""

    def sizes(header: Header) -> dict[str, Any]:
        both = {name: (stem,) if isinstance(stem, str) else stem for name, stem in stems.items()}
        return {name: max(block_count(header, stem) for stem in found) for name, found in both.items()}

    return sizes
