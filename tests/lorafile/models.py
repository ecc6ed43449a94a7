"""Tiny models of every family as files and folders, in the forms people have them."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from library.families import clip, flux1, registry, sd3, source, unet
from library.families.interface import Parts
from library.lorafile import convert
from tests.families import family_helpers as helpers

FORMS = ("sd1 folder", "sd1 file", "sdxl file", "flux1 file", "sd3 file")


@functools.cache
def _tiny(family: str) -> Parts:
    return registry.get(family).tiny(0)


def tiny(family: str) -> Parts:
    """A tiny model of a family; a fresh copy each time."""
    return copy.deepcopy(_tiny(family))


def with_tiny_sizes(monkeypatch) -> None:
    """Let single files have the tiny models' sizes instead of the released ones."""
    real = source.asset

    def asset(name: str):
        if name.startswith("tiny/"):
            return real(name)
        return {part: entry["config"] for part, entry in real(f"tiny/{name}")["components"].items() if "config" in entry}

    monkeypatch.setattr(source, "asset", asset)
    # What is remembered of the released models' sizes is not theirs, and the other way round.
    monkeypatch.setattr(convert, "targets_of", functools.lru_cache(convert.targets_of.__wrapped__))
    # sizes counts heads of 64, which tiny ones are not
    monkeypatch.setattr(sd3, "RECIPE", replace(sd3.RECIPE, sizes=lambda header: {}))
    monkeypatch.setattr(clip, "shipped_tokenizer", lambda pad_token="<|endoftext|>": _tiny("sd1").tokenizers[0])


def written(form: str, parts: Parts, folder: Path, name: str = "model") -> Path:
    """The model's files in one of FORMS."""
    family, kind = form.split()
    if kind == "folder":
        return helpers.save_folder(parts, folder / name)
    spell = {"sd1": helpers.ldm_tensors, "sdxl": _sdxl_unet,
             "flux1": lambda p: helpers.native_tensors(p.denoiser, flux1.native_modules(p.denoiser.config)),
             "sd3": lambda p: helpers.native_tensors(p.denoiser, sd3.native_modules(p.denoiser.config))}[family]
    path = folder / f"{name}.safetensors"
    save_file({n: t.clone() for n, t in spell(parts).items()}, path, {"modelspec.title": "tiny"})
    return path


def _sdxl_unet(parts: Parts) -> dict[str, torch.Tensor]:
    spelling = unet.Spelling(parts.denoiser.config)
    return {f"model.diffusion_model.{spelling.original(n)}": t.contiguous() for n, t in parts.denoiser.state_dict().items()}


def adapted(kind, family: str, parts: Parts, **args):
    """A network of ours on every target of a model, hung on it, its weights random."""
    torch.manual_seed(1)
    network = kind.create_network(1.0, 3, 2.0, None, parts.text_encoders, parts.denoiser,
                                  targets=registry.get(family).adapter_targets(parts), **args)
    network.apply_to(parts.text_encoders, parts.denoiser)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return network.eval()
