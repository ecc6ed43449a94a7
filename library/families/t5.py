"""T5 text encoders: tokens, states, weights from a folder or a single file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import source, weights
from library.util.header import Header
from library.util.records import Problem, UserError

if TYPE_CHECKING:
    import torch

HUB = "google/t5-v1_1-xxl"
"""Where the tokenizer comes from when only the weights are given, as kohya takes it."""
PREFIXES = ("", "text_encoders.t5xxl.transformer.", "t5xxl.transformer.", "transformer.")


def load_tokenizer(folder: Path | None) -> Any:
    """The tokenizer of a model folder; without one, the hub's (a few MB, once)."""
    from transformers import T5TokenizerFast

    names = ("tokenizer.json", "spiece.model")
    if folder is not None and any((folder / n).is_file() for n in names):
        return T5TokenizerFast.from_pretrained(str(folder), local_files_only=True)
    found = [source.hub_file(HUB, n) for n in ("tokenizer_config.json", "special_tokens_map.json", *names)]
    if not any(found):
        raise UserError(
            Problem(
                "--t5xxl",
                f"the T5 tokenizer is not on this machine and {HUB} cannot be reached.",
                "Connect once, or give a diffusers folder, which carries its tokenizer.",
            )
        )
    return T5TokenizerFast.from_pretrained(str(next(f for f in found if f).parent), local_files_only=True)


def encode(tokenizer: Any, text_encoder: Any, captions: list[str], length: int, masked: bool = False
           ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Captions -> the last states B,L,C and the mask B,L of real tokens; the encoder itself sees it where ``masked``."""
    made = tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    device = next(text_encoder.parameters()).device
    mask = made.attention_mask.to(device)
    return text_encoder(made.input_ids.to(device), attention_mask=mask if masked else None, return_dict=False)[0], mask


def build(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """T5EncoderModel of ``config`` with the weights in ``header``, in transformers' or ComfyUI's packaging."""
    from transformers import T5Config, T5EncoderModel

    known = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "torch_dtype", "dtype")}
    model = weights.empty(lambda: T5EncoderModel(T5Config(**known)))
    prefix = next((p for p in PREFIXES if p + "encoder.final_layer_norm.weight" in header.places), "")
    found = {}
    for name in model.state_dict():
        shared = "shared.weight" if name == "encoder.embed_tokens.weight" else name
        place = header.places.get(prefix + name) or header.places.get(prefix + shared)
        if place is not None:
            found[name] = place
    model = weights.fill(model, found, weights.torch_dtype(dtype), device, "the T5 text encoder")
    model.encoder.embed_tokens.weight = model.shared.weight
    return model
