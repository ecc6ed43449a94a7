"""Conditioning of captions, encoded once: in memory, or on disk beside the pictures, generic over a family's tensors.

Captions must not change from step to step then (no shuffling, dropout or warm-up); resolve sees to that. Equal captions are
encoded once. A file holds one array for each tensor under the name that the family gives it, and the caption and a fingerprint
of the encoders, so that a change of either is noticed; files without them (kohya's) are taken as they are.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from library.util.records import Cond, EncodeText, Problem, UserError
from library.util.said import say

from . import captions
from .caches import BROKEN, MAKER, NEWER, made_by_another, write_npz
from .plan import DatasetPlan, Item

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
CAPTION = "caption"
"""Name of the array that holds the text a file was made of."""
FALLBACK_SUFFIX = "_te"


class Pad(Protocol):
    """How a tensor of differing length is padded: along axis ``dim`` of the batch with ``value``; None = all are equal."""

    dim: int | None
    value: float


@dataclass(frozen=True)
class TextOptions:
    """How conditioning is cached."""

    to_disk: bool = False
    batch_size: int = 1
    maker: str = ""
    """Fingerprint of the text encoders and of the options that they encode with."""
    skip_check: bool = False
    suffix: str | None = None
    """Behind the picture's stem (``_te_outputs``)."""
    padding: Mapping[str, Pad] = field(default_factory=dict)
    """Of each tensor that the family knows; of kohya's files no other is read."""
    dtype: str | None = None
    """torch's name of the dtype that floating tensors read from files get; None = float32."""
    rank: int = 0
    processes: int = 1


@dataclass
class TextCache:
    """Gives the conditioning of every item of a plan; picklable."""

    options: TextOptions
    memory: dict[str, Cond] = field(default_factory=dict)
    """Caption -> conditioning of a batch of one."""

    def __call__(self, item: Item, text: str) -> Cond:
        """Conditioning of one picture as a batch of one."""
        if not self.options.to_disk:
            return self.memory[text]
        file = file_of(item, self.options)
        try:
            return _loaded(file, self.options)
        except BROKEN as error:
            raise UserError(Problem(str(file), say("The cached conditioning cannot be read: {error}.", error=error),
                                    "Start again; the file will be made anew.")) from error

    def collate(self, conds: Sequence[Cond]) -> Cond:
        """Put batches of one together, padded where the family says how."""
        return {name: _together([cond[name] for cond in conds], self.options.padding.get(name)) for name in conds[0]}


def fixed_caption(plan: DatasetPlan, item: Item) -> str:
    """The text a picture has in every step: prefix, suffix and separators applied, nothing random left to chance."""
    subset = plan.parts[item.part].subsets[item.subset]
    return captions.make(item.caption, subset, captions.Moment(epoch=1), random.Random(0))


def file_of(item: Item, options: TextOptions) -> Path:
    return item.path.with_name(f"{item.path.stem}{options.suffix or FALLBACK_SUFFIX}.npz")


def cache_text(plan: DatasetPlan, encode: EncodeText, options: TextOptions) -> TextCache:
    """Encode every caption that has no valid cache yet. ``encode``: captions -> conditioning of that batch.

    Raises UserError where files are asked for, of which a picture has one, and two subsets give it different captions.
    """
    cache = TextCache(options)
    wanted: dict[str, list[Item]] = {}
    items = [*plan.items, *plan.validation]
    owners: dict[Path, str] = {}
    for index, item in enumerate(items):
        text = fixed_caption(plan, item)
        if options.to_disk and owners.setdefault(item.path, text) != text:
            raise UserError(_two_captions(item, text, owners[item.path]))
        if options.to_disk and (index % options.processes != options.rank or _is_valid(item, text, options)):
            continue
        wanted.setdefault(text, []).append(item)
    texts = list(wanted)
    for start in range(0, len(texts), options.batch_size):
        batch = texts[start:start + options.batch_size]
        for text, cond in zip(batch, _encoded(batch, encode), strict=True):
            if not options.to_disk:
                cache.memory[text] = cond
                continue
            for item in wanted[text]:
                _store(file_of(item, options), text, cond, options)
    return cache


