"""LoRA files on a model for the length of a block, each at its strength: for pictures and for measuring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from library.families.interface import Family, Parts
from networks import peft_files, registry as networks
from networks.request import NetworkRequest

Lora = tuple[str | Path, float]
"""(file, strength)."""


def create(family: Family, parts: Parts, file: str | Path, strength: float = 1.0) -> tuple[Any, dict[str, Any]]:
    """A network with the modules of a file of any kind, not on the model yet, and the file's tensors.

    Raises UserError where the file is none of this model's, or of a kind that needs a package that is not installed.
    """
    tensors = peft_files.read(file)
    request = NetworkRequest(targets=family.adapter_targets(parts), extra_targets=family.extra_targets(parts), vae=parts.vae,
                             text_encoders=parts.text_encoders, denoiser=parts.denoiser, multiplier=strength)
    return networks.create_from_weights(networks.module_of(tensors), request, tensors, for_inference=True)


def hang(family: Family, parts: Parts, lora: Lora, device: Any = "cpu") -> Any:
    """Hang one LoRA file on the model, frozen, at its strength; returns its network."""
    file, strength = lora
    network, tensors = create(family, parts, file, strength)
    network.to(device).requires_grad_(False)
    network.apply_to(parts.text_encoders, parts.denoiser)
    network.load_tensors(tensors, str(file))
    return network.eval()


@contextmanager
def hung(family: Family, parts: Parts, loras: Sequence[Lora], device: Any = "cpu") -> Iterator[list[Any]]:
    """Hang LoRA files on the model for the length of the block; yields their networks, whose multipliers are live."""
    networks_hung: list[Any] = []
    try:
        for lora in loras:
            networks_hung.append(hang(family, parts, lora, device))
        yield networks_hung
    finally:
        for network in reversed(networks_hung):
            network.remove()
