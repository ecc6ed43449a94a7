"""Stage 4: from folders and files to a DatasetPlan. Reads names, headers and captions; decodes no picture."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from library.config.run_config import DatasetConfig, DatasetPart, SubsetConfig
from library.util.records import UserError
from library.util.said import say

from . import files
from .buckets import BucketRules, whole_steps
from .captions import base_caption
from .folders import expanded, judge_empty
from .found import Found, listed, nearest_existing
from .images import face_of
from .metadata import Raw, raw_of_metadata, read_info, write_info
from .pairs import pair
from .plan import DatasetPlan, Item, ScannedSubset, ScanRules

READERS = 8
"""Threads that read headers; they mostly wait for the disk."""


def scan(data: DatasetConfig, rules: ScanRules) -> DatasetPlan:
    """Find every picture of a run. What is wrong is in ``plan.problems``; nothing is raised or printed."""
    found = Found()
    parts = expanded(data, found)
    setting = Setting(data, rules, random.Random(rules.seed) if data.kohya_order else None)
    bucket_rules = tuple(_bucket_rules(part, rules, found) for part in parts)
    for index, (part, made) in enumerate(zip(parts, bucket_rules, strict=True)):
        _scan_part(index, part, made, setting, found)
    _hold_out_as_kohya(parts, setting, found)
    _judge_whole(data, parts, found)
    items, partners = _paired(data, tuple(found.items), bucket_rules, found)
    return DatasetPlan(
        config=data, parts=parts, subsets=tuple(found.subsets), items=items, validation=tuple(found.validation),
        partners=partners, problems=tuple(found.problems), rules=bucket_rules,
        tag_frequency=tuple({name: dict(tags) for name, tags in of_part.items()} for of_part in found.tags),
        kohya_seed=setting.stream.randint(0, 2**31) if setting.stream is not None and setting.split else None)


def _paired(data: DatasetConfig, items: tuple[Item, ...], rules: tuple[BucketRules, ...],
            found: Found) -> tuple[tuple[Item, ...], dict[int, int]]:
    """The items with the matched pictures of ``--slider_pairing``; says what was matched by shape only."""
    if data.slider.pairing == "none":
        return items, {}
    made = pair(items, rules)
    by_shape = len(made.partners) - made.by_name
    if not made.partners:
        found.warn("--slider_pairing", "No data set has pictures of both signs, so there is nothing to pair.",
                   "Give a positive and a negative slider_strength in one [[datasets]].")
    elif by_shape:
        found.note("--slider_pairing", say("{by_name:pair shares|pairs share} a name; {by_shape} put together by shape.",
                                         by_name=made.by_name, by_shape=by_shape),
                   "Give matching pictures the same name: they then share what is random, and the slider learns faster.")
    return made.items, made.partners


@dataclass(frozen=True)
class Setting:
    """What holds for the whole scan."""

    data: DatasetConfig
    rules: ScanRules
    stream: random.Random | None
    """kohya's generator, which unseeded validation splits draw from; None in our own order."""
    split: list[tuple[DatasetPart, list[Item]]] = field(default_factory=list)
    """kohya's order only: subsets whose held-out pictures are yet to be drawn."""

    @property
    def upright(self) -> bool:
        """kohya ignores EXIF; a comparison with it must do so too."""
        return not self.data.kohya_order


def _bucket_rules(part: DatasetPart, rules: ScanRules, found: Found) -> BucketRules:
    made = BucketRules(part.resolution, part.min_bucket_reso, part.max_bucket_reso, part.bucket_reso_steps,
                       part.bucket_no_upscale, part.enable_bucket)
    if not part.enable_bucket:
        return made
    if part.bucket_reso_steps % rules.bucket_step:
        found.stop("--bucket_reso_steps", say("{bucket_reso_steps} does not suit this model.",
                                              bucket_reso_steps=part.bucket_reso_steps),
                   say("Give a multiple of {bucket_step}.", bucket_step=rules.bucket_step))
    if part.bucket_no_upscale:
        return made
    adjusted, problems = whole_steps(made)
    found.problems += problems
    return adjusted


# --------------------------------------------------------------------------------------------------- parts and subsets


