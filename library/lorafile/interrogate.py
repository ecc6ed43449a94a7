"""Which words a LoRA's text encoders were moved by: every token of the vocabulary with and without it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.families import clip, detect, registry, weights
from library.families.interface import Family, LoadRequest, Parts
from library.lorafile.convert import for_targets
from library.lorafile.file import LoraFile
from library.lorafile.work import shown
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys, registry as networks
from networks.request import NetworkRequest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Asked:
    """How the encoders are asked."""

    batch_size: int = 16
    clip_skip: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Moved:
    """One token: its text, and the mean change of an encoder's states by the LoRA."""

    token: str
    change: float


def open_texts(source: str, v2: bool, device: str) -> tuple[Family, Parts]:
    """A model with its text encoders alone; the denoiser has no memory. Raises UserError where it is no such model."""
    found = detect.identify(source)
    if found.family is None:
        raise UserError(Problem(f"--sd_model {source}", say("This is {what}.", what=found.what), "Give the LoRA's base model."))
    if v2 and not found.hints.get("v2"):
        raise UserError(
            Problem("--v2", say("{source} is no SD 2 model.", source=source), "Leave --v2 out: the version is found out by itself.")
        )
    family = registry.get(found.family)
    options = registry.make_options(family, found.hints)
    parts = family.load(LoadRequest(source, options, parts=frozenset({"text"}), device=device))
    with weights.only_places():
        parts.denoiser = family.load(LoadRequest(source, options, parts=frozenset({"denoiser"}))).denoiser
    return family, parts


def interrogate(family: Family, parts: Parts, lora: LoraFile, asked: Asked) -> dict[str, list[Moved]]:
    """Part (``text_encoder``, ...) -> every token of its vocabulary, the most moved first.

    Raises UserError where the file changes no CLIP text encoder of this model.
    """
    targets = [target for target in family.adapter_targets(parts) if target.root != "denoiser"]
    mine, _ = for_targets(lora.modules, targets)
    encoders = {slot.part: pair for slot, *pair in zip(family.SPEC.text_slots, parts.text_encoders, parts.tokenizers, strict=False)
                if type(pair[0]).__name__.startswith("CLIPText")
                and any(target.root == slot.part and target.name in mine for target in targets)}
    if not encoders:
        raise UserError(Problem(str(lora.path), "It changes no CLIP text encoder of this model: no word moves anything.",
                                "Ask a file that was trained with the text encoder, and give its base model."))
    tensors = keys.flatten(mine)
    request = NetworkRequest(targets, text_encoders=parts.text_encoders, denoiser=parts.denoiser)
    network, _ = networks.create_from_weights(networks.module_of(tensors), request, tensors, for_inference=True)
    network.to(asked.device).requires_grad_(False)
    network.apply_to(parts.text_encoders, parts.denoiser, True, False)
    try:
        network.load_tensors(tensors, str(lora.path))
        network.eval()
        return {part: _ranked(network, encoder, tokenizer, asked) for part, (encoder, tokenizer) in encoders.items()}
    finally:
        network.remove()


def _ranked(network: Any, encoder: Any, tokenizer: Any, asked: Asked) -> list[Moved]:
    import torch

    ids_V = sorted(set(tokenizer.get_vocab().values()) - {tokenizer.bos_token_id, tokenizer.eos_token_id})
    changes: list[float] = []
    with torch.no_grad():
        for batch in shown("tokens", _batches(ids_V, asked.batch_size), -(-len(ids_V) // asked.batch_size)):
            changes += _changes(network, encoder, (tokenizer, batch), asked.clip_skip)
    found = [Moved(_text(tokenizer, i), change) for i, change in zip(ids_V, changes, strict=True)]
    return sorted(found, key=lambda moved: -moved.change)


def _batches(ids: list[int], size: int) -> Iterator[list[int]]:
    return (ids[i:i + size] for i in range(0, len(ids), size))


def _changes(network: Any, encoder: Any, asked: tuple[Any, list[int]], clip_skip: int | None) -> list[float]:
    """Mean absolute change of the states of (start, token, end); what would follow the end is not seen by these."""
    import torch

    tokenizer, batch = asked
    ids_B13 = torch.tensor([[[tokenizer.bos_token_id, i, tokenizer.eos_token_id]] for i in batch])
    states: list[torch.Tensor] = []
    for strength in (0.0, 1.0):
        network.set_multiplier(strength)
        states.append(clip.hidden_state(encoder, ids_B13, clip_skip).float())
    return (states[1] - states[0]).abs().mean(dim=(1, 2)).tolist()


def _text(tokenizer: Any, number: int) -> str:
    return str(tokenizer.convert_ids_to_tokens(number)).replace("</w>", " ")
