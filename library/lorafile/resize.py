"""Another rank for a LoRA: every module is cut to its largest singular values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from library.lorafile import kinds
from library.lorafile.convert import kernels
from library.lorafile.factors import RankRule, retained, thin_svd
from library.lorafile.file import LoraFile
from library.lorafile.work import each
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys


@dataclass(frozen=True)
class ResizeRequest:
    """The new ranks."""

    rank: RankRule
    """Of linear layers and, where ``conv_rank`` is the same, of all."""
    conv_rank: RankRule
    """Of convolutions (kohya's rule: of 1x1 ones too)."""
    device: str | None = None

    @classmethod
    def of(cls, rank: int, conv_rank: int | None = None, dynamic: tuple[str | None, float | None] = (None, None),
           device: str | None = None) -> ResizeRequest:
        """From the command's values; ``dynamic`` is (method, param). Raises UserError where they do not go together."""
        method, param = dynamic
        wrong = []
        if method is not None and not param:
            wrong.append(Problem("--dynamic_method", say("{method} needs the figure to aim at.", method=method),
                                 "Add --dynamic_param, for instance 0.9 (sv_ratio: 2 and more)."))
        if method is None and param is not None:
            wrong.append(Problem("--dynamic_param", say("{param} has no effect without a method.", param=param),
                                 "Add --dynamic_method sv_ratio, sv_fro or sv_cumulative."))
        if min(rank, conv_rank or rank) < 1:
            wrong.append(Problem("--new_rank", say("{rank} is no rank.", rank=min(rank, conv_rank or rank)), "Give 1 or more."))
        if wrong:
            raise UserError(*wrong)
        rules = [RankRule(most, method, param or 0.0) for most in (rank, conv_rank or rank)]
        return cls(*rules, device)


@dataclass(frozen=True)
class Resized:
    """How one module came out."""

    stem: str
    old_rank: int
    rank: int
    alpha: float
    sum_kept: float
    norm_kept: float
    ratio: float


def resize(lora: LoraFile, request: ResizeRequest) -> tuple[keys.Modules, list[Resized]]:
    """Cut every module to its new rank; the scale alpha / rank of each stays. Returns the modules and a report.

    A module of a smaller rank than asked for keeps its rank. LoHa and LoKr become LoRA. Raises UserError for kinds that
    have no thin factors.
    """
    shapes = kernels(lora)

    def one(item: tuple[str, Mapping]) -> tuple[dict, Resized]:
        return _one(*item, request, shapes.get(item[0]))

    done = list(each("resizing", list(lora.modules.items()), one, request.device))
    modules = {stem: parts for stem, (parts, _) in zip(lora.modules, done, strict=True)}
    return modules, [report for _, report in done]


def _one(stem: str, parts: Mapping, request: ResizeRequest, kernel: tuple[int, ...] | None) -> tuple[dict, Resized]:
    carried = {s: parts[s] for s in (keys.DORA, "diff_b") if s in parts}
    whole = kinds.product(stem, {s: t for s, t in parts.items() if s not in carried}, kernel)
    is_lora = keys.kind_of(parts) == "lora"
    old = keys.rank_of(parts) if is_lora else whole.rank
    # LoRA's own scale stays out of the factors and in alpha, as kohya's tool has it.
    scale = ((keys.alpha_of(parts) or float(old)) / old) if is_lora else 1.0
    svd = thin_svd(whole.up.to(request.device or "cpu") / scale, whole.down.to(request.device or "cpu"))
    is_conv = bool(whole.kernel)
    rule = request.conv_rank if is_conv else request.rank
    rank = min(rule.rank(svd.values), max(1, min(old, len(svd.values))))
    alpha = scale * rank
    dtype = next(t.dtype for s, t in parts.items() if s != keys.ALPHA)
    new = kinds.as_lora(svd.cut(rank).factors(), whole.kernel, alpha, dtype)
    return new | carried, Resized(stem, old, rank, alpha, *retained(svd.values, rank))


def metadata_after(lora: LoraFile, request: ResizeRequest, report: list[Resized]) -> dict[str, str]:
    """The file's metadata with the new dim and alpha and a note in the comment, as kohya's tool writes them."""
    old = max((r.old_rank for r in report), default=0)
    metadata = dict(lora.metadata)
    comment = metadata.get("ss_training_comment", "")
    if request.rank.method:
        note = f"Dynamic resize with {request.rank.method}: {request.rank.param} from {old}; {comment}"
        dim = alpha = "Dynamic"
    else:
        conv = f" (conv: {request.conv_rank.most})" if request.conv_rank.most != request.rank.most else ""
        note = f"dimension is resized from {old} to {request.rank.most}{conv}; {comment}"
        dim, alpha = _common([r.rank for r in report]), _common([r.alpha for r in report])
    metadata |= {"ss_training_comment": note, "ss_network_dim": dim, "ss_network_alpha": alpha}
    if lora.identity.kind != "lora":
        metadata["ss_network_module"] = "networks.lora"
    return metadata


def _common(values: list) -> str:
    """The value that all share, else ``Dynamic``."""
    return str(values[0]) if len(set(values)) == 1 else "Dynamic"


def summary(report: list[Resized]) -> str:
    """One line about the whole file."""
    import statistics

    kept = [r.norm_kept for r in report]
    spread = statistics.pstdev(kept) if len(kept) > 1 else 0.0
    ranks = sorted({r.rank for r in report})
    told = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    return f"{len(report)} modules, rank {told}; {statistics.mean(kept):.2%} of the norm kept (spread {spread:.3f})"
