"""Stage 4: from folders and files to a DatasetPlan. Reads names, headers and captions; decodes no picture."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from library.config.run_config import DatasetConfig, DatasetPart, SubsetConfig
from library.util.records import Problem, UserError

from . import captions, files
from .buckets import BucketRules, whole_steps
from .plan import DatasetPlan, Item, ScannedSubset, ScanRules


@dataclass
class Found:
    """What a scan gathers on its way."""

    problems: list[Problem] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    validation: list[Item] = field(default_factory=list)
    subsets: list[ScannedSubset] = field(default_factory=list)
    tags: dict[str, Counter[str]] = field(default_factory=dict)

    def stop(self, where: Any, what: str, remedy: str) -> None:
        self.problems.append(Problem(str(where), what, remedy, check="data"))

    def warn(self, where: Any, what: str, remedy: str) -> None:
        self.problems.append(Problem(str(where), what, remedy, "warn", check="data"))

    def note(self, where: Any, what: str, remedy: str = "") -> None:
        self.problems.append(Problem(str(where), what, remedy, "note", check="data"))


def scan(data: DatasetConfig, rules: ScanRules) -> DatasetPlan:
    """Find every picture of a run. What is wrong is in ``plan.problems``; nothing is raised or printed."""
    found = Found()
    parts = _expanded(data, found)
    bucket_rules = []
    for index, part in enumerate(parts):
        made = _bucket_rules(part, rules, found)
        bucket_rules.append(made)
        _scan_part(index, part, made, Setting(data, rules), found)
    _judge_whole(data, found)
    return DatasetPlan(config=data, parts=parts, subsets=tuple(found.subsets), items=tuple(found.items),
                       validation=tuple(found.validation), problems=tuple(found.problems), rules=tuple(bucket_rules),
                       tag_frequency={name: dict(tags) for name, tags in found.tags.items()})


@dataclass(frozen=True)
class Setting:
    """What holds for the whole scan."""

    data: DatasetConfig
    rules: ScanRules

    @property
    def upright(self) -> bool:
        """kohya ignores EXIF; a comparison with it must do so too."""
        return not self.data.kohya_order


# ----------------------------------------------------------------------------------------------- folders -> subsets


def _expanded(data: DatasetConfig, found: Found) -> tuple[DatasetPart, ...]:
    """Folder mode: the ``N_name`` folders become subsets of the one part; otherwise the parts as configured."""
    if not data.folder_mode or data.parts[0].subsets:
        return tuple(_without_doubles(part, found) for part in data.parts)
    template = data.template or SubsetConfig(image_dir=None)
    subsets = []
    for folder, flag, is_reg in ((data.train_data_dir, "--train_data_dir", False),
                                 (data.reg_data_dir, "--reg_data_dir", True)):
        if folder is not None:
            subsets += _numbered_subsets(folder, flag, replace(template, is_reg=is_reg), data, found)
        elif not is_reg:
            found.stop("--train_data_dir", "no training pictures are given.",
                       "Give --train_data_dir (the folder that holds folders named 10_name), or --dataset_config.")
    return (_without_doubles(replace(data.parts[0], subsets=tuple(subsets)), found),)


def _without_doubles(part: DatasetPart, found: Found) -> DatasetPart:
    kept: dict[Any, SubsetConfig] = {}
    for subset in part.subsets:
        key = (subset.image_dir, subset.metadata_file)
        if key in kept:
            found.warn(subset.image_dir or subset.metadata_file, "this folder is given twice; the second is ignored.",
                       "Raise num_repeats instead.")
        kept.setdefault(key, subset)
    return replace(part, subsets=tuple(kept.values()))


def _numbered_subsets(folder: Path, flag: str, template: SubsetConfig, data: DatasetConfig,
                      found: Found) -> list[SubsetConfig]:
    if not folder.is_dir():
        found.stop(flag, f'"{folder}" is {"a file" if folder.exists() else "not there"}.', _nearest_existing(folder))
        return []
    numbered, others = files.numbered_folders(folder, keep_order=data.kohya_order)
    used = [one for one in numbered if one.repeats >= 1]
    unused = [one for one in numbered if one.repeats < 1]
    if unused:
        found.warn(flag, f"folders with fewer than one repeat are left out: {_listed(one.path.name for one in unused)}.",
                   "Give them a number from 1 if they shall be used.")
    if not used:
        _judge_folder(folder, flag, others, found)
    elif with_pictures := [path for path in others if files.pictures(path)]:
        found.warn(flag, f"folders without a number are left out: {_listed(path.name for path in with_pictures)}.",
                   f'Rename "{with_pictures[0].name}" to "1_{with_pictures[0].name}" (the number is how often each '
                   "picture is repeated).")
    return [replace(template, image_dir=one.path, num_repeats=one.repeats, class_tokens=one.class_tokens or None)
            for one in used]


def _judge_folder(folder: Path, flag: str, others: list[Path], found: Found) -> None:
    """Say why a folder gave no subset: one level too deep, without numbers, too high, or empty."""
    if files.pictures(folder):
        if folder.name.partition("_")[0].isdigit():
            found.stop(flag, f'"{folder}" is one level too deep: the pictures lie directly in it.',
                       f'Give its parent: {flag}="{folder.parent}".')
        else:
            found.stop(flag, f'the pictures lie directly in "{folder}", not in a folder with a number of repeats.',
                       f'Put them into a sub-folder named like "10_{folder.name}" and keep {flag}="{folder}".')
        return
    with_pictures = [path for path in others if files.pictures(path)]
    if with_pictures:
        name = with_pictures[0].name
        found.stop(flag, f'no folder in "{folder}" has a number of repeats in front: '
                   f"{_listed(path.name for path in with_pictures)}.",
                   f'Rename "{name}" to "1_{name}" (the number is how often each picture is repeated).')
        return
    deeper = [path for path in others if any(one.repeats >= 1 for one in files.numbered_folders(path)[0])]
    if deeper:
        found.stop(flag, f'"{folder}" is one level too high.', f'Give {flag}="{deeper[0]}".')
    else:
        found.stop(flag, f'there are no pictures in "{folder}".',
                   f'Pictures belong into sub-folders such as "{folder / "10_name"}" (.png, .jpg, .webp, .bmp).')


def _nearest_existing(path: Path) -> str:
    """A remedy for a path that is not there: how much of it exists, and what is there instead."""
    existing = next((parent for parent in path.parents if parent.is_dir()), None)
    if existing is None:
        return "Check the path; paths are relative to the folder in which you started the program."
    inside = _listed(sorted(child.name for child in existing.iterdir() if child.is_dir())) or "no folders"
    return f'"{existing if str(existing) != "." else Path.cwd()}" exists; in it there are: {inside}.'


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


# ----------------------------------------------------------------------------------------------- subsets -> items


def _bucket_rules(part: DatasetPart, rules: ScanRules, found: Found) -> BucketRules:
    made = BucketRules(part.resolution, part.min_bucket_reso, part.max_bucket_reso, part.bucket_reso_steps,
                       part.bucket_no_upscale, part.enable_bucket)
    if not part.enable_bucket:
        return made
    if part.bucket_reso_steps % rules.bucket_step:
        found.stop("--bucket_reso_steps", f"{part.bucket_reso_steps} does not suit this model.",
                   f"Give a multiple of {rules.bucket_step}.")
    if part.bucket_no_upscale:
        return made
    adjusted, problems = whole_steps(made)
    found.problems += problems
    return adjusted


def _scan_part(index: int, part: DatasetPart, rules: BucketRules, setting: Setting, found: Found) -> None:
    training: list[Item] = []
    regular: list[Item] = []
    for number, subset in enumerate(part.subsets):
        raw = _raw_items(subset, setting, found)
        headers = _headers([one.path for one in raw], setting)
        items = [made for one, header in zip(raw, headers, strict=True)
                 if (made := _item(one, header, (index, number), rules, setting, found)) is not None]
        found.subsets.append(ScannedSubset(subset, index, len(items), sum(item.has_caption for item in items)))
        _count_tags(subset, items, found)
        if part.validation_split > 0 and not subset.is_reg:
            items, held_out = _split(items, part)
            found.validation += held_out
        (regular if subset.is_reg else training).extend(items)
    found.items += training + _balanced(regular, sum(item.repeats for item in training))


@dataclass(frozen=True)
class Raw:
    """A picture before its header was read."""

    path: Path
    lines: tuple[str, ...]
    has_caption: bool
    subset: SubsetConfig
    mask_file: Path | None = None


def _raw_items(subset: SubsetConfig, setting: Setting, found: Found) -> list[Raw]:
    if subset.metadata_file is not None:
        return _from_metadata(subset, found)
    folder = subset.image_dir
    if folder is None or not folder.is_dir():
        found.stop(folder, "there is no such folder.", _nearest_existing(folder) if folder else "Give image_dir.")
        return []
    images = files.pictures(folder)
    if not images:
        found.warn(folder, "there are no pictures in this folder" + _other_pictures(folder) + ".",
                   "Pictures must lie directly in it, as .png, .jpg, .jpeg, .webp or .bmp.")
    doubles = [stem for stem, count in Counter(path.stem for path in images).items() if count > 1]
    if doubles:
        found.warn(folder, f"several pictures share a name and so a caption: {_listed(doubles)}.",
                   "Rename them, or remove the copies.")
    raw = [_with_caption(path, subset, found) for path in images]
    _judge_captions(folder, subset, raw, found)
    if subset.conditioning_data_dir is not None:
        raw = _with_masks(raw, subset.conditioning_data_dir, found)
    return raw


def _other_pictures(folder: Path) -> str:
    others = sorted({path.suffix.lower() for path in folder.iterdir() if path.suffix.lower() in files.UNREAD_IMAGES})
    return f" (there are {', '.join(others)} files, which are not read)" if others else ""


def _with_caption(path: Path, subset: SubsetConfig, found: Found) -> Raw:
    for file in files.caption_files(path, subset.caption_extension):
        if file.is_file():
            text = files.read_caption(file)
            if text.encoding not in ("utf-8-sig", "utf-16"):
                found.note(file, f"this caption is not UTF-8; it was read as {text.encoding}.", "Save it as UTF-8.")
            return Raw(path, text.lines, True, subset)
    return Raw(path, (subset.class_tokens,) if subset.class_tokens else (), False, subset)


def _judge_captions(folder: Path, subset: SubsetConfig, raw: list[Raw], found: Found) -> None:
    without = [one.path for one in raw if not one.has_caption]
    empty = [one.path.name for one in raw if one.has_caption and not one.lines]
    if empty:
        found.warn(folder, f"{len(empty)} caption files are empty: {_listed(empty)}.", "Write their tags, or delete them.")
    if not without or subset.is_reg:
        return
    instead = f'the folder\'s name "{subset.class_tokens}" is used' if subset.class_tokens else "they train without text"
    other = next((ending for ending in (".txt", ".caption") if ending != subset.caption_extension
                  and any(path.with_suffix(ending).is_file() for path in without)), None)
    if other:
        found.warn(folder, f"{len(without)} of {len(raw)} pictures have no {subset.caption_extension} file, but {other} "
                   f"files are there; {instead}.", f"Give --caption_extension={other}.")
    else:
        found.warn(folder, f"{len(without)} of {len(raw)} pictures have no caption file ({subset.caption_extension}): "
                   f"{_listed(path.name for path in without)}; {instead}.",
                   "Write a text file of the same name beside each picture.")


def _with_masks(raw: list[Raw], folder: Path, found: Found) -> list[Raw]:
    masks = {path.stem: path for path in files.pictures(folder)} if folder.is_dir() else {}
    missing = [one.path.name for one in raw if one.path.stem not in masks]
    if missing:
        found.stop(folder, f"no mask for {_listed(missing)}.", "Each picture needs one of the same name there.")
    return [replace(one, mask_file=masks.get(one.path.stem)) for one in raw]


def _from_metadata(subset: SubsetConfig, found: Found) -> list[Raw]:
    """kohya's fine-tuning metadata: a JSON of picture -> {caption, tags}; keys are paths or stems in ``image_dir``."""
    file = subset.metadata_file
    if not file.is_file():
        found.stop(file, "there is no such metadata file.", _nearest_existing(file))
        return []
    try:
        table = json.loads(file.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        found.stop(file, f"this is no valid JSON ({error}).", "Write it anew with the tool that made it.")
        return []
    by_stem = {path.stem: path for path in files.pictures(subset.image_dir)} if subset.image_dir else {}
    raw, missing = [], []
    for key, entry in table.items():
        path = Path(key)
        path = path if path.is_file() else by_stem.get(path.stem if path.suffix.lower() in files.IMAGES else path.name)
        if path is None:
            missing.append(key)
            continue
        text = ", ".join(part for part in (entry.get("caption"), entry.get("tags")) if part)
        raw.append(Raw(path, tuple(text.splitlines()), bool(text), subset))
    if missing:
        found.warn(file, f"{len(missing)} pictures named there are not found: {_listed(missing)}.",
                   "Give the right image_dir, or write the file anew.")
    return raw


def _headers(paths: list[Path], setting: Setting) -> list[files.Header]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda path: files.read_header(path, setting.upright), paths))