def _two_captions(item: Item, one: str, other: str) -> Problem:
    what = say('The picture is trained with two captions ("{one}" and "{other}"), but its cache on disk holds one.',
               one=one, other=other)
    return Problem(str(item.path), what, "Use --cache_text_encoder_outputs (in memory) instead of ..._to_disk, or give the subsets "
                                         "the same captions.")


def _encoded(texts: list[str], encode: EncodeText) -> Iterator[Cond]:
    """Conditioning of each text as a batch of one, on the CPU."""
    import torch

    with torch.no_grad():
        cond = encode(texts)
    for index in range(len(texts)):
        yield {name: _part(value, index) for name, value in cond.items()}


def _part(value: Any, index: int) -> Any:
    if isinstance(value, list):
        return [value[index].detach().cpu()]
    return value[index:index + 1].detach().cpu().clone()


def _together(values: Sequence[Any], pad: Pad | None) -> Any:
    import torch

    if isinstance(values[0], list):
        return [one for value in values for one in value]
    if pad is not None and pad.dim is not None:
        longest = max(value.shape[pad.dim] for value in values)
        values = [_padded(value, pad.dim, longest, pad.value) for value in values]
    return torch.cat(list(values))


def _padded(value: torch.Tensor, dim: int, length: int, fill: float) -> torch.Tensor:
    import torch

    missing = length - value.shape[dim]
    if not missing:
        return value
    shape = list(value.shape)
    shape[dim] = missing
    return torch.cat([value, value.new_full(shape, fill)], dim=dim)


# ------------------------------------------------------------------------------------------------------------------ files


def _store(file: Path, text: str, cond: Cond, options: TextOptions) -> None:
    import numpy as np

    def array(value: Any) -> Any:
        value = value[0]
        return (value.float() if value.is_floating_point() else value).numpy()

    arrays: dict[str, Any] = {name: array(value) for name, value in cond.items()}
    lists = [name for name, value in cond.items() if isinstance(value, list)]
    write_npz(file, arrays | {CAPTION: np.array(text), MAKER: np.array(options.maker), "lists": np.array(lists, dtype=str)})


def _is_valid(item: Item, text: str, options: TextOptions) -> bool:
    import numpy as np

    file = file_of(item, options)
    if not file.is_file():
        return False
    if options.skip_check:
        return True
    try:
        with np.load(file) as arrays:
            if MAKER not in arrays and not any(name in arrays for name in options.padding):
                return False
            if made_by_another(arrays, MAKER, options.maker):
                log.warning(say("The cached conditioning {name} is another model's and is made again.", name=file.name))
                return False
            if CAPTION in arrays:
                valid = str(arrays[CAPTION]) == text
            else:
                valid = not _caption_is_newer(item, file)
    except BROKEN:
        valid = False
    if not valid:
        log.warning(say("The cached conditioning {name} is out of date or broken and is made again.", name=file.name))
    return valid


def _caption_is_newer(item: Item, file: Path) -> bool:
    """For files that do not say what text they were made of."""
    beside = [item.path.with_suffix(ending) for ending in (".txt", ".caption")]
    return any(one.is_file() and one.stat().st_mtime > file.stat().st_mtime + NEWER for one in beside)


def _loaded(file: Path, options: TextOptions) -> Cond:
    import numpy as np
    import torch

    dtype = getattr(torch, options.dtype) if options.dtype else torch.float32
    cast: Callable[[torch.Tensor], torch.Tensor] = lambda value: value.to(dtype) if value.is_floating_point() else value  # noqa: E731
    cond: Cond = {}
    with np.load(file) as arrays:
        lists = set(arrays["lists"].tolist()) if "lists" in arrays else set()
        for array in arrays.files:
            if array in (CAPTION, MAKER, "lists") or (MAKER not in arrays and array not in options.padding):
                continue
            value = cast(torch.from_numpy(np.asarray(arrays[array])))
            cond[array] = [value] if array in lists else value[None]
    return cond
