"""``--dataset_config`` (TOML or JSON), or the folder flags -> DatasetConfig, with every fall-back applied.

A value comes from the first of subset, data set, general table, flag, built-in default that has it; False, 0 and ""
count as given, as in kohya.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from library.config.data_reading import DataReading
from library.config.dataset_keys import DATASET, ELSEWHERE, GENERAL, KEYS, SUBSET, size, span
from library.config.near_key import misspelt
from library.config.run_config import DatasetPart, SubsetConfig
from library.config.toml_text import SettingsText, read_settings
from library.flags import Flags
from library.util.records import UserError
from library.util.said import say

SUBSET_FIELDS = {one.name: one for one in fields(SubsetConfig)}
PATH_FIELDS = ("image_dir", "metadata_file", "conditioning_data_dir")
SMALLEST_SIDE = 64
"""Pixels; below it no model here was made to draw."""
DATASET_FIELDS = (
    "batch_size",
    "resolution",
    "enable_bucket",
    "min_bucket_reso",
    "max_bucket_reso",
    "bucket_reso_steps",
    "bucket_no_upscale",
    "validation_split",
    "validation_seed",
)


def read_parts(path: Path, flags: Flags, reading: DataReading) -> tuple[DatasetPart, ...]:
    """All data sets of a --dataset_config file; problems and notes go to ``reading``."""
    if not path.is_file():
        reading.stop("--dataset_config", say("There is no file {path}.", path=path), _near_files(path))
        return ()
    try:
        text = read_settings(path)
    except UserError as error:
        reading.problems += error.problems
        return ()
    reading.notes += text.notes
    for key in text.data:
        if key not in ("general", "datasets"):
            near = difflib.get_close_matches(key, ("general", "datasets"), n=1)
            reading.stop(
                text.at(key),
                say("There is no table {key} in a data set file.", key=key),
                say("Did you mean {near}?", near=near[0])
                if near
                else "Settings stand under [general], [[datasets]] or [[datasets.subsets]]; "
                "flags of the training belong in --config_file.",
            )
    general = _read_table(text, ("general",), text.data.get("general", {}), GENERAL, reading)
    datasets = text.data.get("datasets", [])
    if isinstance(datasets, dict):
        reading.note(text.at("datasets"), "[[datasets.subsets]] without [[datasets]] above it is read as one data set.")
        datasets = [datasets]
    if not datasets:
        reading.stop(
            path.name,
            "There is no [[datasets]] in it.",
            "Add [[datasets]] and below it [[datasets.subsets]] with image_dir.",
        )
    found = [_read_dataset(text, index, table, (general, flags), reading) for index, table in enumerate(datasets)]
    parts = tuple(part for part in found if part is not None)
    return _strengths(parts, text.data)


def _near_files(path: Path) -> str:
    names = (
        [one.name for one in path.parent.iterdir() if one.suffix in (".toml", ".json")] if path.parent.is_dir() else []
    )
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return say("Near it there is {names}.", names=close)
    return say("Check the path; a relative one counts from the folder in which the command runs.")


def _read_table(
    text: SettingsText, keys: tuple[str | int, ...], values: Mapping[str, Any], level: str, reading: DataReading
) -> dict[str, Any]:
    """The values of one table by key, converted; unknown, misplaced and unreadable ones become problems."""
    if not isinstance(values, Mapping):
        reading.stop(
            text.at(*keys),
            say("{key} is not a table.", key=keys[-1]),
            say("Write {level} on a line of its own, and its settings below.", level=level),
        )
        return {}
    found: dict[str, Any] = {}
    for name, value in values.items():
        where = text.at(*keys, name)
        if name == "subsets" and level == DATASET:
            continue
        key = KEYS.get(name)
        if key is None:
            reading.stop(where, say("There is no setting {name} in {level}.", name=name, level=level), _unknown(name))
        elif level not in key.tables:
            reading.stop(where, say("{name} does not belong in {level}.", name=name, level=level),
                         say("Move it to {tables:or}.", tables=key.tables))
        elif value is None:
            continue
        else:
            try:
                found[name], understood = key.read(value)
            except ValueError as error:
                wanted = say(str(error))
                reading.stop(where, say("{name} = {value!r} is not {wanted}.", name=name, value=value, wanted=wanted),
                             say("Write {wanted}.", wanted=wanted))
                continue
            if understood:
                reading.note(where, say("{name}: {understood}.", name=name, understood=understood))
    return _with_one_strength(found, text.at(*keys), reading)


def _with_one_strength(found: dict[str, Any], where: str, reading: DataReading) -> dict[str, Any]:
    """A table's values with its strength under our name alone; two names that differ become a problem.

    So the nearest table decides, whichever of the names it uses.
    """
    multiplier = found.pop("network_multiplier", None)
    strength = found.get("slider_strength", multiplier)
    if multiplier is not None and strength != multiplier:
        reading.stop(
            where,
            say("slider_strength = {strength} and network_multiplier = {multiplier} are two names of one thing, and differ.",
                strength=f"{strength:g}", multiplier=f"{multiplier:g}"),
            "Keep one of the two.",
        )
    return found if strength is None else found | {"slider_strength": strength}


def _unknown(name: str) -> str:
    if name in ELSEWHERE:
        return say("Here it is called {name}.", name=ELSEWHERE[name])
    near = misspelt(name, KEYS) or next(iter(difflib.get_close_matches(name, KEYS, n=1, cutoff=0.75)), None)
    if near:
        return say("Did you mean {near}?", near=near)
    return say("Remove it; settings of the training belong in --config_file.")


def _read_dataset(
    text: SettingsText, index: int, table: Mapping[str, Any], above: tuple[dict[str, Any], Flags], reading: DataReading
) -> DatasetPart | None:
    general, flags = above
    keys = ("datasets", index)
    own = _read_table(text, keys, table, DATASET, reading)
    tables = table.get("subsets", []) if isinstance(table, Mapping) else []
    if not isinstance(tables, list) or not tables:
        reading.stop(
            text.at(*keys), "This data set has no subsets.", "Add [[datasets.subsets]] with image_dir below it."
        )
        return None
    subsets, modes = [], set()
    for number, subset in enumerate(tables):
        place = (*keys, "subsets", number)
        values = _read_table(text, place, subset, SUBSET, reading)
        modes.add(_mode(values))
        _required(text.at(*place), values, flags, reading)
        subsets.append(_subset(values, own, general, flags))
    if len(modes) > 1:
        reading.stop(
            text.at(*keys),
            say("Subsets of different kinds stand in one data set ({names}).", names=sorted(modes)),
            "Give each kind a [[datasets]] of its own.",
        )
    return part(flags, own, general, subsets=tuple(subsets), where=text.at(*keys), reading=reading)


def _mode(values: Mapping[str, Any]) -> str:
    if "conditioning_data_dir" in values:
        return "with conditioning_data_dir"
    return "with metadata_file" if "metadata_file" in values else "with image_dir alone"


def _required(where: str, values: Mapping[str, Any], flags: Flags, reading: DataReading) -> None:
    if "image_dir" not in values and "metadata_file" not in values:
        reading.stop(where, "This subset names no pictures.", "Add image_dir = 'folder'.")
    if "conditioning_data_dir" in values and not flags["masked_loss"]:
        reading.stop(
            where,
            "conditioning_data_dir holds loss masks, and --masked_loss is not on.",
            "Add --masked_loss, or remove the key.",
        )
    if values.get("num_repeats", 1) < 1:
        reading.stop(
            where,
            say("num_repeats = {repeats} leaves no pictures.", repeats=values["num_repeats"]),
            "Give 1 or more, or remove the subset.",
        )
    if values.get("probability", 1.0) < 0:
        reading.stop(where, say("The probability is {probability}, which is below 0.", probability=values["probability"]),
                     "Give 0 or more; 1 is usual.")


def fall_back(name: str, tables: tuple[Mapping[str, Any], ...], flags: Flags) -> Any:
    """The first value that is there: the tables in order, then the flag; None where nobody has one."""
    for one in tables:
        if one.get(name) is not None:
            return one[name]
    flag = KEYS[name].flag
    if flag is None:
        return None
    value = flags[flag or name]
    if name == "caption_extension" and flags["caption_extention"] is not None:
        return flags["caption_extention"]
    if isinstance(value, str) and name == "face_crop_aug_range":
        return span(value)[0]
    return value


def _subset(
    values: Mapping[str, Any], own: Mapping[str, Any], general: Mapping[str, Any], flags: Flags
) -> SubsetConfig:
    chosen = {name: fall_back(name, (values, own, general), flags) for name in KEYS if name in SUBSET_FIELDS}
    chosen |= {name: Path(chosen[name]) for name in PATH_FIELDS if chosen[name] is not None}
    if chosen["is_reg"]:  # at +1, unless its own table says otherwise
        chosen["slider_strength"] = values.get("slider_strength")
    chosen.setdefault("image_dir", None)
    return SubsetConfig(**{name: value for name, value in chosen.items() if value is not None or name == "image_dir"})


def template(flags: Flags) -> SubsetConfig:
    """What the flags say about every folder of --train_data_dir and --reg_data_dir."""
    masks = Path(flags["conditioning_data_dir"]) if flags["conditioning_data_dir"] and flags["masked_loss"] else None
    return replace(_subset({}, {}, {}, flags), conditioning_data_dir=masks)


def _strengths(parts: tuple[DatasetPart, ...], data: Mapping[str, Any]) -> tuple[DatasetPart, ...]:
    """A subset without a strength beside others that have one: +1 with kohya's network_multiplier, else neutral."""
    subsets = [subset for one in parts for subset in one.subsets]
    if all(subset.slider_strength is None for subset in subsets):
        return parts
    absent = 1.0 if _holds(data, "network_multiplier") and not _holds(data, "slider_strength") else 0.0
    return tuple(
        replace(
            one,
            subsets=tuple(
                replace(subset, slider_strength=absent)
                if subset.slider_strength is None and not subset.is_reg
                else subset
                for subset in one.subsets
            ),
        )
        for one in parts
    )


