"""What a LoRA file is, how healthy its layers are, and how it differs from another."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from library.families import registry
from library.lorafile import convert, kinds
from library.lorafile.factors import thin_svd
from library.lorafile.file import LoraFile
from library.lorafile.work import each
from library.util.records import UserError
from networks import keys, registry as networks

if TYPE_CHECKING:
    import torch

EXPLODED = 20.0
"""A layer whose norm is so many times the median of the file's is called exploded."""


@dataclass(frozen=True)
class Layer:
    """One module: its size, the norm of what it amounts to, how many ranks it really uses, what is wrong with it."""

    stem: str
    kind: str
    rank: int | None
    alpha: float | None
    norm: float
    effective_rank: float | None
    """exp of the entropy of the squared singular values' shares: 1 where one value is all, rank where all are equal."""
    largest: float
    """Largest singular value."""
    fault: str = ""
    """``nan``, ``dead`` (zero), ``exploded`` or nothing."""

    @property
    def block(self) -> str:
        return block_of(self.stem)


@dataclass(frozen=True)
class Report:
    """Everything about a file."""

    path: str
    kind: str
    fmt: str
    dtype: str
    made_for: str
    """The base model's architecture; what the metadata call it, where they do."""
    loads_in: Sequence[str]
    """Programs that read the file."""
    settings: Mapping[str, str]
    words: Sequence[tuple[str, int]]
    """Most frequent tags of the training captions, and trigger phrases, with counts."""
    layers: Sequence[Layer]

    @property
    def faults(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.fault]

    @property
    def blocks(self) -> dict[str, float]:
        """Block -> norm over its layers, in the model's order."""
        sums: dict[str, float] = {}
        for layer in self.layers:
            sums[layer.block] = sums.get(layer.block, 0.0) + layer.norm ** 2
        return {block: math.sqrt(sums[block]) for block in sorted(sums, key=place_of_block)}

    def as_json(self) -> dict[str, Any]:
        """The same for programs; norms that are no numbers become null."""
        layers = [{**layer.__dict__, "block": layer.block} for layer in self.layers]
        whole = {**self.__dict__, "layers": layers, "blocks": self.blocks, "words": [list(word) for word in self.words]}
        return json.loads(json.dumps(whole, default=list), parse_constant=lambda name: None)


ORDER = ("text", "down", "input", "mid", "middle", "double", "context", "noise", "joint", "transformer", "blocks", "layers", "up",
         "output", "single", "other")
"""First words of blocks in the order in which a model has them."""
_BLOCK = re.compile(r"((?:input|output|middle|down|up|mid|double|joint|single_transformer|single|transformer)_blocks?(?:[_.]\d+)?"
                    r"|(?:noise|context)_refiner[_.]\d+|(?:layers|blocks)[_.]\d+)")


def block_of(stem: str) -> str:
    """``down_blocks.1``, ``text layers.3``, ... of a module's stem in any format."""
    text = re.search(r"text_model_encoder_|^lora_te|text_encoder", stem) is not None
    found = _BLOCK.search(stem)
    place = re.sub(r"[_.](\d+)$", r".\1", found[1]) if found else "other"
    return f"text {place}" if text else place


def place_of_block(block: str) -> tuple[int, int, str]:
    """A key that sorts blocks as the model has them: text encoder, way down, middle, way up; numbers as numbers."""
    first, number = re.split(r"[ _.]", block)[0], re.search(r"(\d+)$", block)
    return ORDER.index(first), int(number[1]) if number else -1, block


def examine(lora: LoraFile, device: str | None = None) -> Report:
    """Look at every module of a file."""
    rough = list(each("examining", list(lora.modules.items()), lambda item: _layer(*item, device), device))
    norms = [layer.norm for layer in rough if math.isfinite(layer.norm) and layer.norm > 0]
    limit = EXPLODED * statistics.median(norms) if norms else math.inf
    layers = [layer if layer.fault or layer.norm <= limit else Layer(**{**layer.__dict__, "fault": "exploded"})
              for layer in rough]
    m = lora.metadata
    settings = {name: _without_nothing(m[key]) for name, key in SETTINGS.items() if m.get(key) not in (None, "", "None")}
    dora = " with DoRA" if any(keys.DORA in parts for parts in lora.modules.values()) else ""
    return Report(str(lora.path), f"{lora.identity.kind}{dora}", lora.identity.format or "",
                  str(lora.dtype).removeprefix("torch."), *_made_for(lora), settings, words_of(m), layers)


def _made_for(lora: LoraFile) -> tuple[str, tuple[str, ...]]:
    """The architecture by metadata or by the modules' names and sizes, and the programs that read the file."""
    told = lora.metadata.get("ss_base_model_version") or lora.metadata.get("modelspec.architecture") or ""
    try:
        spec = registry.get(convert.family_of(lora)).SPEC
    except UserError:
        return told or "no model that is known here", ()
    module = networks.module_of(keys.flatten(lora.modules))
    return f"{spec.title} ({told})" if told else spec.title, networks.readers(module, spec.loads_in, lora.identity.format or "")


