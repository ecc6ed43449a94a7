"""Stage 6: what is encoded once instead of in every step, and what is freed afterwards."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from library.config.run_config import RunConfig
from library.data.caches import LatentCache, LatentOptions, cache_latents
from library.data.loading import Sources
from library.data.picture import Reading
from library.data.plan import DatasetPlan
from library.data.text_cache import TextCache, TextOptions, cache_text
from library.families.interface import Family, Parts, latent_channels
from library.util.records import Cond
from library.util.said import say

from . import seeds
from .encoding import ImageEncoder
from .session import Precision

log = logging.getLogger(__name__)
TEXT_OPTIONS = {"clip_skip", "weighted_captions", "system_prompt", "apply_lg_attn_mask", "apply_t5_attn_mask"}
"""Options of families, beside the ``..._max_token_length``, that change what the text encoders say."""


def fingerprint(models: Iterable[torch.nn.Module], options: Mapping[str, Any] | None = None) -> str:
    """16 hex digits that tell models apart: by dtype, names and 64 numbers each of 32 tensors spread over each of them."""
    digest = hashlib.sha256(repr(sorted((options or {}).items())).encode())
    for model in models:
        weights = list(model.state_dict().items())
        for name, tensor in weights[::max(1, len(weights) // 32)]:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def fill(config: RunConfig, family: Family, plan: DatasetPlan, parts: Parts, place: Place) -> Sources:
    """Fill the caches that were asked for; parts that nothing needs any more are let go."""
    asked = config.cache
    latents = texts = None
    if asked.latents or asked.latents_to_disk:
        if not config.loop.kohya_order:
            seeds.seed_everything(seeds.derive(config.loop.seed, "latents"))
        log.info(say("caching latents"))
        latents = _latents(config, family, plan, parts, place)
        if config.sample.prompts is None:
            parts.vae = None
    if asked.text or asked.text_to_disk:
        log.info(say("caching text encoder outputs"))
        texts = _texts(config, family, plan, parts, place)
        if config.sample.prompts is None:
            parts.text_encoders = []
    if (latents or texts) and torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Sources(latents, texts)


class Place:
    """The process that fills caches: its accelerator and precision."""

    def __init__(self, accelerator: Any, precision: Precision):
        self.accelerator, self.precision = accelerator, precision

    def share(self) -> dict[str, int]:
        """Which part of the files on disk this process makes."""
        return {"rank": self.accelerator.process_index, "processes": self.accelerator.num_processes}


def _latents(config: RunConfig, family: Family, plan: DatasetPlan, parts: Parts, place: Place) -> LatentCache:
    spec = family.SPEC
    raw = spec.cache_raw
    options = LatentOptions(
        to_disk=config.cache.latents_to_disk, batch_size=config.cache.vae_batch_size, skip_check=config.cache.skip_check,
        factor=spec.vae_factor, maker=fingerprint([parts.vae]), sizes_in_names=not raw,
        to_file=(lambda x: family.denormalise(parts, x)) if raw else None,
        from_file=_scaled_like(family, parts) if raw else None, **place.share(),
        reading=Reading(upright=not config.loop.kohya_order, squeezed_masks=config.loop.kohya_order))
    cache = cache_latents(plan, ImageEncoder(family, parts, place.accelerator.device), options)
    place.accelerator.wait_for_everyone()
    return cache


def _scaled_like(family: Family, parts: Parts) -> Any:
    """Normalisation of cached latents that outlives the VAE: its constants are taken now."""
    zero, one = (family.normalise(parts, torch.full((1, latent_channels(family, parts), 1, 1), value)) for value in (0.0, 1.0))
    shift, scale = zero[0].float().cpu(), (one - zero)[0].float().cpu()

    def normalise(raw: torch.Tensor) -> torch.Tensor:
        return raw * scale + shift

    return normalise


def _texts(config: RunConfig, family: Family, plan: DatasetPlan, parts: Parts, place: Place) -> TextCache:
    def encode(captions: list[str]) -> Cond:
        with torch.no_grad(), place.accelerator.autocast():
            return family.encode_text(parts, captions)

    told = {name: value for name, value in vars(parts.options).items()
            if name in TEXT_OPTIONS or name.endswith("max_token_length")}
    options = TextOptions(to_disk=config.cache.text_to_disk, batch_size=config.cache.text_batch_size,
                          maker=fingerprint(parts.text_encoders, told), skip_check=config.cache.skip_check,
                          suffix=family.SPEC.text_cache_suffix, padding=family.SPEC.cond_padding, **place.share())
    cache = cache_text(plan, encode, options)
    place.accelerator.wait_for_everyone()
    return cache
