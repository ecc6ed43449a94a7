"""From ``--train_data_dir`` and ``--reg_data_dir`` to subsets: folders named ``10_name``, and why there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from library.config.run_config import DatasetConfig, DatasetPart, SubsetConfig
from library.util.said import say

from . import files
from .found import Found, listed, nearest_existing

KINDS = "(.png, .jpg, .jpeg, .webp, .bmp)"


def expanded(data: DatasetConfig, found: Found) -> tuple[DatasetPart, ...]:
    """Folder mode: the ``N_name`` folders become subsets of the one part; otherwise the parts as configured."""
    if not data.folder_mode or not data.parts or data.parts[0].subsets:
        return tuple(_without_doubles(part, found) for part in data.parts)
    template = data.template or SubsetConfig(image_dir=None)
    subsets: list[SubsetConfig] = []
    for folder, flag, is_reg in ((data.train_data_dir, "--train_data_dir", False), (data.reg_data_dir, "--reg_data_dir", True)):
        if folder is not None:
            subsets += _numbered(folder, flag, replace(template, is_reg=is_reg), data.kohya_order, found)
        elif not is_reg:
            found.stop("--train_data_dir", "No training pictures are given.",
                       "Give --train_data_dir (the folder that holds folders named 10_name), or --dataset_config.")
    return (_without_doubles(replace(data.parts[0], subsets=tuple(_with_strengths(subsets, found))), found),)


def _with_strengths(subsets: list[SubsetConfig], found: Found) -> list[SubsetConfig]:
    """Announce strengths in folder names; a folder without one beside them is neutral."""
    given = [subset for subset in subsets if subset.slider_strength is not None]
    if not given:
        return subsets
    names = listed(f"{subset.image_dir.name} ({subset.slider_strength:+g})" for subset in given if subset.image_dir)
    found.note("--train_data_dir", say("Slider strengths are in the folders' names: {names}.", names=names),
               "Rename a folder if its s+... or s-... was not meant so.")
    return [replace(subset, slider_strength=0.0) if subset.slider_strength is None and not subset.is_reg else subset
            for subset in subsets]


def _without_doubles(part: DatasetPart, found: Found) -> DatasetPart:
    kept: dict[Any, SubsetConfig] = {}
    for subset in part.subsets:
        key = (subset.image_dir, subset.metadata_file)
        if key in kept:
            found.warn(subset.metadata_file or subset.image_dir, "It is given twice in one data set; the second is ignored.",
                       "Raise num_repeats instead.")
        kept.setdefault(key, subset)
    return replace(part, subsets=tuple(kept.values()))


def _numbered(folder: Path, flag: str, template: SubsetConfig, keep_order: bool, found: Found) -> list[SubsetConfig]:
    if not folder.is_dir():
        what = '"{folder}" is a file.' if folder.exists() else '"{folder}" is not there.'
        found.stop(flag, say(what, folder=folder), nearest_existing(folder))
        return []
    numbered, others = files.numbered_folders(folder, keep_order)
    used = [one for one in numbered if one.repeats >= 1]
    unused = [one for one in numbered if one.repeats < 1]
    if unused:
        found.warn(flag, say("Folders with fewer than one repeat are left out: {listed}.",
                             listed=listed(one.path.name for one in unused)),
                   "Give them a number from 1 if they shall be used.")
    if not used:
        _judge_folder(folder, flag, others, found)
        return []
    _judge_leftovers(folder, flag, others, found)
    return [replace(template, image_dir=one.path, num_repeats=one.repeats, class_tokens=one.class_tokens,
                    slider_strength=one.strength) for one in used]


def _judge_leftovers(folder: Path, flag: str, others: list[Path], found: Found) -> None:
    """Pictures beside the numbered folders that nobody will see."""
    with_pictures = [path for path in others if files.pictures(path)]
    if with_pictures:
        name = with_pictures[0].name
        found.warn(flag, say("Folders without a number are left out: {listed}.",
                             listed=listed(path.name for path in with_pictures)),
                   say('Rename "{name}" to "1_{name}" (the number is how often each picture is repeated).', name=name))
    loose = files.pictures(folder)
    if loose:
        found.warn(flag, say('{count:picture lies|pictures lie} directly in "{folder}" and left out.',
                             count=len(loose), folder=folder),
                   "Put them into one of the numbered folders, or remove them.")


def _judge_folder(folder: Path, flag: str, others: list[Path], found: Found) -> None:
    """Say why a folder gave no subset: one level too deep, without numbers, too high, or empty."""
    if files.pictures(folder):
        if folder.name.partition("_")[0].isdecimal():
            found.stop(flag, say('"{folder}" is one level too deep: the pictures lie directly in it.', folder=folder),
                       say('Give the folder above it: {flag}="{parent}".', flag=flag, parent=folder.parent))
        else:
            found.stop(flag, say('The pictures lie directly in "{folder}", not in a folder with a number of repeats.',
                                 folder=folder),
                       say('Put them into "{inside}" (the number is how often each is repeated) and keep {flag}="{folder}".',
                           inside=folder / f"10_{folder.name}", flag=flag, folder=folder))
        return
    with_pictures = [path for path in others if files.pictures(path)]
    if with_pictures:
        name = with_pictures[0].name
        names = listed(path.name for path in with_pictures)
        found.stop(flag, say('No folder in "{folder}" has a number of repeats in front: {names}.', folder=folder, names=names),
                   say('Rename "{name}" to "1_{name}" (the number is how often each picture is repeated).', name=name))
        return
    deeper = _numbered_below(others)
    if deeper is not None:
        found.stop(flag, say('"{folder}" is too high: the numbered folders are in "{name}".',
                             folder=folder, name=deeper.relative_to(folder)),
                   say('Give {flag}="{deeper}".', flag=flag, deeper=deeper))
    else:
        found.stop(flag, say('There are no pictures in "{folder}".', folder=folder),
                   say('Pictures {kinds} belong into folders such as "{example}".', kinds=KINDS, example=folder / "10_name"))


def _numbered_below(folders: list[Path], levels: int = 3, most: int = 300) -> Path | None:
    """The first folder, the highest ones first, that holds numbered folders with pictures; at most ``most`` are opened."""
    for _ in range(levels):
        below: list[Path] = []
        for folder in folders[:most]:
            try:
                numbered, others = files.numbered_folders(folder)
                if any(one.repeats >= 1 and files.pictures(one.path) for one in numbered):
                    return folder
            except OSError:
                continue
            below += others
        folders, most = below, most - len(folders)
    return None


def judge_empty(folder: Path, found: Found) -> None:
    """Say why a subset's folder gave no picture: other kinds of files, or pictures one level deeper."""
    children = list(folder.iterdir())
    deeper = [path.name for path in children if path.is_dir() and files.pictures(path)]
    others = sorted({path.suffix.lower() for path in children if path.suffix.lower() in files.UNREAD_IMAGES})
    if deeper:
        found.warn(folder, say("There are no pictures in this folder itself, only in folders inside it: {listed}.",
                               listed=listed(deeper)),
                   "Pictures must lie directly in it: move them up.")
    elif others:
        found.warn(folder, say("There are no pictures in this folder that can be read, but files of kind {others}.",
                               others=others),
                   say("Save them as one of {kinds}.", kinds=KINDS))
    else:
        found.warn(folder, "There are no pictures in this folder.",
                   say("Put pictures {kinds} directly into it, or remove it.", kinds=KINDS))