def _scan_part(index: int, part: DatasetPart, rules: BucketRules, setting: Setting, found: Found) -> None:
    training: list[Item] = []
    regular: list[Item] = []
    found.tags.append({})
    if not 0 <= part.validation_split <= 1:
        found.stop("--validation_split", say("{validation_split} is no share of the pictures.",
                                             validation_split=part.validation_split), "Give a number from 0 to 1.")
        part = replace(part, validation_split=0.0)
    for number, subset in enumerate(part.subsets):
        raw, headers = _read_subset(subset, setting, found)
        made = [_item(one, header, (index, number), Rest(subset, rules, setting, found))
                for one, header in zip(raw, headers, strict=True)]
        items, kept = [item for item in made if item is not None], raw
        if part.validation_split > 0 and not subset.is_reg:
            items, held_out = _split(items, part, setting)
            found.validation += held_out
            names = {item.path for item in items}
            kept = [one for one in raw if one.path in names]
        found.subsets.append(ScannedSubset(subset, index, len(items), sum(item.has_caption for item in items)))
        _count_tags(subset, kept, found.tags[index])
        (regular if subset.is_reg else training).extend(items)
    found.items += training + balanced(regular, sum(item.repeats for item in training))


def _read_subset(subset: SubsetConfig, setting: Setting, found: Found) -> tuple[list[Raw], list[files.Header]]:
    """The subset's pictures with captions, and their headers."""
    if subset.metadata_file is not None:
        raw = raw_of_metadata(subset, found)
        return raw, _headers(raw, {}, setting)
    folder = subset.image_dir
    if folder is None or not folder.is_dir():
        found.stop(folder, "There is no such folder.", nearest_existing(folder) if folder else "Give image_dir.")
        return [], []
    info = read_info(folder) if subset.cache_info else {}
    raw = _raw_of_folder(folder, subset, info, found)
    if subset.conditioning_data_dir is not None:
        raw = _with_masks(raw, subset.conditioning_data_dir, setting.data.folder_mode, found)
    headers = _headers(raw, info, setting)
    if subset.cache_info and any(one.path.name not in info for one in raw):
        write_info(folder, raw, _headers(raw, {}, replace(setting, data=replace(setting.data, kohya_order=True))))
    return raw, headers


def _headers(raw: list[Raw], info: Mapping[str, Mapping[str, Any]], setting: Setting) -> list[files.Header]:
    """Sizes: from the notes of an earlier run where they tell the orientation too, else from the files."""
    def one(picture: Raw) -> files.Header:
        noted = info.get(picture.path.name, {})
        if "resolution" not in noted or (setting.upright and "orientation" not in noted):
            return files.read_header(picture.path, setting.upright)
        width, height = noted["resolution"]
        orientation = noted.get("orientation", 1)
        return files.Header((height, width) if setting.upright and orientation >= 5 else (width, height), "", orientation)

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(one, raw))


# ------------------------------------------------------------------------------------------------------------ captions


def _raw_of_folder(folder: Path, subset: SubsetConfig, info: Mapping[str, Mapping[str, Any]], found: Found) -> list[Raw]:
    images = files.pictures(folder)
    if not images:
        judge_empty(folder, found)
        return []
    doubles = [stem for stem, count in Counter(path.stem for path in images).items() if count > 1]
    if doubles:
        found.warn(folder, say("Several pictures share a name and so a caption and a cache: {listed}.",
                               listed=listed(doubles)),
                   "Rename them, or remove the copies.")
    names = files.names_in(folder)
    read = partial(_with_caption, subset=subset, names=names, found=found)
    raw = [_noted(path, info[path.name]) if path.name in info else read(path) for path in images]
    return _judged(folder, subset, raw, names, found)


def _noted(path: Path, entry: Mapping[str, Any]) -> Raw:
    return Raw(path, entry.get("caption") or "", bool(entry.get("caption")))


def _with_caption(path: Path, subset: SubsetConfig, names: frozenset[str], found: Found) -> Raw:
    file = files.caption_file(path, subset.caption_extension, names)
    if file is None:
        return Raw(path, subset.class_tokens or "", False)
    text = files.read_caption(file)
    if text.encoding != "utf-8-sig":
        found.note(file, say("This caption is not UTF-8; it was read as {encoding}.", encoding=text.encoding), "Save it as UTF-8.")
    lines = [line for line in text.lines if line] if subset.enable_wildcard else text.lines[:1]
    if not any(lines) and any(text.lines):
        found.warn(file, "The first line of this caption is empty, and only the first line counts.", "Remove the empty line.")
    return Raw(path, base_caption(lines, subset), True)


