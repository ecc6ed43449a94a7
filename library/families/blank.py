"""Models of released size without weights, for tools that need names and sizes only."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping
from typing import Any

from library.families import registry, source, tiny, weights
from library.families.interface import Parts
from library.util.records import Target


def targets(name: str) -> list[Target]:
    """Every module of a family that has a name in LoRA files: usual targets first, then those outside the blocks."""
    family = registry.get(name)
    texts = [slot.part for slot in family.SPEC.text_slots if slot.trainable]
    built = _components(name, {"unet", "transformer", *texts})
    denoiser = built["unet"] if "unet" in built else built["transformer"]
    parts = Parts(denoiser, None, [built[part] for part in texts if part in built], [], family.Options())
    return family.adapter_targets(parts) + family.extra_targets(parts)


def _components(name: str, wanted: set[str]) -> dict[str, Any]:
    """The classes of the tiny model with the configurations of the released one, on the meta device."""
    table = source.asset(f"tiny/{name}.json")["components"]
    released = source.asset(f"{name}.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # what diffusers will move some day is nothing to the user of a tool
        return {part: weights.empty(functools.partial(tiny.build, _released(entry, released[part])))
                for part, entry in table.items() if part in wanted and part in released}


def _released(entry: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    drop = {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "_class_name",
            "_diffusers_version"}
    return {**entry, "config": {k: v for k, v in config.items() if k not in drop}}


def is_called(name: str, told: str) -> bool:
    """Whether ``ss_base_model_version`` or ``modelspec.architecture`` means this family."""
    family = registry.get(name)
    options = family.Options()
    # Versions of one family (sd_v1, sd_v2_v; flux1, flux-1-schnell) differ in signs and in the number behind the v.
    words = (_plain(family.base_version(options)), _plain(family.architecture(options)))
    return _plain(told).startswith(tuple(re.sub(r"v\d$", "v", word) for word in words))


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
