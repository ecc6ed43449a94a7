"""Parameter groups for the optimizer: by part of the model, by block, by pattern, and LoRA+'s faster half."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks.blocks import index_of
from networks.ranks import parse_patterns, value_for

if TYPE_CHECKING:
    from torch.nn import Parameter


class Trained(Protocol):
    """What is put into a group: an adapter of a target."""

    target: Target

    def named_parameters(self) -> Iterable[tuple[str, Parameter]]: ...


Rates = tuple[float | Sequence[float] | None, float | None, float | None]
"""Learning rates of text encoder(s), denoiser, and of what has none of its own."""


@dataclass(frozen=True)
class GroupPlan:
    """What decides over the groups beside the learning rates themselves."""

    lr_weights: Sequence[float] | None = None
    """Factor by block index of the denoiser."""
    plus_ratio: float | None = None
    plus_ratio_denoiser: float | None = None
    plus_ratio_text: float | None = None
    plus_marks: tuple[str, ...] = ()
    """Parts of parameter names that LoRA+ trains with ratio times the rate."""
    pattern_lrs: str | None = None
    """``regex=lr,regex=lr``: learning rate of modules whose dotted path matches in full."""


@dataclass
class _Share:
    """Adapters that train at one rate under one description."""

    description: str
    lr: float | None
    ratio: float | None
    adapters: list[Trained]


def _text_rates(rates: float | Sequence[float] | None, default: float | None, count: int) -> list[float | None]:
    """One rate for each of ``count`` text encoders: the last one given serves the rest."""
    if rates is None or (isinstance(rates, Sequence) and not rates):
        return [default] * count
    if not isinstance(rates, Sequence):
        return [rates] * count
    if len(rates) > count > 0:
        what = say(
            "{rates} rates were given, but this model has {count:text encoder|text encoders}.",
            rates=len(rates),
            count=count,
        )
        raise UserError(Problem(f"--text_encoder_lr {' '.join(map(str, rates))}", what, "Give one, or one for each."))
    return [*rates, *[rates[-1]] * (count - len(rates))]


def _text_shares(adapters: Sequence[Trained], plan: GroupPlan, rates: Rates) -> Iterable[_Share]:
    roots = sorted({a.target.root for a in adapters if a.target.root != "denoiser"})
    ratio = plan.plus_ratio_text or plan.plus_ratio
    lrs = _text_rates(rates[0], rates[2], _count_roots(roots))
    if len(set(lrs)) <= 1 and roots:
        yield _Share("textencoder", lrs[0], ratio, [a for a in adapters if a.target.root != "denoiser"])
        return
    for root in roots:
        number = _number(root)
        yield _Share(f"textencoder {number}", lrs[number - 1], ratio, [a for a in adapters if a.target.root == root])


def _number(root: str) -> int:
    """text_encoder -> 1, text_encoder_2 -> 2."""
    tail = root.rpartition("_")[2]
    return int(tail) if tail.isdigit() else 1


def _count_roots(roots: Sequence[str]) -> int:
    return max(map(_number, roots), default=0)


def _denoiser_shares(adapters: Sequence[Trained], plan: GroupPlan, rates: Rates) -> Iterable[_Share]:
    own = [a for a in adapters if a.target.root == "denoiser"]
    lr = rates[1] if rates[1] is not None else rates[2]
    ratio = plan.plus_ratio_denoiser or plan.plus_ratio
    if plan.lr_weights is None:
        yield _Share("unet", lr, ratio, own)
        return
    by_block: dict[int | None, list[Trained]] = {}
    for adapter in own:
        by_block.setdefault(index_of(adapter.target), []).append(adapter)
    for index, members in by_block.items():
        weight = 1.0 if index is None else plan.lr_weights[index]
        yield _Share(f"unet_block{index}", None if lr is None else lr * weight, ratio, members)


def _with_patterns(share: _Share, plan: GroupPlan) -> Iterable[_Share]:
    """Move modules with a rate of their own (network_reg_lrs) into shares of their own."""
    patterns = parse_patterns("network_reg_lrs", plan.pattern_lrs, float)
    by_lr: dict[float, list[Trained]] = {}
    rest = []
    for adapter in share.adapters:
        own = value_for(adapter.target, patterns)
        if own is None:
            rest.append(adapter)
        else:
            by_lr.setdefault(own, []).append(adapter)
    for number, (lr, members) in enumerate(by_lr.items()):
        yield _Share(f"{share.description} reg_lr_{number}", lr, share.ratio, members)
    yield _Share(share.description, share.lr, share.ratio, rest)


def param_groups(adapters: Sequence[Trained], plan: GroupPlan, rates: Rates) -> tuple[list[dict], list[str]]:
    """Groups (``params``, ``lr``) and their descriptions; groups without a rate, or with rate 0, are left out."""
    groups: list[dict] = []
    descriptions: list[str] = []
    shares = [*_text_shares(adapters, plan, rates), *_denoiser_shares(adapters, plan, rates)]
    for share in (part for whole in shares for part in _with_patterns(whole, plan)):
        usual, plus = _split(share, plan.plus_marks)
        for parameters, factor, suffix in ((usual, 1.0, ""), (plus, share.ratio, " plus")):
            if parameters and share.lr:
                groups.append({"params": parameters, "lr": share.lr * factor})
                descriptions.append(share.description + suffix)
    return groups, descriptions


def _split(share: _Share, marks: tuple[str, ...]) -> tuple[list, list]:
    """(parameters at the usual rate, parameters that LoRA+ trains faster)."""
    named = [(n, p) for a in share.adapters for n, p in a.named_parameters() if p.requires_grad]
    if share.ratio is None:
        return [p for _, p in named], []
    fast = [any(mark in n for mark in marks) for n, _ in named]
    return ([p for (_, p), f in zip(named, fast, strict=True) if not f],
            [p for (_, p), f in zip(named, fast, strict=True) if f])
