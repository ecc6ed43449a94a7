"""Latents, encoded once: in memory, or on disk in kohya's own form beside the pictures.

A file holds ``latents`` (float32 CHW as the VAE gave them; ``cache_raw`` families before normalisation), ``original_size``
(width, height), ``crop_ltrb``, ``latents_flipped`` where pictures are mirrored, ``alpha_mask`` (float32 HxW) where
transparency masks the loss; ours also ``maker``, a fingerprint of the VAE. Families other than SD keep several sizes in one
file, each name with ``_<h>x<w>`` of the latents; so do SD's where one picture is trained at several sizes, the size written
last under plain names. Files of either program are read by the other.
"""

from __future__ import annotations

import logging
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.util.records import EncodeImage, Problem, UserError
from library.util.said import say

from . import images
from .picture import Prepared, Reading, prepare
from .plan import DatasetPlan, Item

if TYPE_CHECKING:
    import numpy as np
    import torch

log = logging.getLogger(__name__)
NEWER = 2.0
"""Seconds by which a picture must be newer than its cache to make the cache stale (file systems round times)."""
MAKER = "maker"
"""Name of the array that says which model made a file."""
WAITS = (0.05, 0.2, 0.5)
"""Seconds that a file which another program holds is waited for, between tries."""
JUST_MADE = 60.0
"""Seconds by which the file of a run that makes the same files at the same time may be older."""
ARRAYS = ("latents", "original_size", "crop_ltrb", "latents_flipped", "alpha_mask", MAKER)
"""What belongs to one size of a picture."""
BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
"""What numpy raises on files that are no (whole) npz."""


@dataclass(frozen=True)
class LatentOptions:
    """How latents are cached."""

    to_disk: bool = False
    batch_size: int = 1
    maker: str = ""
    """Fingerprint of the VAE; files that name another are made again, files that name none (kohya's) are taken."""
    skip_check: bool = False
    """Take every file that is there as it is."""
    factor: int = 8
    """Pixels of a side to one latent."""
    sizes_in_names: bool = False
    """Array names carry the latents' size (families after SDXL)."""
    to_file: Callable[[torch.Tensor], torch.Tensor] | None = None
    """Normalised latents -> what files hold; None where files hold normalised ones."""
    from_file: Callable[[torch.Tensor], torch.Tensor] | None = None
    reading: Reading = field(default_factory=Reading)
    rank: int = 0
    processes: int = 1
    """On disk each process makes its share of the files; in memory each makes all."""


@dataclass(frozen=True)
class CachedLatents:
    """Latents of one picture, normalised, and what belongs to them."""

    latents: torch.Tensor
    """float32 CHW."""
    original: tuple[int, int]
    """(width, height)."""
    ltrb: tuple[float, float, float, float]
    flipped: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    """float32 1xHxW in 0..1 at the pixels' size."""


Key = tuple[Path, tuple[int, int], int, int]


@dataclass
class LatentCache:
    """Gives the latents of every item of a plan; picklable."""

    options: LatentOptions
    memory: dict[Key, CachedLatents] = field(default_factory=dict)

    @property
    def on_disk(self) -> bool:
        return self.options.to_disk

    def __call__(self, item: Item) -> CachedLatents:
        """Latents of an item; raises UserError where its file has gone or is broken since the start."""
        key = key_of(item)
        if key in self.memory:
            return self.memory[key]
        assert item.latents_file is not None
        try:
            return _loaded(item, self.options)
        except BROKEN as error:
            raise UserError(Problem(str(item.latents_file), say("The cached latents cannot be read: {error}.", error=error),
                                    "Start again; the file will be made anew.")) from error


def key_of(item: Item) -> Key:
    return item.path, item.placement.bucket, item.part, item.subset