def _item(raw: Raw, header: files.Header, place: tuple[int, int], rules: BucketRules, setting: Setting,
          found: Found) -> Item | None:
    subset, path = raw.subset, raw.path
    if header.size is None:
        found.stop(path, f"this file {header.fault}.", "Save it again with a picture program, or remove it.")
        return None
    if not rules.enabled and not _fits_without_buckets(raw, header.size, rules, found):
        return None
    try:
        placement = rules.place(header.size)
    except UserError as error:
        found.problems += [replace(problem, where=str(path)) for problem in error.problems]
        return None
    strength = subset.slider_strength
    return Item(path=path, size=header.size, caption=captions.base_caption(raw.lines, subset), part=place[0],
                subset=place[1], repeats=subset.num_repeats, is_reg=subset.is_reg, placement=placement,
                strength=strength, latents_file=cache_file(path, header.size, setting.rules.cache_suffix),
                mask_file=raw.mask_file, has_caption=raw.has_caption)


def _fits_without_buckets(raw: Raw, size: tuple[int, int], rules: BucketRules, found: Found) -> bool:
    from .images import face_of

    width, height = rules.resolution
    crops = raw.subset.random_crop or (raw.subset.face_crop_aug_range is not None and face_of(raw.path))
    if size == rules.resolution or (crops and size[0] >= width and size[1] >= height):
        return True
    if size[0] > width or size[1] > height:
        found.stop(raw.path, f"image too large ({size[0]}x{size[1]}), but cropping and bucketing are disabled.",
                   f"Add --enable_bucket (pictures of any size), or scale it to {width}x{height}.")
    else:
        found.stop(raw.path, f"the picture ({size[0]}x{size[1]}) is smaller than --resolution {width},{height}.",
                   "Add --enable_bucket (pictures of any size), or lower --resolution.")
    return False


