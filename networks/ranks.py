"""Which rank and alpha every target gets: by the network's dim, by block, by pattern, or as a file has them."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from library.util.records import Problem, Target, UserError
from library.util.said import say
from networks import blocks
from networks.blocks import BlockWords

logger = logging.getLogger(__name__)
DEFAULT_DIM = 4


@dataclass(frozen=True)
class Rank:
    """Rank of one module and the alpha its scale follows from (scale = alpha / dim)."""

    dim: int
    alpha: float


@dataclass(frozen=True)
class RankRequest:
    """The network's ranks as asked for."""

    dim: int | None = None
    alpha: float | None = None
    conv_dim: int | None = None
    conv_alpha: float | None = None
    words: BlockWords = field(default_factory=BlockWords)
    lr_weights: Sequence[float] | None = None
    pattern_dims: str | None = None
    """``regex=dim,regex=dim``: ranks of modules whose dotted path matches in full; 0 leaves a module out."""
    include: str | None = None
    """Modules that are adapted whatever else is said; patterns on dotted paths as in ``patterns``."""
    exclude: str | None = None
    """Modules that are not."""


def is_small(target: Target) -> bool:
    """Linear layers, 1x1 convolutions and what a preset names take the network's own dim; larger kernels take conv_dim."""
    return target.any_kernel or all(k == 1 for k in kernel_of(target))


def kernel_of(target: Target) -> tuple[int, ...]:
    """Kernel size of a convolution, () for linear layers of any kind."""
    from torch import nn

    return tuple(target.module.kernel_size) if isinstance(target.module, nn.Conv2d) else ()


def parse_patterns(flag: str, text: str | None, convert: Callable[[str], float]) -> list[tuple[re.Pattern[str], float]]:
    """Read ``regex=value,regex=value``.

    Raises UserError that names the part which is no such pair.
    """
    pairs = []
    for part in filter(None, (text or "").split(",")):
        pattern, _, value = part.rpartition("=")
        try:
            pairs.append((re.compile(pattern.strip()), convert(value)))
        except (ValueError, re.error) as error:
            what = say("{part!r} is not of the form regex=number ({error}).", part=part, error=error)
            raise UserError(Problem(f"--network_args {flag}={text}", what,
                                    say("Write {flag}=REGEX=NUMBER, with commas between several.", flag=flag))) from error
    return pairs


def value_for(target: Target, patterns: list[tuple[re.Pattern[str], float]]) -> float | None:
    """Value of the first pattern that matches a module's path in full (in either spelling) or its name."""
    spellings = [s for s in (target.path, target.native, target.name) if s]
    return next((v for p, v in patterns if any(p.fullmatch(s) for s in spellings)), None)


def patterns(flag: str, text: str | None) -> list[re.Pattern[str]]:
    """Regular expressions of ``include_patterns`` or ``exclude_patterns``: kohya's Python list of texts, or commas between.

    Raises UserError for what is none.
    """
    if not text:
        return []
    try:
        return [re.compile(word) for word in _words(text.strip())]
    except re.error as error:
        raise UserError(
            Problem(
                f"--network_args {flag}={text}",
                say("This is not a regular expression ({error}).", error=error),
                "Write regular expressions on module paths, with commas between.",
            )
        ) from error


