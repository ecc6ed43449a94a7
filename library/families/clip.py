"""CLIP text encoders: tokens in chunks of 75, hidden states with clip skip, weights from any spelling.

Chunks are kohya's: a caption longer than 75 tokens is cut into bodies of 75, each encoded between its own start and
end token; the states are joined as first start, all bodies, last end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.families import emphasis, weights
from library.families.shipped_tokenizers import byte_characters, unpacked
from library.util.header import Header, Place
from library.util.records import Target

if TYPE_CHECKING:
    import torch

BODY = 75
LAYER_PARTS = (
    ("self_attn.k_proj", "self-attention"),
    ("self_attn.v_proj", "self-attention"),
    ("self_attn.q_proj", "self-attention"),
    ("self_attn.out_proj", "self-attention"),
    ("mlp.fc1", "feed-forward"),
    ("mlp.fc2", "feed-forward"),
)
"""Modules of one layer that carry adapters, in the order in which kohya creates them."""


@cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's 49,408 tokens and 48,894 merges, from the shipped list of merges."""
    lines = unpacked("clip_bpe_vocab_16e6.txt.gz").split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    characters = byte_characters()
    tokens = [
        *characters,
        *(c + "</w>" for c in characters),
        *("".join(m) for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    return {token: i for i, token in enumerate(tokens)}, merges  # type: ignore[return-value]


def shipped_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """OpenAI's CLIP tokenizer from the files of this program; SD 2 and the second one of SDXL pad with ``!``."""
    from transformers import CLIPTokenizer

    vocabulary, merges = _vocabulary()
    return CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=BODY + 2, pad_token=pad_token)


def load_tokenizer(folder: Path | None, pad_token: str = "<|endoftext|>") -> Any:
    """The tokenizer of a model folder; the shipped one without a folder or where it holds none."""
    if folder is None or not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        return shipped_tokenizer(pad_token)
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
    if tokenizer.model_max_length > 1000:
        tokenizer.model_max_length = BODY + 2
    return tokenizer


def token_ids(tokenizer: Any, captions: list[str], max_token_length: int | None) -> torch.Tensor:
    """Captions -> int64 tokens B,n,77 with n = max_token_length / 75 chunks."""
    length = (max_token_length or BODY) + 2
    ids_BL = tokenizer(
        captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    ).input_ids
    return chunked(ids_BL, tokenizer)


def weighted_ids(
    tokenizer: Any, captions: list[str], max_token_length: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions with emphasis -> tokens B,n,77 and the weights of the n*75 tokens between start and end, B,n*75."""
    import torch

    length = max_token_length or BODY
    rows, factors = [], []
    for caption in captions:
        ids: list[int] = []
        weight: list[float] = []
        for text, w in emphasis.parse(caption):
            piece = tokenizer(text).input_ids[1:-1]
            ids += piece
            weight += [w] * len(piece)
        ids, weight = ids[:length], weight[:length]
        rows.append(
            [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * (length - len(ids))]
        )
        factors.append(weight + [1.0] * (length - len(weight)))
    return chunked(torch.tensor(rows), tokenizer), torch.tensor(factors)


def chunked(ids_BL: torch.Tensor, tokenizer: Any) -> torch.Tensor:
    """Tokens B,(n*75+2) -> B,n,77: every chunk gets the first and the last token around its 75.

    Where padding is not the end token (SD 2, SDXL's second encoder), a full chunk ends with the end token and an empty
    one begins with it, so that every chunk has one.
    """
    import torch

    body_BNC = ids_BL[:, 1:-1].reshape(len(ids_BL), -1, BODY)
    count = body_BNC.shape[1]
    first, last = ids_BL[:, :1, None].expand(-1, count, -1), ids_BL[:, -1:, None].expand(-1, count, -1)
    chunks = torch.cat([first, body_BNC, last], dim=-1)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if count > 1 and eos != pad:
        full = (chunks[..., -2] != eos) & (chunks[..., -2] != pad)
        chunks[..., -1] = torch.where(full, eos, chunks[..., -1])
        chunks[..., 1] = torch.where(chunks[..., 1] == pad, eos, chunks[..., 1])
    return chunks


def joined(states_NLC: torch.Tensor, batch: int) -> torch.Tensor:
    """States of all chunks (B*n),77,C -> B,(n*75+2),C: first start, the bodies, last end."""
    import torch

    states = states_NLC.reshape(batch, -1, *states_NLC.shape[1:])
    if states.shape[1] == 1:
        return states[:, 0]
    body = states[:, :, 1:-1].reshape(batch, -1, states.shape[-1])
    return torch.cat([states[:, 0, :1], body, states[:, -1, -1:]], dim=1)


def emphasised(states_BLC: torch.Tensor, weights_BL: torch.Tensor) -> torch.Tensor:
    """Multiply the states between first start and last end by their tokens' weights (as kohya: not renormalised)."""
    import torch

    whole = torch.nn.functional.pad(weights_BL, (1, 1), value=1.0)
    return states_BLC * whole[..., None].to(states_BLC.device, states_BLC.dtype)


def body(text_encoder: Any) -> Any:
    """The module that holds embeddings, layers and final norm; transformers keeps it one level down in some classes."""
    children = dict(text_encoder.named_children())
    return children.get("text_model", text_encoder)


@contextmanager
def first_layers(text_encoder: Any, count: int) -> Iterator[None]:
    """Run only the first ``count`` layers in this block: what clip skip leaves out need not be computed."""
    encoder = body(text_encoder).encoder
    layers = encoder.layers
    encoder.layers = layers[:count]
    try:
        yield
    finally:
        encoder.layers = layers


def hidden_state(text_encoder: Any, ids_BN77: torch.Tensor, clip_skip: int | None) -> torch.Tensor:
    """The state before the last ``clip_skip - 1`` layers through the final norm, B,(n*75+2),C; gradients flow."""
    module = body(text_encoder)
    kept = len(module.encoder.layers) - ((clip_skip or 1) - 1)
    ids = ids_BN77.reshape(-1, ids_BN77.shape[-1]).to(module.embeddings.token_embedding.weight.device)
    with first_layers(text_encoder, max(kept, 0)):
        states = module(input_ids=ids).last_hidden_state
    return joined(states, len(ids_BN77))


def real_tokens(ids_BN77: torch.Tensor, end: int) -> torch.Tensor:
    """Which tokens are text, bool B,n,77: up to and with the first end token, whatever the padding is."""
    ends = (ids_BN77 == end).long()
    return ends.cumsum(-1) - ends == 0


def penultimate(text_encoder: Any, ids_BN77: torch.Tensor, mask_BN77: torch.Tensor | None = None
                ) -> tuple[torch.Tensor, torch.Tensor | None]:  # fmt: skip
    """The state before the last layer, without the final norm, B,(n*75+2),C, and the pooled state.

    What ``mask_BN77`` leaves out, the other tokens do not see.

    Pooled is the projected state of the first end token of the first chunk, B,P; None where the encoder has no
    projection. Gradients flow.
    """
    module = body(text_encoder)
    ids = ids_BN77.reshape(-1, ids_BN77.shape[-1]).to(module.embeddings.token_embedding.weight.device)
    mask = None if mask_BN77 is None else mask_BN77.reshape(ids.shape).to(ids)
    if module is text_encoder:
        with first_layers(text_encoder, len(module.encoder.layers) - 1):
            states = module(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
        return joined(states, len(ids_BN77)), None
    found = text_encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True)
    pooled = found.text_embeds[:: ids_BN77.shape[1]]
    return joined(found.hidden_states[-2], len(ids_BN77)), pooled


def adapter_targets(text_encoder: Any, part: str, lora_prefix: str) -> list[Target]:
    """Every linear layer of a text encoder's attentions and MLPs, under the names that files have always used."""
    found = []
    for i, layer in enumerate(body(text_encoder).encoder.layers):
        for name, role in LAYER_PARTS:
            path = f"text_model.encoder.layers.{i}.{name}"
            found.append(Target(f"{lora_prefix}_{path.replace('.', '_')}", path, part, layer.get_submodule(name), role))
    return found


def build(
    config: Mapping[str, Any], found: Mapping[str, Place], dtype: str, device: str, projection: bool = False
) -> Any:
    """CLIPTextModel (or the one with a projection) of ``config``; ``found``: places by canonical name."""
    from transformers import CLIPTextConfig

    if projection:
        from transformers import CLIPTextModelWithProjection as Model
    else:
        from transformers import CLIPTextModel as Model
    model = weights.empty(lambda: Model(CLIPTextConfig(**_known(config))))
    names = list(model.state_dict())
    own = {n: found[c] for n in names for c in [canonical(n)] if c in found}
    given = {}
    if projection and PROJECTION not in found and config["projection_dim"] == config["hidden_size"]:
        import torch

        given[PROJECTION] = torch.eye(config["hidden_size"])  # files of CLIP-L alone leave it out: it is the identity
    return weights.fill(model, own, weights.torch_dtype(dtype), device, "the text encoder", given)


def builder(name: str, projection: bool) -> Callable[[Mapping[str, Any], Header, str, str], Any]:
    """``build`` for a file in which the encoder stands alone, or in a package under ``name`` (``clip_l``)."""

    def built(config: Mapping[str, Any], header: Header, dtype: str, device: str) -> Any:
        fronts = (f"text_encoders.{name}.transformer.", f"{name}.transformer.")
        prefix = next((p for p in fronts if any(n.startswith(p) for n in header.places)), "")
        return build(config, places(header, prefix), dtype, device, projection)

    return built


PROJECTION = "text_projection.weight"


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json without what describes the file rather than the model."""
    drop = ("architectures", "model_type", "torch_dtype", "dtype", "transformers_version", "_name_or_path")
    return {k: v for k, v in config.items() if k not in drop}


def canonical(name: str) -> str:
    """A tensor's name as every file has it, whatever level transformers keeps it on."""
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def places(header: Header, prefix: str) -> dict[str, Place]:
    """Tensors of a CLIP text encoder under ``prefix`` in transformers' spelling, old or new, by canonical name."""
    inside = {name[len(prefix) :]: place for name, place in header.places.items() if name.startswith(prefix)}
    return {canonical(name): place for name, place in inside.items()}


OPEN_CLIP = {
    "embeddings.token_embedding.weight": "token_embedding.weight",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm.weight": "ln_final.weight",
    "final_layer_norm.bias": "ln_final.bias",
}
OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def open_clip_places(header: Header, prefix: str, layers: int) -> dict[str, Place]:
    """Tensors of an OpenCLIP text encoder under ``prefix`` (``cond_stage_model.model.``) by canonical name.

    Its query, key and value are one matrix and are read in thirds; its projection is stored transposed.
    """

    def at(name: str) -> Place | None:
        return header.places.get(prefix + name)

    found = {f"text_model.{ours}": at(theirs) for ours, theirs in OPEN_CLIP.items()}
    projection = at("text_projection")
    found["text_projection.weight"] = projection.transposed() if projection else at("text_projection.weight")
    for i in range(layers):
        block, own = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            for ours, theirs in OPEN_CLIP_LAYER.items():
                found[f"{own}.{ours}.{kind}"] = at(f"{block}.{theirs}.{kind}")
            fused = at(f"{block}.attn.in_proj_{kind}")
            for part, name in enumerate(("q_proj", "k_proj", "v_proj")):
                found[f"{own}.self_attn.{name}.{kind}"] = fused.rows(part, 3) if fused else None
    return {name: place for name, place in found.items() if place is not None}


def as_open_clip(names: list[str], layers: int) -> dict[str, tuple[str, ...]]:
    """The other way: OpenCLIP's name of each tensor -> the canonical ones of ``names`` that it holds, one below the other.

    ``text_projection`` is stored transposed there.
    """
    found = {theirs: (f"text_model.{ours}",) for ours, theirs in OPEN_CLIP.items()} | {"text_projection": (PROJECTION,)}
    for i in range(layers):
        block, own = f"transformer.resblocks.{i}", f"text_model.encoder.layers.{i}"
        for kind in ("weight", "bias"):
            found |= {f"{block}.{theirs}.{kind}": (f"{own}.{ours}.{kind}",) for ours, theirs in OPEN_CLIP_LAYER.items()}
            found[f"{block}.attn.in_proj_{kind}"] = tuple(f"{own}.self_attn.{part}.{kind}"
                                                          for part in ("q_proj", "k_proj", "v_proj"))  # fmt: skip
    known = set(names)
    return {theirs: ours for theirs, ours in found.items() if known.issuperset(ours)}
