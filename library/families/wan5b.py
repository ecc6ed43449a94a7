"""Wan 2.2's small model (TI2V 5B: one transformer over 48 latent channels of 16 x 16 pixels), pictures as videos of one frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from library.families import answers, assemble, flow, tiny as tiny_models, video_vae, wan
from library.families.interface import Header, LoadRequest, Parts

SPEC = replace(
    wan.SPEC,
    name="wan5b",
    title="Wan 2.2 5B",
    scripts=("wan5b_train_network.py",),
    latent_channels=48,
    vae_factor=16,
    bucket_step=32,
    cache_suffix="_wan5b",
    sampling_defaults={"timestep_sampling": "shift", "discrete_flow_shift": 5.0},
)


@dataclass(frozen=True)
class Options(flow.FlowOptions):
    """Options of this family, named like their flags."""

    timestep_sampling: str = "shift"
    discrete_flow_shift: float = 5.0
    umt5: str | None = None


RECIPE = assemble.Recipe(SPEC.title, "wan5b.json", wan.TRANSFORMER, wan.sizes, (wan.TEXT,), video_vae)

native_modules = wan.native_modules
hints, index_hints, size_cond = answers.no_hints, answers.no_index_hints, answers.no_sizes
base_version, architecture = answers.always("wan5b"), answers.always("Wan-2.2-5B")
encode_image, decode_latents, normalise, denormalise = answers.images(video_vae)
adapter_targets, extra_targets = wan.adapter_targets, wan.extra_targets
schedule = answers.flow_schedule()
encode_text, predict, pipeline = wan.encode_text, wan.predict, wan.pipeline
"""The model takes a noise level for every token, so that a first frame can be given; a picture's tokens share theirs."""


def matches(header: Header) -> bool:
    """Tell the transformer of 48 channels, in either spelling, from names and shapes."""
    return wan.is_transformer(header, SPEC.latent_channels)


def matches_index(model_index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> bool:
    """Tell a folder by its transformer's channels."""
    return wan.is_folder(model_index, configs, SPEC.latent_channels)


def load(request: LoadRequest) -> Parts:
    """Load from a diffusers folder or hub id, or from single files: transformer, --umt5, --vae."""
    return assemble.load(request, RECIPE)


def tiny(seed: int = 0) -> Parts:
    """A tiny random model of this architecture."""
    return tiny_models.parts("wan5b", seed, Options(), [tiny_models.t5_tokenizer()])