def _judged(folder: Path, subset: SubsetConfig, raw: list[Raw], names: frozenset[str], found: Found) -> list[Raw]:
    """Say what is odd about a folder's captions."""
    empty = [one.path.name for one in raw if one.has_caption and not one.caption]
    if empty:
        found.note(folder, say("{count:caption is|captions are} empty: {listed}; without text the picture itself is trained.",
                               count=len(empty), listed=listed(empty)),
                   "Write their tags, or delete the caption files.")
    without = [one.path for one in raw if not one.has_caption]
    if not without or subset.is_reg:
        return raw
    instead = say("they train without text")
    if subset.class_tokens:
        instead = say('the folder\'s words "{words}" are used', words=subset.class_tokens)
    other = _other_ending(without, subset, names)
    missing = say("{count} of {images:picture has|pictures have} no {ending} caption",
                  count=len(without), images=len(raw), ending=subset.caption_extension)
    if other is not None:
        found.warn(folder, say("{missing}, but {other} files are there; {instead}.",
                               missing=missing, other=other, instead=instead),
                   say("Add --caption_extension={other}.", other=other))
    else:
        found.warn(folder, say("{missing} ({listed}); {instead}.",
                               missing=missing, listed=listed((path.name for path in without), 3), instead=instead),
                   "Write a text file of the same name beside each picture.")
    return raw


def _other_ending(without: list[Path], subset: SubsetConfig, names: frozenset[str]) -> str | None:
    endings = [ending for ending in (".txt", ".caption") if ending != subset.caption_extension]
    return next((ending for ending in endings if any(files.caption_file(path, ending, names) for path in without)), None)


def _with_masks(raw: list[Raw], folder: Path, shared: bool, found: Found) -> list[Raw]:
    """The mask of each picture, by name; ``shared``: several folders of pictures have their masks in it."""
    if not folder.is_dir():
        found.stop(folder, "There is no such folder of masks.", nearest_existing(folder))
        return raw
    masks = {path.stem: path for path in reversed(files.pictures(folder))}
    missing = [one.path.name for one in raw if one.path.stem not in masks]
    if missing:
        found.stop(folder, say("There is no mask for {count:picture|pictures}: {listed}.",
                               count=len(missing), listed=listed(missing)),
                   "Each picture needs a mask of the same name there.")
    extra = sorted(set(masks) - {one.path.stem for one in raw})
    if extra and not shared:
        found.warn(folder, say("{count:mask belongs|masks belong} to no picture: {listed}.",
                               count=len(extra), listed=listed(extra)),
                   "Check the names.")
    return [replace(one, mask_file=masks.get(one.path.stem)) for one in raw]


# --------------------------------------------------------------------------------------------------------------- items


@dataclass(frozen=True)
class Rest:
    """What an item needs beside its picture."""

    subset: SubsetConfig
    rules: BucketRules
    setting: Setting
    found: Found


def _item(raw: Raw, header: files.Header, place: tuple[int, int], rest: Rest) -> Item | None:
    subset, path, found = rest.subset, raw.path, rest.found
    if header.size is None:
        found.stop(path, say("This file {fault}.", fault=header.fault), "Save it again with a picture program, or remove it.")
        return None
    if not _fits(path, header.size, rest) or not _mask_fits(raw, header.size, rest):
        return None
    try:
        placement = rest.rules.place(header.size)
    except UserError as error:
        found.problems += [replace(problem, where=str(path)) for problem in error.problems]
        return None
    return Item(path=path, size=header.size, caption=raw.caption, part=place[0], subset=place[1], repeats=subset.num_repeats,
                is_reg=subset.is_reg, placement=placement, strength=subset.slider_strength,
                latents_file=cache_file(path, header.size, rest.setting.rules.cache_suffix), mask_file=raw.mask_file,
                has_caption=raw.has_caption)


def _fits(path: Path, size: tuple[int, int], rest: Rest) -> bool:
    """Without buckets a picture must have the training size already, unless it is cut at random or around a face."""
    if rest.rules.enabled or rest.setting.rules.latents_cached:
        return True
    width, height = rest.rules.resolution
    crops = rest.subset.random_crop or (rest.subset.face_crop_aug_range is not None and face_of(path) is not None)
    if size == rest.rules.resolution or (crops and size[0] >= width and size[1] >= height):
        return True
    if size[0] > width or size[1] > height:
        rest.found.stop(path, say("Image too large ({size[0]}x{size[1]}), but cropping and bucketing are disabled.",
                                  size=size),
                        say("Add --enable_bucket (pictures of any size), or scale it to {width}x{height}.",
                            width=width, height=height))
    else:
        rest.found.stop(path, say("The picture ({size[0]}x{size[1]}) is smaller than --resolution {width},{height}.",
                                  size=size, width=width, height=height),
                        "Add --enable_bucket (pictures of any size), or lower --resolution.")
    return False