def _without_nothing(text: str) -> str:
    """``--network_args`` as metadata hold them, without those that were not given."""
    if not text.startswith("{"):
        return text
    try:
        return ", ".join(f"{name}={value}" for name, value in json.loads(text).items() if value is not None) or "none"
    except ValueError:
        return text


SETTINGS = {"name": "ss_output_name", "model": "ss_sd_model_name", "module": "ss_network_module", "dim": "ss_network_dim",
            "alpha": "ss_network_alpha", "arguments": "ss_network_args", "learning rate": "ss_learning_rate",
            "optimizer": "ss_optimizer", "schedule": "ss_lr_scheduler", "steps": "ss_steps", "epochs": "ss_epoch",
            "pictures": "ss_num_train_images", "resolution": "ss_resolution", "clip skip": "ss_clip_skip",
            "comment": "ss_training_comment", "merged from": "modelspec.merged_from", "usage": "modelspec.usage_hint"}
"""What is shown of a file's metadata, by the name it is shown under."""


def _layer(stem: str, parts: Mapping[str, torch.Tensor], device: str | None) -> Layer:
    import torch

    kind = str(keys.kind_of(parts))
    rank = keys.inner_rank(parts)
    alpha = keys.alpha_of(parts)
    if not all(bool(torch.isfinite(t).all()) for t in parts.values()):
        return Layer(stem, kind, rank, alpha, math.nan, None, math.nan, "nan")
    plain = {s: t for s, t in parts.items() if s not in (keys.DORA, "diff_b")}
    whole = kinds.FACTORS[kind](plain) if kind in kinds.FACTORS else None
    if whole is None:
        norm = math.sqrt(sum(float(t.double().pow(2).sum()) for s, t in parts.items() if s != keys.ALPHA))
        return Layer(stem, kind, rank, alpha, norm, None, math.nan, "" if norm else "dead")
    values = thin_svd(whole.up.to(device or "cpu"), whole.down.to(device or "cpu")).values.double()
    norm = float(values.norm())
    if not norm:
        return Layer(stem, kind, rank, alpha, 0.0, 0.0, 0.0, "dead")
    shares = (values / norm).pow(2)
    entropy = -float((shares * shares.clamp(min=1e-30).log()).sum())
    return Layer(stem, kind, rank, alpha, norm, math.exp(entropy), float(values[0]))


def words_of(metadata: Mapping[str, str], most: int = 12) -> list[tuple[str, int]]:
    """The trigger phrase, then the most frequent tags of the captions, with their counts."""
    counts: Counter[str] = Counter()
    try:
        for tags in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            counts.update({tag.strip(): int(count) for tag, count in tags.items()})
    except (ValueError, AttributeError, TypeError):
        counts.clear()  # another program's metadata in another form: nothing to show
    phrase = metadata.get("modelspec.trigger_phrase")
    return ([(phrase, 0)] if phrase else []) + counts.most_common(most)


@dataclass(frozen=True)
class Difference:
    """One module of two files: cosine of the angle between the changes, ratio of their norms (other / this)."""

    stem: str
    cosine: float
    ratio: float


def under_kohyas_names(lora: LoraFile) -> LoraFile:
    """The file as kohya's format names it. Raises UserError where its model is not known here."""
    found, _ = convert.for_targets(lora.modules, convert.targets_of(convert.family_of(lora)))
    return replace(lora, modules=found)


def differences(one: LoraFile, other: LoraFile) -> tuple[list[Difference], list[str], list[str]]:
    """How each common module differs; the stems that only the first has, and that only the second has.

    Files of two formats are compared under one format's names. Raises UserError for kinds that are no product.
    """
    if one.identity.format != other.identity.format:
        one, other = under_kohyas_names(one), under_kohyas_names(other)

    def pair(stem: str) -> Difference:
        a, b = (kinds.product(stem, lora.modules[stem]) for lora in (one, other))
        inner = float(((a.up.T @ b.up) * (a.down @ b.down.T)).double().sum())
        norms = [math.sqrt(max(0.0, float(((p.up.T @ p.up) * (p.down @ p.down.T)).double().sum()))) for p in (a, b)]
        if not all(norms):
            return Difference(stem, 0.0, math.inf if norms[1] else 0.0)
        return Difference(stem, inner / (norms[0] * norms[1]), norms[1] / norms[0])

    common = [stem for stem in one.modules if stem in other.modules]
    found = list(each("comparing", common, pair))
    return (found, [s for s in one.modules if s not in other.modules], [s for s in other.modules if s not in one.modules])