def cache_latents(plan: DatasetPlan, encode: EncodeImage, options: LatentOptions) -> LatentCache:
    """Encode every picture that has no valid cache yet, in kohya's order: by bucket area, ``batch_size`` at a time.

    ``encode``: pixels BCHW in [-1, 1] -> normalised latents; called once more for mirrored pictures. Held-out pictures
    follow the others. Raises UserError for broken pictures and for latents that are not numbers.
    """
    cache = LatentCache(options)
    files = Files.of(plan, options) if options.to_disk else Files()
    for items in (plan.items, plan.validation):
        for part in range(len(plan.parts)):
            mine = [item for item in items if item.part == part]
            mine.sort(key=lambda item: item.placement.bucket[0] * item.placement.bucket[1])
            for batch in _batches(plan, _missing(plan, mine, options, files), options.batch_size):
                _encode(plan, batch, encode, cache)
    return cache


@dataclass(frozen=True)
class Files:
    """The cache files of a plan."""

    own: frozenset[Path] = frozenset()
    """Those that this process makes."""
    shared: frozenset[Path] = frozenset()
    """Those of pictures that are trained more than once: in several subsets, at several sizes."""

    @classmethod
    def of(cls, plan: DatasetPlan, options: LatentOptions) -> Files:
        """Raises UserError for two pictures with one file: they would train as one."""
        owners: dict[Path, Path] = {}
        shared = set()
        for item in (*plan.items, *plan.validation):
            assert item.latents_file is not None
            if item.latents_file in owners:
                shared.add(item.latents_file)
            owner = owners.setdefault(item.latents_file, item.path)
            if owner != item.path:
                raise UserError(Problem(str(item.path), say("It shares its cache file {name} with {other}.",
                                                            name=item.latents_file.name, other=owner.name),
                                        "Rename one of the two pictures."))
        return cls(frozenset(list(owners)[options.rank::options.processes]), frozenset(shared))


def _missing(plan: DatasetPlan, items: list[Item], options: LatentOptions, files: Files) -> Iterator[Item]:
    """The items that are to be encoded by this process; says how many files were stale."""
    stale: list[Path] = []
    for item in items:
        if not options.to_disk:
            yield item
            continue
        assert item.latents_file is not None
        taken = options.skip_check and item.latents_file not in files.shared and item.latents_file.is_file()
        if item.latents_file in files.own and not taken and not _is_valid(plan, item, options):
            if item.latents_file.is_file() and not _is_of_other_sizes(item, options):
                stale.append(item.path)
            yield item
    if stale:
        log.warning(say("{count:cached latent was|cached latents were} out of date or broken; made again ({names}).",
                        count=len(stale), names=[path.name for path in stale[:3]]))