def _holds(table: Any, key: str) -> bool:
    if isinstance(table, Mapping):
        return key in table or any(_holds(value, key) for value in table.values())
    return isinstance(table, list) and any(_holds(value, key) for value in table)


def part(
    flags: Flags, *tables: Mapping[str, Any], subsets: tuple[SubsetConfig, ...], where: str, reading: DataReading
) -> DatasetPart:
    """One data set with its size and bucket rules, checked; limits that nobody chose make room for the resolution."""
    values = {name: fall_back(name, tables, flags) for name in DATASET_FIELDS}
    before = len(reading.problems)
    if values["resolution"] is None:
        reading.judged("resolution_missing", where)
        values["resolution"] = (512, 512)
    elif isinstance(values["resolution"], str):
        values["resolution"] = _flag_size(values["resolution"], reading)
    chosen = {
        name
        for name in ("min_bucket_reso", "max_bucket_reso")
        if flags.given(name) or any(name in one for one in tables)
    }
    if len(reading.problems) == before:  # of a size that is not known nothing more can be said
        _check_buckets(values, where, chosen, reading)
    values["validation_split"] = values["validation_split"] or 0.0
    return DatasetPart(subsets, **values)


def _flag_size(typed: str, reading: DataReading) -> tuple[int, int]:
    try:
        return size(int(typed) if typed.strip().isdigit() else typed)[0]
    except ValueError:
        reading.judged("resolution_form", "--resolution", value=typed)
        return 512, 512


