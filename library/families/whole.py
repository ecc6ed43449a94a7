"""Whole SD models by the places of their weights, and how a single file in the original spelling names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from library.families import clip, detect, registry, unet, vae, weights
from library.families.interface import Family, LoadRequest, Parts
from library.families.unet_models import Layout, TextLayout
from library.util.header import Place
from library.util.records import Problem, UserError
from library.util.said import say

FAMILIES = ("sd1", "sdxl")
MARKS = {"v_pred": ("prediction_type", "v_prediction"), "ztsnr": ("rescale_betas_zero_snr", True)}
"""Empty tensors by which a single file tells what a folder's scheduler tells: name -> (setting, value)."""


@dataclass(frozen=True)
class Whole:
    """A model of which only the places of its weights are known."""

    family: Family
    parts: Parts
    places: Mapping[str, Mapping[str, tuple[Place, ...]]]
    """Part (``unet``, ``vae``, ``text_encoder``, ``text_encoder_2``) -> tensor's name in diffusers -> where it lies."""
    layout: Layout

    @property
    def version(self) -> str:
        """``SD 1``, ``SD 2`` or the family's title."""
        if self.family.SPEC.name != "sd1":
            return self.family.SPEC.title
        return "SD 2" if self.parts.options.v2 else "SD 1"

    @property
    def modules(self) -> dict[str, Any]:
        """The modules by part, without memory."""
        texts = {f"text_encoder{'_2' if i else ''}": text for i, text in enumerate(self.parts.text_encoders)}
        return {"unet": self.parts.denoiser, "vae": self.parts.vae, **texts}


@dataclass(frozen=True)
class Item:
    """One tensor as it is to be written: the places whose rows make it up, its shape in the new form."""

    places: tuple[Place, ...]
    shape: tuple[int, ...]
    transposed: bool = False


def open_whole(source: str, variant: str | None = None) -> Whole:
    """Find out what a model is and where all its weights lie. Raises UserError where it is no whole SD 1, 2 or XL model."""
    found = detect.identify(source)
    if found.family not in FAMILIES:
        raise UserError(
            Problem(
                source,
                say("This is {what}.", what=found.what),
                "Give an SD 1, SD 2 or SDXL checkpoint or diffusers folder; "
                "the models of other families are used in the form they have.",
            )
        )
    family = registry.get(found.family)
    dtype = variant or "fp32"
    with weights.only_places() as noted:
        parts = family.load(LoadRequest(source, registry.make_options(family, found.hints), dtype=dtype, vae_dtype=dtype))
    if found.hints.get("zero_terminal_snr"):
        parts.scheduler_config["rescale_betas_zero_snr"] = True
    lists = {id(module): places for module, places in noted}
    whole = Whole(family, parts, {}, family.layout())
    return Whole(family, parts, {part: lists[id(module)] for part, module in whole.modules.items()}, whole.layout)


def single_file(whole: Whole) -> dict[str, Item]:
    """Every tensor of a checkpoint in the original spelling."""
    spelling = unet.Spelling(whole.parts.denoiser.config)
    items = {f"model.diffusion_model.{spelling.original(name)}": item for name, item in items_of(whole, "unet").items()}
    levels = len(whole.parts.vae.config.block_out_channels)
    for name, item in items_of(whole, "vae").items():
        # The original's attention is made of 1x1 convolutions.
        kernel = ".attentions." in name and len(item.shape) == 2
        shape = (*item.shape, 1, 1) if kernel else item.shape
        items[f"first_stage_model.{vae.original_name(name, levels)}"] = Item(item.places, shape)
    configs = {part: module.config.to_dict() for part, module in whole.modules.items() if part.startswith("text")}
    for text in whole.layout.texts(configs):
        items |= _text(whole, text)
    for mark, (setting, value) in MARKS.items():
        if whole.family.pipeline(whole.parts).scheduler.config.get(setting) == value:
            items[mark] = Item((), (0,))
    return items


def items_of(whole: Whole, part: str) -> dict[str, Item]:
    """The tensors of one part by diffusers' names."""
    shapes = {name: tuple(t.shape) for name, t in whole.modules[part].state_dict().items()}
    return {name: Item(places, shapes[name]) for name, places in whole.places[part].items() if name in shapes}


def _text(whole: Whole, text: TextLayout) -> dict[str, Item]:
    found = {clip.canonical(name): item for name, item in items_of(whole, text.part).items()}
    # The encoders that came from OpenCLIP are those whose captions are padded with "!".
    if text.pad_token != "!":
        front = text.transformers[0].removesuffix("text_model.")
        return {front + name: item for name, item in found.items()}
    layers = whole.modules[text.part].config.num_hidden_layers
    spelled = clip.as_open_clip(list(found), layers)
    if not text.projection:  # SD 2 leaves out the last layer, which loaders of the original form ask for
        spelled |= {name.replace(f"resblocks.{layers - 1}.", f"resblocks.{layers}."): ours for name, ours in spelled.items()
                    if f"resblocks.{layers - 1}." in name}
    return {text.open_clip[0] + name: _fused([found[n] for n in ours], name == "text_projection")
            for name, ours in spelled.items()}


def _fused(items: list[Item], transposed: bool) -> Item:
    first = items[0].shape
    shape = first[::-1] if transposed else (sum(item.shape[0] for item in items), *first[1:])
    return Item(tuple(place for item in items for place in item.places), shape, transposed)
