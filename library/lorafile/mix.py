"""Whole models mixed: a weighted sum, tensor by tensor, none of them whole in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from library.families import weights
from library.lorafile import rewrite
from library.lorafile.file import Output
from library.util.header import Header, read_header
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys

if TYPE_CHECKING:
    import torch

DENOISER = ("model.diffusion_model.", "unet.", "transformer.", "diffusion_model.")
"""How names of a denoiser's tensors begin in files that hold more than it."""
OTHER_PARTS = ("first_stage_model.", "cond_stage_model.", "conditioner.", "vae.", "text_encoder")


@dataclass(frozen=True)
class MixRequest:
    """What is mixed."""

    models: tuple[Path, ...]
    ratios: tuple[float, ...]
    denoiser_only: bool = False
    device: str = "cpu"
    precision: str = "fp32"
    """In which sums are made."""

    @classmethod
    def of(cls, models: Sequence[str] | None, ratios: Sequence[float] | None, denoiser_only: bool, where: tuple[str, str]
           ) -> MixRequest:
        """From the command's values; ``where`` is (device, precision). Raises UserError where they do not go together."""
        if not models or len(models) < 2:
            raise UserError(
                Problem(
                    "--models",
                    say("{value:file was|files were} given; mixing needs two.", value=len(models or ())),
                    "Add --models A B.",
                )
            )
        if ratios is not None and len(ratios) != len(models):
            raise UserError(
                Problem(
                    "--ratios",
                    say("{ratios} were given for {models} models.", ratios=len(ratios), models=len(models)),
                    "Give one for each.",
                )
            )
        shares = tuple(ratios) if ratios else (1 / len(models),) * len(models)
        device, precision = where
        return cls(tuple(map(Path, models)), shares, denoiser_only, device, "fp32" if precision == "float" else precision)


@dataclass(frozen=True)
class Mixed:
    """How many tensors were mixed, and the names of those that not every model has."""

    mixed: int
    partly: tuple[str, ...]


def mix(request: MixRequest, output: Output) -> Mixed:
    """Write the sum. A tensor that some models lack is the sum of the others', their shares raised to the same total.

    Raises UserError for files that are no models, sizes that differ, and models with nothing in common.
    """
    if output.path.suffix.lower() != ".safetensors":
        raise UserError(Problem(f"--output {output.path}", "Models are written as .safetensors.", "End it with .safetensors."))
    headers = [weights.usable(read_header(path), str(path)) for path in request.models]
    _compare(request, headers)
    first = headers[0]
    names = sorted(first.places, key=lambda name: first.places[name].offset)
    kinds = weights.file_dtypes()
    types = {n: rewrite.NAMES[output.precision] if output.precision and kinds[first.places[n].dtype].is_floating_point
             else first.places[n].dtype for n in names}
    chosen = [n for n in names if kinds[first.places[n].dtype].is_floating_point
              and (not request.denoiser_only or _is_denoisers(n))]
    wanted = set(chosen)
    with weights.Reader() as reader:
        def tensor(name: str) -> torch.Tensor:
            return _sum(request, headers, name, reader) if name in wanted else reader.read(first.places[name])

        metadata = {k: v for k, v in first.metadata.items() if k != "modelspec.hash_sha256"}
        metadata["modelspec.merged_from"] = ", ".join(path.stem for path in request.models)
        rewrite.stream(output.path, {n: (types[n], first.places[n].shape) for n in names}, metadata, tensor)
    partly = [n for n in chosen if any(n not in h.places for h in headers[1:])]
    partly += [n for h in headers[1:] for n in h.places if n not in first.places]
    return Mixed(len(chosen), tuple(dict.fromkeys(partly)))


def _is_denoisers(name: str) -> bool:
    return name.startswith(DENOISER) or not name.startswith(OTHER_PARTS)


def _compare(request: MixRequest, headers: Sequence[Header]) -> None:
    first = headers[0]
    for path, header in zip(request.models[1:], headers[1:], strict=True):
        common = [name for name in first.places if name in header.places]
        if not common:
            some = next(iter(header.places), "nothing")
            raise UserError(
                Problem(
                    str(path),
                    say("It has no tensor in common with {models} (it has {some}).", models=request.models[0].name, some=some),
                    "Mix models of one architecture and form.",
                )
            )
        for name in common:
            here, there = first.places[name].shape, header.places[name].shape
            if here != there:
                raise UserError(
                    Problem(
                        str(path),
                        say(
                            "{name} is {shape_text} there and {shape_text2} in {models}.",
                            name=name,
                            shape_text=keys.shape_text(there),
                            shape_text2=keys.shape_text(here),
                            models=request.models[0].name,
                        ),
                        "Mix models of one architecture.",
                    )
                )


def _sum(request: MixRequest, headers: Sequence[Header], name: str, reader: weights.Reader) -> torch.Tensor:
    dtype = weights.torch_dtype(request.precision)
    own: Mapping[int, float] = {i: r for i, r in enumerate(request.ratios) if name in headers[i].places}
    raised = sum(request.ratios) / sum(own.values()) if sum(own.values()) else 1.0
    total: torch.Tensor | None = None
    for index, ratio in own.items():
        # The reader's buffer is used again by the next read.
        part = reader.read(headers[index].places[name], dtype).to(request.device) * (ratio * raised)
        total = part if total is None else total + part
    assert total is not None, "the first model has every name"
    return total.cpu()