def _size(item: Item, options: LatentOptions) -> tuple[int, int]:
    """(height, width) of the latents."""
    width, height = (side // options.factor for side in item.placement.bucket)
    return height, width


def _suffix(item: Item, options: LatentOptions, arrays: Mapping[str, Any]) -> str:
    """What stands behind the names of an item's arrays in a file."""
    size = _size(item, options)
    plain = not options.sizes_in_names and "latents" in arrays
    return "" if plain and (arrays["latents"].shape[-2:] == size or "latents" + _sized(size) not in arrays) else _sized(size)


def _sized(size: tuple[int, ...]) -> str:
    return f"_{size[0]}x{size[1]}"


def _is_valid(plan: DatasetPlan, item: Item, options: LatentOptions) -> bool:
    """Tell whether a file has everything that this run needs of it, in this bucket's size, not older than its picture."""
    import numpy as np

    file = item.latents_file
    assert file is not None
    if not file.is_file() or _is_outdated(item):
        return False
    subset = plan.parts[item.part].subsets[item.subset]
    wanted = ["latents", "original_size", "crop_ltrb"] + ["latents_flipped"] * subset.flip_aug
    try:
        with np.load(file) as arrays:
            suffix, size = _suffix(item, options, arrays), _size(item, options)
            if any(name + suffix not in arrays for name in wanted) or made_by_another(arrays, MAKER + suffix, options.maker):
                return False
            shapes = [arrays[name + suffix].shape[-2:] for name in wanted if name.startswith("latents")]
            if not has_mask(plan, item):
                return all(shape == size for shape in shapes)
            masked = "alpha_mask" + suffix in arrays and arrays["alpha_mask" + suffix].shape == item.placement.bucket[::-1]
            return masked and all(shape == size for shape in shapes)
    except BROKEN:
        return False


def _is_outdated(item: Item) -> bool:
    assert item.latents_file is not None
    return item.path.stat().st_mtime > item.latents_file.stat().st_mtime + NEWER


def _is_of_other_sizes(item: Item, options: LatentOptions) -> bool:
    """Tell whether a file is sound, but holds this picture at other sizes only."""
    kept = _kept(item)
    latents = kept.get("latents" + _suffix(item, options, kept))
    return bool(kept) and (latents is None or latents.shape[-2:] != _size(item, options))


def made_by_another(arrays: Mapping[str, Any], name: str, maker: str) -> bool:
    """Tell whether a file says that another model made it than ``maker``."""
    return name in arrays and str(arrays[name]) != maker


def has_mask(plan: DatasetPlan, item: Item) -> bool:
    """Tell whether a loss mask belongs to an item: a picture of its own, or its transparency where that was asked for."""
    return item.mask_file is not None or plan.parts[item.part].subsets[item.subset].alpha_mask


def _batches(plan: DatasetPlan, items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Neighbours of one bucket and one kind, up to ``size``; as in kohya a change of kind ends a batch."""
    batch: list[Item] = []
    kind: Any = None
    for item in items:
        subset = plan.parts[item.part].subsets[item.subset]
        own = (item.placement.bucket, subset.flip_aug, subset.alpha_mask)
        if batch and (own != kind or len(batch) >= size):
            yield batch
            batch = []
        batch.append(item)
        kind = own
    if batch:
        yield batch


def _encode(plan: DatasetPlan, batch: list[Item], encode: EncodeImage, cache: LatentCache) -> None:
    import torch

    options = cache.options
    prepared = [prepare(plan, item, options.reading, None) for item in batch]
    pixels = torch.stack([images.to_tensor(one.pixels) for one in prepared])
    flips = plan.parts[batch[0].part].subsets[batch[0].subset].flip_aug
    latents = _encoded(batch, encode, pixels)
    flipped = _encoded(batch, encode, pixels.flip(-1)) if flips else None
    for index, (item, one) in enumerate(zip(batch, prepared, strict=True)):
        made = CachedLatents(latents[index], one.original, one.ltrb, None if flipped is None else flipped[index], _mask_of(one))
        if options.to_disk:
            _store(item, made, options)
        else:
            cache.memory[key_of(item)] = made


def _encoded(batch: list[Item], encode: EncodeImage, pixels: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.no_grad():
        latents = encode(pixels).float().cpu()
    for item, one in zip(batch, latents, strict=True):
        if not torch.isfinite(one).all():
            raise UserError(Problem(str(item.path), "Its latents are not numbers (NaN or infinite).",
                                    "Usually the VAE overflows in half precision: add --no_half_vae. If it happens with that "
                                    "too, save the picture anew or remove it."))
    return latents


def _mask_of(one: Prepared) -> torch.Tensor | None:
    return None if one.mask is None else images.to_mask(one.mask)


# ------------------------------------------------------------------------------------------------------------------ files


def _store(item: Item, made: CachedLatents, options: LatentOptions) -> None:
    """Write one picture's file; what stands in it of other sizes, and a mirror image or mask of this one, is kept."""
    import numpy as np

    def array(latents: torch.Tensor) -> np.ndarray:
        return (latents if options.to_file is None else options.to_file(latents[None])[0]).float().numpy()

    assert item.latents_file is not None
    arrays, suffix = _kept(item), _sized(_size(item, options)) if options.sizes_in_names else ""
    if not options.sizes_in_names and "latents" in arrays:
        former = _sized(arrays["latents"].shape[-2:])
        arrays |= {name + former: arrays.pop(name) for name in ARRAYS if name in arrays}
        own = _sized(_size(item, options))
        arrays |= {name: arrays.pop(name + own) for name in ARRAYS if name + own in arrays}
    if made_by_another(arrays, MAKER + suffix, options.maker):
        arrays = {name: value for name, value in arrays.items() if name not in [one + suffix for one in ARRAYS]}
    arrays |= {"latents" + suffix: array(made.latents), "original_size" + suffix: np.array(made.original),
               "crop_ltrb" + suffix: np.array(made.ltrb, np.float64)}
    if options.maker:
        arrays[MAKER + suffix] = np.array(options.maker)
    if made.flipped is not None:
        arrays["latents_flipped" + suffix] = array(made.flipped)
    if made.mask is not None:
        arrays["alpha_mask" + suffix] = made.mask[0].numpy()
    write_npz(item.latents_file, arrays)


def _kept(item: Item) -> dict[str, np.ndarray]:
    """What a picture's file holds and is not older than the picture."""
    import numpy as np

    file = item.latents_file
    assert file is not None
    try:
        if _is_outdated(item):
            return {}
        with np.load(file) as arrays:
            return dict(arrays)
    except BROKEN:
        return {}


def write_npz(file: Path, arrays: dict[str, Any]) -> None:
    """Write an uncompressed npz under a temporary name and rename it, so that a half file is never found."""
    import numpy as np

    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            np.savez(stream, **arrays)
        _put(partial, file, arrays)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(Problem(str(file.parent), say("The cache {name} cannot be written: {error}.",
                                                      name=file.name, error=error),
                                "Caches lie beside the pictures: make the folder writable, free some space, or use "
                                "--cache_latents without _to_disk.")) from error


def _put(partial: Path, file: Path, arrays: dict[str, Any]) -> None:
    """Rename; where another run holds the file (Windows), take the file that it has just made, else wait until it lets go.

    Two runs over one folder make the same files at the same time; one of them reads a file while the other renames.
    """
    for seconds in WAITS:
        try:
            os.replace(partial, file)
            return
        except (PermissionError, FileExistsError):
            if not file.is_file():
                raise
            if partial.stat().st_mtime - file.stat().st_mtime < JUST_MADE and _same_kind(file, arrays):
                partial.unlink()
                return
            time.sleep(seconds)
    os.replace(partial, file)


def _same_kind(file: Path, arrays: dict[str, Any]) -> bool:
    """Tell whether a file holds everything that ``arrays`` hold: the same names, shapes, texts and sizes.

    Latents themselves are not compared: two draws of one VAE differ, and either is right.
    """
    import numpy as np

    def told(array: Any) -> Any:
        array = np.asarray(array)
        return (array.shape, None if array.ndim > 1 else array.tolist())

    try:
        with np.load(file) as other:
            return all(name in other and told(other[name]) == told(array) for name, array in arrays.items())
    except BROKEN:
        return False


def _loaded(item: Item, options: LatentOptions) -> CachedLatents:
    import numpy as np
    import torch

    def tensor(array: np.ndarray) -> torch.Tensor:
        latents = torch.from_numpy(array).float()
        return latents if options.from_file is None else options.from_file(latents[None])[0]

    assert item.latents_file is not None
    with np.load(item.latents_file) as arrays:
        suffix = _suffix(item, options, arrays)
        flipped, mask = "latents_flipped" + suffix, "alpha_mask" + suffix
        return CachedLatents(
            latents=tensor(arrays["latents" + suffix]),
            original=tuple(int(side) for side in arrays["original_size" + suffix]),
            ltrb=tuple(float(side) for side in arrays["crop_ltrb" + suffix]),
            flipped=tensor(arrays[flipped]) if flipped in arrays else None,
            mask=torch.from_numpy(arrays[mask]).float()[None] if mask in arrays else None)