def _words(text: str) -> list[str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        # A pattern typed as it is, or a list whose quotes a shell has eaten.
        return [word.strip().strip("'\"") for word in text.strip("[]").split(",") if word.strip()]
    return [str(word) for word in (found if isinstance(found, (list, tuple)) else [found])]


def hit(target: Target, found: Sequence[re.Pattern[str]]) -> bool:
    """Whether one of the patterns matches a module's path in full (in either spelling), or its name."""
    return any(p.fullmatch(s) for p in found for s in (target.path, target.native, target.name) if s)


def with_included(targets: Sequence[Target], further: Sequence[Target], include: str | None) -> list[Target]:
    """The targets and those of ``further`` that ``include_patterns`` names, which get no adapter otherwise."""
    known, found = {target.name for target in targets}, patterns("include_patterns", include)
    return [*targets, *(target for target in further if target.name not in known and hit(target, found))]


def _wanted(request: RankRequest) -> Callable[[Target], bool]:
    """kohya's rule: what is included is adapted, also where it is excluded, too, or would not be adapted otherwise."""
    include, exclude = patterns("include_patterns", request.include), patterns("exclude_patterns", request.exclude)
    with_conv = request.conv_dim is not None or request.words.conv_dims is not None
    return lambda t: hit(t, include) or ((with_conv or not t.conv_only) and not hit(t, exclude))


def tell_idle(targets: Sequence[Target], request: RankRequest) -> None:
    """Warn of patterns that match no module; kohya's trainer says nothing, and the file is not what was meant."""
    for flag, text in (("include_patterns", request.include), ("exclude_patterns", request.exclude)):
        for pattern in patterns(flag, text):
            if not any(hit(target, [pattern]) for target in targets):
                logger.warning(say("{flag}: {pattern} matches no module of this model, in full, as it must.",
                                   flag=flag, pattern=pattern.pattern))


def plan(targets: Sequence[Target], request: RankRequest) -> dict[str, Rank]:
    """Rank and alpha by target name; targets that get no adapter are absent.

    The rules are kohya's: dim defaults to 4, alpha to 1, alpha 0 means alpha = dim; kernels above 1x1 (and modules
    that are adapted only with them) need conv_dim or block convolutions.
    """
    dim = DEFAULT_DIM if request.dim is None else request.dim
    alpha = 1.0 if request.alpha is None else float(request.alpha)
    conv_alpha = 1.0 if request.conv_alpha is None else float(request.conv_alpha)
    by_block = _block_ranks(targets, request, (dim, alpha), (request.conv_dim, conv_alpha))
    own_dims = parse_patterns("network_reg_dims", request.pattern_dims, int)
    wanted = _wanted(request)
    tell_idle(targets, request)
    ranks: dict[str, Rank] = {}
    for target in targets:
        if not wanted(target):
            continue
        small = is_small(target)
        own = value_for(target, own_dims)
        if own is not None:
            chosen: tuple[int | None, float] = (int(own), alpha)
        elif by_block is not None and target.root == "denoiser":
            chosen = _of_block(by_block, blocks.index_of(target), small)
        else:
            chosen = (dim, alpha) if small else (request.conv_dim, conv_alpha)
        if chosen[0]:
            ranks[target.name] = Rank(chosen[0], chosen[1] or float(chosen[0]))
    return ranks


def _block_ranks(targets: Sequence[Target], request: RankRequest, base: tuple[int, float],
                 conv: tuple[int | None, float]) -> blocks.BlockRanks | None:
    if request.words.dims is None and request.lr_weights is None:
        _refuse_lonely(request.words)
        return None
    layout = blocks.layout_of(t.name for t in targets)
    return blocks.block_ranks(layout, request.words, base, conv, request.lr_weights)


def _refuse_lonely(words: BlockWords) -> None:
    """Block alphas and block convolutions act only beside block_dims or block learning rates: alone they do nothing."""
    lonely = {"block_alphas": words.alphas, "conv_block_dims": words.conv_dims, "conv_block_alphas": words.conv_alphas}
    if given := [name for name, text in lonely.items() if text is not None]:
        raise UserError(Problem(f"--network_args {given[0]}", say("{given} without block_dims has no effect.", given=given),
                                "Give block_dims too, or leave it out and use conv_dim / conv_alpha."))


def _of_block(ranks: blocks.BlockRanks, index: int | None, small: bool) -> tuple[int | None, float]:
    if index is None:
        return None, 0.0
    if small:
        return ranks.dims[index], ranks.alphas[index]
    if ranks.conv_dims is None:
        return None, 0.0
    return ranks.conv_dims[index], ranks.conv_alphas[index]


def from_modules(modules: Mapping[str, Mapping[str, object]], rank_of: Callable[[Mapping], int],
                 alpha_of: Callable[[Mapping], float | None]) -> dict[str, Rank]:
    """Ranks as a file has them; a module without alpha has scale 1."""
    ranks = {}
    for name, parts in modules.items():
        dim = rank_of(parts)
        ranks[name] = Rank(dim, alpha_of(parts) or float(dim))
    return ranks