def _mask_fits(raw: Raw, size: tuple[int, int], rest: Rest) -> bool:
    """A mask must have its picture's size."""
    if raw.mask_file is None:
        return True
    mask = files.read_header(raw.mask_file, rest.setting.upright)
    if mask.size == size:
        return True
    seen = mask.fault if mask.size is None else say("is {mask[0]}x{mask[1]}, its picture {size[0]}x{size[1]}",
                                                    mask=mask.size, size=size)
    rest.found.stop(raw.mask_file, say("This mask {seen}.", seen=seen), "A mask must have the size of its picture.")
    return False


def cache_file(path: Path, size: tuple[int, int], suffix: str) -> Path:
    """``img01_0512x0768_sd.npz`` beside the picture; an ``img01.npz`` from older programs is used where there is one."""
    old = path.with_suffix(".npz")
    if suffix in ("_sd", "_sdxl") and old.is_file():
        return old
    return path.with_name(f"{path.stem}_{size[0]:04d}x{size[1]:04d}{suffix}.npz")


def balanced(regular: list[Item], wanted: int) -> list[Item]:
    """Regularisation pictures as often as training pictures: further repeats in turn; surplus ones are left out (kohya)."""
    counts: list[Item] = []
    total = 0
    for item in regular:
        if total >= wanted:
            break
        counts.append(item)
        total += item.repeats
    index = 0
    while counts and total < wanted:
        counts[index] = replace(counts[index], repeats=counts[index].repeats + 1)
        total, index = total + 1, (index + 1) % len(counts)
    return counts


def _split(items: list[Item], part: DatasetPart, setting: Setting) -> tuple[list[Item], list[Item]]:
    """(training, validation): shuffled, then the last share is held out, each picture once.

    Our own order draws one shuffle for both. kohya shuffles for each anew where no ``validation_seed`` is given, so that a
    picture may be in both; its second shuffle comes after all first ones (``_hold_out_as_kohya``).
    """
    order = list(items)
    if part.validation_seed is not None or setting.stream is None:
        seed = part.validation_seed if part.validation_seed is not None else setting.rules.seed
        random.Random(seed).shuffle(order)
    else:
        setting.split.append((part, list(items)))
        setting.stream.shuffle(order)
        return order[:math.ceil(len(order) * (1 - part.validation_split))], []
    kept = math.ceil(len(order) * (1 - part.validation_split))
    held_out = max(kept, len(order) - round(len(order) * part.validation_split))
    return order[:kept], [replace(item, repeats=1) for item in order[held_out:]]


def _hold_out_as_kohya(parts: tuple[DatasetPart, ...], setting: Setting, found: Found) -> None:
    assert setting.stream is not None or not setting.split
    for part, items in setting.split:
        setting.stream.shuffle(items)
        count = round(len(items) * part.validation_split)
        found.validation += [replace(item, repeats=1) for item in items[len(items) - count:]]


def _count_tags(subset: SubsetConfig, raw: list[Raw], counts: dict[str, Counter[str]]) -> None:
    """Tags of a folder by how many captions have them, as kohya counts: cut at commas, lower case."""
    path = subset.metadata_file or subset.image_dir
    if path is None or not raw:
        return
    tags = counts.setdefault(path.name, Counter())
    for one in raw:
        text = one.caption if one.tags is None else one.tags
        tags.update(tag for piece in text.split(",") if (tag := piece.strip().lower()))


def _judge_whole(data: DatasetConfig, parts: tuple[DatasetPart, ...], found: Found) -> None:
    training = [item for item in found.items if not item.is_reg]
    stopped = any(problem.severity == "stop" for problem in found.problems)
    if parts and not training and not stopped:
        where = "--dataset_config" if data.dataset_config else "--train_data_dir"
        found.stop(where, "There is no picture to train on.", "Put pictures into the folders that are named above.")
    if data.reg_data_dir is not None and training and not any(item.is_reg for item in found.items):
        found.warn("--reg_data_dir", say('There are no regularisation pictures in "{reg_data_dir}".',
                                         reg_data_dir=data.reg_data_dir),
                   "Put them into a sub-folder such as 1_girl, or leave the flag out.")
    if data.kohya_order and any(item.strength is not None for item in found.items):
        found.stop("--kohya_order", "It would mix slider strengths in one batch, as kohya's order knows no strengths.",
                   "Leave it out for sliders.")
    weighted = any(subset.probability != 1 for part in parts for subset in part.subsets)
    if weighted and not any(item.strength is not None for item in found.items):
        found.warn("probability", "It is a weight among slider sets of one sign, and no set has a slider_strength.",
                   "Use num_repeats to see pictures of a set more often.")