def cache_file(path: Path, size: tuple[int, int], suffix: str) -> Path:
    """``img01_0512x0768_sd.npz`` beside the picture; an ``img01.npz`` from older programs is used where there is one."""
    old = path.with_suffix(".npz")
    return old if old.is_file() else path.with_name(f"{path.stem}_{size[0]:04d}x{size[1]:04d}{suffix}.npz")


def _balanced(regular: list[Item], wanted: int) -> list[Item]:
    """Regularisation pictures as often as training pictures: further repeats in turn; surplus ones are left out."""
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


def _split(items: list[Item], part: DatasetPart) -> tuple[list[Item], list[Item]]:
    """(training, validation): shuffled by ``validation_seed`` where given, the last share held out, once each."""
    order = list(items)
    if part.validation_seed is not None:
        random.Random(part.validation_seed).shuffle(order)
    kept = len(order) - round(len(order) * part.validation_split)
    return order[:kept], [replace(item, repeats=1) for item in order[kept:]]


def _count_tags(subset: SubsetConfig, items: list[Item], found: Found) -> None:
    """Tags of a folder by how many captions have them, as kohya counts: cut at commas, lower case."""
    path = subset.image_dir or subset.metadata_file
    tags = found.tags.setdefault(path.name, Counter())
    for item in items:
        tags.update(tag for piece in item.caption.split(",") if (tag := piece.strip().lower()))


def _judge_whole(data: DatasetConfig, found: Found) -> None:
    training = [item for item in found.items if not item.is_reg]
    stopped = any(problem.severity == "stop" for problem in found.problems)
    if not training and not stopped:
        where = "--dataset_config" if data.dataset_config else "--train_data_dir"
        found.stop(where, "there is no picture to train on.", "Put pictures into the folders that are named above.")
    if data.reg_data_dir is not None and training and not any(item.is_reg for item in found.items):
        found.warn("--reg_data_dir", f'there are no regularisation pictures in "{data.reg_data_dir}".',
                   "Put them into a sub-folder such as 1_girl, or leave the flag out.")
