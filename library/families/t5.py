"""T5 text encoders: tokens, states, weights from a folder or a single file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import language, shipped_tokenizers, weights
from library.util.header import Header

if TYPE_CHECKING:
    import torch

PREFIXES = ("", "text_encoders.t5xxl.transformer.", "t5xxl.transformer.", "text_encoders.pile_t5xl.transformer.",
            "text_encoders.umt5xxl.transformer.", "text_encoders.byt5_small.transformer.", "transformer.")  # fmt: skip


def load_tokenizer(folder: Path | None) -> Any:
    """The tokenizer of a model folder; without one, the shipped one."""
    return language.local_tokenizer("T5TokenizerFast", folder) or shipped_tokenizers.t5()


def encode(tokenizer: Any, text_encoder: Any, captions: list[str], length: int, masked: bool = False
           ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Captions -> the last states B,L,C and the mask B,L of real tokens; the encoder itself sees it where ``masked``."""
    made = tokenizer(captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    device = next(text_encoder.parameters()).device
    mask = made.attention_mask.to(device)
    return text_encoder(made.input_ids.to(device), attention_mask=mask if masked else None, return_dict=False)[0], mask


def masked(tokenizer: Any, text_encoder: Any, captions: list[str], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions -> the last states B,L,C, zero where padded, and the mask B,L; the encoder sees the mask, too."""
    made = tokenizer(captions, padding=True, truncation=True, max_length=length, padding_side="right", return_tensors="pt")
    device = next(text_encoder.parameters()).device
    mask = made.attention_mask.to(device)
    states = text_encoder(made.input_ids.to(device), attention_mask=mask, return_dict=False)[0]
    return states * mask[..., None].to(states.dtype), mask


def filled_up(states_BLC: torch.Tensor, length: int) -> torch.Tensor:
    """States with zeros behind them up to ``length`` tokens, as models want them that were trained without a mask."""
    import torch

    return torch.nn.functional.pad(states_BLC, (0, 0, 0, max(0, length - states_BLC.shape[1])))


def build(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """T5EncoderModel of ``config`` with the weights in ``header``, in transformers' or ComfyUI's packaging."""
    return _build("T5", config, header, dtype, device)


def build_umt5(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """UMT5EncoderModel, in transformers' spelling or Wan's own."""
    return _build("UMT5", config, header, dtype, device)


WAN = {"q": "SelfAttention.q", "k": "SelfAttention.k", "v": "SelfAttention.v", "o": "SelfAttention.o"}
WAN_LAYER = {**{f"layer.0.{ours}": f"attn.{theirs}" for theirs, ours in WAN.items()}, "layer.0.layer_norm": "norm1",
             "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding", "layer.1.layer_norm": "norm2",
             "layer.1.DenseReluDense.wi_0": "ffn.gate.0", "layer.1.DenseReluDense.wi_1": "ffn.fc1",
             "layer.1.DenseReluDense.wo": "ffn.fc2"}  # fmt: skip
"""Modules of a layer: transformers' path, Wan's."""
WAN_ROOT = {"shared.weight": "token_embedding.weight", "encoder.final_layer_norm.weight": "norm.weight"}


def wan_name(name: str) -> str:
    """A tensor's name in transformers' spelling -> in that of Wan's own files."""
    if not name.startswith("encoder.block."):
        return WAN_ROOT.get(name, name)
    _, _, number, module = name.removesuffix(".weight").split(".", 3)
    return f"blocks.{number}.{WAN_LAYER[module]}.weight"


def _build(kind: str, config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    import transformers

    settings, model_class = getattr(transformers, f"{kind}Config"), getattr(transformers, f"{kind}EncoderModel")

    known = {k: v for k, v in config.items() if k not in ("architectures", "model_type", "torch_dtype", "dtype")}
    model = weights.empty(lambda: model_class(settings(**known)))
    prefix = next((p for p in PREFIXES if p + "encoder.final_layer_norm.weight" in header.places), "")
    found = {}
    for name in model.state_dict():
        shared = "shared.weight" if name == "encoder.embed_tokens.weight" else name
        # Files of the stack alone leave its name out; Wan's own have names of their own.
        spelled = (prefix + name, prefix + shared, name.removeprefix("encoder."), _bare(shared), wan_name(shared))
        place = next((header.places[s] for s in spelled if s in header.places), None)
        if place is not None:
            found[name] = place
    model = weights.fill(model, found, weights.torch_dtype(dtype), device, "the T5 text encoder")
    model.encoder.embed_tokens.weight = model.shared.weight
    return model


def _bare(name: str) -> str:
    return "embed_tokens.weight" if name == "shared.weight" else name
