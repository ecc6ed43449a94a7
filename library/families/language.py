"""Language models as text encoders (Qwen, Gemma): states of one layer, weights from a folder or a file, tokenizers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import shipped_tokenizers, source, weights
from library.util.header import Header
from library.util.records import Problem, Target, UserError
from library.util.said import say

if TYPE_CHECKING:
    import torch

LAYER = "layers.0.self_attn.q_proj.weight"
NOT_SETTINGS = ("architectures", "model_type", "torch_dtype", "dtype", "transformers_version")


def build(kind: tuple[str, str, str], config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
    """A language model without its head, with the weights in ``header``.

    ``kind`` is (module of transformers, model class, configuration class). The prefix in the file (``model.``, that of a
    packaged checkpoint) is found by itself; what belongs to other parts (a head, eyes) is left in the file.
    """
    module = importlib.import_module(kind[0])
    known = {k: v for k, v in (config.get("text_config") or config).items() if k not in NOT_SETTINGS}
    model = weights.empty(lambda: module.__dict__[kind[1]](module.__dict__[kind[2]](**known)))
    prefix = next((n[: -len(LAYER)] for n in header.places if n.endswith(LAYER)), "")
    found = {n: header.places[prefix + n] for n in model.state_dict() if prefix + n in header.places}
    return weights.fill(model, found, weights.torch_dtype(dtype), device, "the text encoder")


def builder(kind: tuple[str, str, str]) -> Callable[[Mapping[str, Any], Header, str, str], Any]:
    """``build`` for one kind."""
    return lambda config, header, dtype, device: build(kind, config, header, dtype, device)


def tokenizer(kind: str, repo: str, flag: str) -> Callable[[Path | None], Any]:
    """``load_tokenizer`` for one model: a class of transformers, and the hub's repository that has its files."""
    return lambda folder: load_tokenizer(kind, folder, repo, flag)


def qwen_tokenizer(thinks: bool = True) -> Callable[[Path | None], Any]:
    """Qwen's tokenizer of a model folder; without one, the shipped one, of Qwen3 or (where it does not think) Qwen2.5."""
    return lambda folder: local_tokenizer("Qwen2Tokenizer", folder) or shipped_tokenizers.qwen(thinks)


TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt")


def local_tokenizer(kind: str, folder: Path | None) -> Any:
    """The tokenizer (a class of transformers) in a folder; None where the folder holds none."""
    import transformers

    if folder is None or not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    return getattr(transformers, kind).from_pretrained(str(folder), local_files_only=True)


def load_tokenizer(kind: str, folder: Path | None, repo: str, flag: str) -> Any:
    """The tokenizer of a folder; without one, that of a hub repository ``owner/name[/folder]`` (a few MB, once)."""
    owner, name, *inner = repo.split("/")
    found = local_tokenizer(kind, folder)
    if found is not None:
        return found
    front = "".join(f"{one}/" for one in inner)
    files = [source.hub_file(f"{owner}/{name}", front + one) for one in ("tokenizer_config.json", *TOKENIZER_FILES)]
    if not any(files):
        raise UserError(
            Problem(
                flag,
                say(
                    "Its tokenizer is not on this machine and https://huggingface.co/{owner}/{name} cannot be reached.",
                    owner=owner,
                    name=name,
                ),
                say(
                    "Connect once (a few MB are downloaded and kept), or put {front}tokenizer.json of that page "
                    "beside the text encoder's file, or give a diffusers folder, which carries its tokenizer.",
                    front=front,
                ),
            )
        )
    return local_tokenizer(kind, next(file for file in files if file).parent)


def encode(tokenizer: Any, model: Any, texts: list[str], length: int, layer: int = -2,
           drop: int = 0) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Texts -> states B,L,C of a layer, zero where padded, and the mask B,L of real tokens.

    ``layer`` counts in transformers' list of hidden states, whose last one is behind the final norm. The first ``drop``
    tokens (a fixed instruction) are read, but not given on.
    """
    import torch

    made = tokenizer(texts, padding=True, truncation=True, max_length=length + drop, padding_side="right", return_tensors="pt")
    ids, mask = made.input_ids.long(), made.attention_mask.long()
    if not ids.shape[1]:  # only empty texts, and no mark at their beginning: one token, which does not count
        ids, mask = torch.full((len(texts), 1), tokenizer.pad_token_id), torch.zeros(len(texts), 1, dtype=torch.long)
    device = next(model.parameters()).device
    seen = mask.clone()
    seen[:, 0] = 1  # an empty text beside others: without any token to look at, attention is no number
    states = model(input_ids=ids.to(device), attention_mask=seen.to(device), output_hidden_states=True).hidden_states[layer]
    mask = mask.to(device)
    return (states * mask[..., None].to(states.dtype))[:, drop:], mask[:, drop:]


def adapter_targets(model: Any, root: str, prefix: str) -> list[Target]:
    """Every linear layer, in the model's order."""
    return [Target(f"{prefix}_{path.replace('.', '_')}", path, root, module, "text-encoder")
            for path, module in model.named_modules() if type(module).__name__ == "Linear"]  # fmt: skip


QWEN3 = ("transformers.models.qwen3.modeling_qwen3", "Qwen3Model", "Qwen3Config")
QWEN25_VL = ("transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "Qwen2_5_VLTextModel", "Qwen2_5_VLTextConfig")
GEMMA2 = ("transformers.models.gemma2.modeling_gemma2", "Gemma2Model", "Gemma2Config")
