"""kohya's numbering of a U-Net's blocks, and the per-block ranks and learning rates that are given in that order.

Two layouts exist: 25 blocks for module names in diffusers' spelling (12 down, 1 middle, 12 up), 23 for names in the
spelling of the SGM code (embeddings, 9 input, 3 middle, 9 output, out).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from library.util.records import Problem, Target, UserError
from library.util.said import say

logger = logging.getLogger(__name__)

_DIFFUSERS_NAME = re.compile(r"(up|down)_blocks_(\d+)_(resnets|upsamplers|downsamplers|attentions)_(\d+)_")
_SGM_NAME = re.compile(r"(input_blocks|middle_block|output_blocks)_(\d+)_")
_SGM_FIRST = {"input_blocks": 1, "middle_block": 10, "output_blocks": 13}


@dataclass(frozen=True)
class Layout:
    """How many blocks stand before, on the way down, in the middle, on the way up and after."""

    before: int
    down: int
    mid: int
    up: int
    after: int

    @property
    def total(self) -> int:
        return self.before + self.down + self.mid + self.up + self.after


DIFFUSERS_LAYOUT = Layout(0, 12, 1, 12, 0)
SGM_LAYOUT = Layout(1, 9, 3, 9, 1)


def layout_of(names: Iterable[str]) -> Layout:
    """The layout that a network's module names follow."""
    sgm = any(_SGM_NAME.search(name) for name in names)
    return SGM_LAYOUT if sgm else DIFFUSERS_LAYOUT


def index_of_name(name: str) -> int | None:
    """Block number of a module by its name in the file; None where the layouts have no number for it."""
    if m := _SGM_NAME.search(name):
        return _SGM_FIRST[m[1]] + int(m[2])
    if re.search(r"_(time_embed|label_emb)_", name):
        return 0
    if re.search(r"_unet_out_\d", name):
        return SGM_LAYOUT.total - 1
    if m := _DIFFUSERS_NAME.search(name):
        within = 3 * int(m[2]) + (2 if m[3] in ("upsamplers", "downsamplers") else int(m[4]))
        return (1 if m[1] == "down" else 1 + DIFFUSERS_LAYOUT.down) + within
    if "mid_block_" in name:
        return DIFFUSERS_LAYOUT.down
    return None


def index_of(target: Target) -> int | None:
    """Block number of a target: the family's word, else by its name."""
    return target.block if target.block is not None else index_of_name(target.name)


@dataclass(frozen=True)
class BlockRanks:
    """Rank and alpha of every block, for linear and 1x1 modules, and for larger convolutions where wanted."""

    dims: tuple[int, ...]
    alphas: tuple[float, ...]
    conv_dims: tuple[int, ...] | None
    conv_alphas: tuple[float, ...] | None


def _numbers(flag: str, text: str | None, count: int, convert: Callable[[str], float]) -> tuple | None:
    if text is None:
        return None
    try:
        values = tuple(convert(part) for part in text.split(","))
    except ValueError as error:
        raise UserError(Problem(f"--network_args {flag}={text}", f"{error}", "Write numbers with commas.")) from error
    if len(values) != count:
        raise UserError(
            Problem(
                f"--network_args {flag}={text}",
                say("This model has {count} blocks, {values} values were given.", count=count, values=len(values)),
                say("Give {count} numbers with commas, one a block.", count=count),
            )
        )
    return values


@dataclass(frozen=True)
class BlockWords:
    """The block arguments as typed."""

    dims: str | None = None
    alphas: str | None = None
    conv_dims: str | None = None
    conv_alphas: str | None = None


def block_ranks(layout: Layout, words: BlockWords, base: tuple[int, float], conv: tuple[int | None, float],
                lr_weights: Sequence[float] | None) -> BlockRanks:
    """Rank and alpha of every block: as typed, else the network's own; 0 where the block's learning rate is 0.

    ``base`` and ``conv`` are (dim, alpha) of the network and of its larger convolutions.
    """
    count = layout.total
    dims = _numbers("block_dims", words.dims, count, int) or (base[0],) * count
    alphas = _numbers("block_alphas", words.alphas, count, float) or (base[1],) * count
    conv_dims = _numbers("conv_block_dims", words.conv_dims, count, int)
    conv_alphas = _numbers("conv_block_alphas", words.conv_alphas, count, float)
    if conv_dims is None and conv[0] is not None:
        conv_dims = (conv[0],) * count
    if conv_dims is not None and (conv_alphas is None or words.conv_dims is None):
        conv_alphas = (conv[1],) * count
    if lr_weights is not None:
        dims = tuple(0 if w == 0 else d for d, w in zip(dims, lr_weights, strict=True))
        if conv_dims is not None:
            conv_dims = tuple(0 if w == 0 else d for d, w in zip(conv_dims, lr_weights, strict=True))
    return BlockRanks(dims, alphas, conv_dims, conv_alphas)


def _rise(i: int, n: int) -> float:
    return math.sin(math.pi * (i / (n - 1)) / 2)


# name -> value of block i of n; "+b" after a name adds b to every block
_CURVES: dict[str, Callable[[int, int], float]] = {
    "sine": _rise,
    "cosine": lambda i, n: _rise(n - 1 - i, n),
    "linear": lambda i, n: i / (n - 1),
    "reverse_linear": lambda i, n: (n - 1 - i) / (n - 1),
    "zeros": lambda i, n: 0.0,
}


def _weights(flag: str, text: str | None, count: int, threshold: float) -> list[float]:
    if text is None:
        return [1.0] * count
    name, _, offset = text.partition("+")
    try:
        if name in _CURVES and count > 1:
            values = [_CURVES[name](i, count) + float(offset or 0) for i in range(count)]
        else:
            values = [float(part) if part.strip() else 0.0 for part in text.split(",")]
    except ValueError as error:
        raise UserError(
            Problem(
                f"--network_args {flag}={text}",
                "This is neither a list of numbers nor a known curve.",
                say(
                    "Give {count} numbers with commas, or one of {curves}, with +0.25 after it to raise all.",
                    count=count,
                    curves=_CURVES,
                ),
            )
        ) from error
    if len(values) != count:
        word = "those after it are left out" if len(values) > count else "the missing ones are 1"
        logger.warning("%s has %d values, this model has %d such blocks: %s", flag, len(values), count, word)
        values = (values + [1.0] * count)[:count]
    return [w if w > threshold else 0.0 for w in values]


def lr_weights(layout: Layout, down: str | None, mid: str | None, up: str | None,
               threshold: float) -> tuple[float, ...] | None:
    """Factor on the learning rate for every block; None where none of the three was given.

    Weights not above ``threshold`` become 0, and a block with weight 0 gets no adapter.
    """
    if down is None and mid is None and up is None:
        return None
    middle = (_weights("down_lr_weight", down, layout.down, threshold)
              + _weights("mid_lr_weight", mid, layout.mid, threshold)
              + _weights("up_lr_weight", up, layout.up, threshold))
    return (1.0,) * layout.before + tuple(middle) + (1.0,) * layout.after
