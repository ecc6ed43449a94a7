"""Models of released size without weights, for tools that need names and sizes only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from library.families import registry, source, tiny, weights
from library.families.interface import Parts
from library.util.records import Target


def targets(name: str) -> list[Target]:
    """Every module of a family that has a name in LoRA files: usual targets first, then those outside the blocks."""
    family = registry.get(name)
    built = _components(name)
    denoiser = built.get("unet") or built["transformer"]
    encoders = [built[slot.part] for slot in family.SPEC.text_slots if slot.trainable and slot.part in built]
    parts = Parts(denoiser, None, encoders, [], family.Options())
    return family.adapter_targets(parts) + family.extra_targets(parts)


def _components(name: str) -> dict[str, Any]:
    """The classes of the tiny model with the configurations of the released one, on the meta device."""
    table = source.asset(f"tiny/{name}.json")["components"]
    released = source.asset(f"{name}.json")
    return {part: weights.empty(lambda entry=_released(entry, released[part]): tiny._build(entry))
            for part, entry in table.items() if part in released and part not in ("scheduler", "vae") and "class" in entry}


def _released(entry: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    drop = {"architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path", "_class_name",
            "_diffusers_version"}
    return {**entry, "config": {k: v for k, v in config.items() if k not in drop}}


def is_called(name: str, told: str) -> bool:
    """Whether ``ss_base_model_version`` or ``modelspec.architecture`` means this family."""
    family = registry.get(name)
    options = family.Options()
    version, spec = family.base_version(options), family.architecture(options)
    # sd_v1, sd_v2_v and the like are one family; so are stable-diffusion-v1 and -v2.
    return told.lower().startswith((version.rstrip("0123456789"), spec.rstrip("0123456789")))