def _check_buckets(values: dict[str, Any], where: str, chosen: set[str], reading: DataReading) -> None:
    """kohya's rules for bucket sizes; mends a shortest or longest side that is only the default."""
    width, height = values["resolution"]
    if min(width, height) < SMALLEST_SIDE:
        reading.judged("resolution_form.small", where, value=f"{width}x{height}")
    if values["batch_size"] < 1:
        reading.judged("batch_size", where, size=values["batch_size"])
    if not values["enable_bucket"] or values["bucket_no_upscale"]:
        return
    low, high = values["min_bucket_reso"], values["max_bucket_reso"]
    if values["bucket_reso_steps"] < 1:
        reading.judged("bucket_steps", where, steps=values["bucket_reso_steps"])
        return
    if low > min(width, height) and "min_bucket_reso" not in chosen:
        values["min_bucket_reso"] = low = min(width, height)
        reading.note(where, say("min_bucket_reso (not given) is set to {low} to hold the resolution {width}x{height}.",
                                low=low, width=width, height=height))
    if high < max(width, height) and "max_bucket_reso" not in chosen:
        values["max_bucket_reso"] = high = max(width, height)
        reading.note(where, say("max_bucket_reso (not given) is set to {high} to hold the resolution {width}x{height}.",
                                high=high, width=width, height=height))
    size = f"{width}x{height}"
    if low > min(width, height):
        reading.judged("bucket_range.low", where, size=size, low=low, need=min(width, height))
    if high < max(width, height):
        reading.judged("bucket_range.high", where, size=size, high=high, need=max(width, height))
    if low > high:
        reading.judged("bucket_range.crossed", where, low=low, high=high)
