"""What a LoRA file is, how healthy its layers are, and how it differs from another."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from library.lorafile import kinds
from library.lorafile.factors import thin_svd
from library.lorafile.file import LoraFile
from library.lorafile.work import each
from networks import keys

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
    settings: Mapping[str, str]
    words: Sequence[tuple[str, int]]
    """Most frequent tags of the training captions, and trigger phrases, with counts."""
    layers: Sequence[Layer]

    @property
    def faults(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.fault]

    @property
    def blocks(self) -> dict[str, float]:
        """Block -> norm over its layers."""
        sums: dict[str, float] = {}
        for layer in self.layers:
            sums[layer.block] = sums.get(layer.block, 0.0) + layer.norm ** 2
        return {block: math.sqrt(total) for block, total in sums.items()}

    def as_json(self) -> dict[str, Any]:
        """The same for programs; norms that are no numbers become null."""
        layers = [{**layer.__dict__, "block": layer.block} for layer in self.layers]
        whole = {**self.__dict__, "layers": layers, "blocks": self.blocks, "words": [list(word) for word in self.words]}
        return json.loads(json.dumps(whole, default=list), parse_constant=lambda name: None)


_BLOCK = re.compile(r"((?:input|output|middle|down|up|mid|double|single|joint|transformer|single_transformer)_blocks?"
                    r"(?:[_.]\d+)?|layers[_.]\d+)")


def block_of(stem: str) -> str:
    """``down_blocks.1``, ``text layers.3``, ... of a module's stem in any format."""
    text = re.search(r"text_model_encoder_|^lora_te|text_encoder", stem) is not None
    found = _BLOCK.search(stem)
    place = re.sub(r"[_.](\d+)$", r".\1", found[1]) if found else "other"
    return f"text {place}" if text else place


def examine(lora: LoraFile, device: str | None = None) -> Report:
    """Look at every module of a file."""
    rough = list(each("examining", list(lora.modules.items()), lambda item: _layer(*item, device), device))
    norms = [layer.norm for layer in rough if math.isfinite(layer.norm) and layer.norm > 0]
    limit = EXPLODED * statistics.median(norms) if norms else math.inf
    layers = [layer if layer.fault or layer.norm <= limit else Layer(**{**layer.__dict__, "fault": "exploded"})
              for layer in rough]
    m = lora.metadata
    made_for = m.get("ss_base_model_version") or m.get("modelspec.architecture") or "not said"
    settings = {name: m[key] for name, key in SETTINGS.items() if m.get(key) not in (None, "", "None")}
    return Report(str(lora.path), lora.identity.kind or "", lora.identity.format or "", str(lora.dtype).removeprefix("torch."),
                  made_for, settings, words_of(m), layers)


SETTINGS = {"name": "ss_output_name", "model": "ss_sd_model_name", "module": "ss_network_module", "dim": "ss_network_dim",
            "alpha": "ss_network_alpha", "arguments": "ss_network_args", "learning rate": "ss_learning_rate",
            "optimizer": "ss_optimizer", "schedule": "ss_lr_scheduler", "steps": "ss_steps", "epochs": "ss_epoch",
            "pictures": "ss_num_train_images", "resolution": "ss_resolution", "clip skip": "ss_clip_skip",
            "comment": "ss_training_comment", "merged from": "modelspec.merged_from", "usage": "modelspec.usage_hint"}
"""What is shown of a file's metadata, by the name it is shown under."""


def _layer(stem: str, parts: Mapping[str, torch.Tensor], device: str | None) -> Layer:
    import torch

    kind = str(keys.kind_of(parts))
    rank = keys.rank_of(parts) if keys.DOWN in parts else None
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


def differences(one: LoraFile, other: LoraFile) -> tuple[list[Difference], list[str], list[str]]:
    """How each common module differs; the stems that only the first has, and that only the second has."""
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


def as_text(report: Report) -> str:
    """The report as lines for a person."""
    ranks = Counter(layer.rank for layer in report.layers if layer.rank)
    lines = [f"{report.path}: {report.kind}, {len(report.layers)} modules, {report.fmt} format, {report.dtype}",
             f"made for: {report.made_for}"]
    if ranks:
        lines.append("rank: " + ", ".join(f"{rank} ({count} modules)" for rank, count in sorted(ranks.items())))
    lines += [f"{name}: {value}" for name, value in report.settings.items()]
    if report.words:
        lines.append("words: " + ", ".join(f"{word} ({count})" if count else word for word, count in report.words))
    lines += ["", f"{'block':28} {'layers':>6} {'norm':>10} {'effective rank':>14}"]
    for block, norm in report.blocks.items():
        own = [layer for layer in report.layers if layer.block == block]
        used = [layer.effective_rank for layer in own if layer.effective_rank is not None]
        lines.append(f"{block:28} {len(own):>6} {norm:>10.4f} {statistics.mean(used) if used else math.nan:>14.2f}")
    counts = Counter(layer.fault for layer in report.faults)
    lines += ["", "health: " + (", ".join(f"{count} {fault}" for fault, count in counts.items()) if counts else "good")]
    lines += [f"  {layer.fault:9} {layer.stem} (norm {layer.norm:.4g})" for layer in report.faults[:10]]
    return "\n".join(lines)


def picture(report: Report, path: str) -> None:
    """Draw norm and effective rank of every block into a picture file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = report.blocks
    figure = Figure(figsize=(max(6, 0.35 * len(blocks)), 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    upper.bar(range(len(blocks)), list(blocks.values()), color="#4477aa")
    upper.set_ylabel("norm of the change")
    upper.set_title(report.path.replace("\\", "/").rsplit("/", 1)[-1])
    used = [[layer.effective_rank or 0.0 for layer in report.layers if layer.block == block] for block in blocks]
    lower.bar(range(len(blocks)), [statistics.mean(values) for values in used], color="#66aa77")
    lower.set_ylabel("effective rank")
    lower.set_xticks(range(len(blocks)), list(blocks), rotation=90, fontsize=7)
    figure.savefig(path, dpi=110)
