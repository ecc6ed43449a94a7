"""The wizard: from pictures and a few answers to the settings of a run. Decides and writes; trains nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.gui_json import from_gui, is_gui_preset
from library.config.toml_file import toml_value
from library.config.toml_text import read_settings
from library.data import arithmetic, files
from library.families.interface import FamilySpec
from library.util.header import read_header
from library.util.said import say

from .wizard_questions import PURPOSES, QUESTIONS

NOT_FLAGS = ("purpose", "load_json", "save_json", "excluded_tags")
"""Questions that decide no flag of the training."""
MOST_READ = 300
"""Pictures whose sizes and captions are looked at."""


@dataclass(frozen=True)
class Usual:
    """Settings that go together at a batch size."""

    steps: int
    why: str
    rate: float
    unet: float | None
    text: float | None
    warmup: float


AT_ONE = Usual(3200, "the usual length at batch 1", 1e-4, None, None, 0.01)
ABOVE = Usual(500, "in the middle of the 250 to 1000 that are usual at batch 2 to 4", 5e-4, 5e-4, 1e-4, 0.05)


@dataclass(frozen=True)
class Pictures:
    """What was found in a picture folder."""

    folders: tuple[arithmetic.FolderCount, ...] = ()
    side: int = 0
    """Side in pixels of a square with as many pixels as the middle one of the pictures; 0 where none could be read."""
    captions: tuple[str, ...] = ()
    ending: str = ".txt"
    shared_first: bool = False
    """Whether all captions of each folder begin with the same tag."""
    name: str = "lora"


@dataclass(frozen=True)
class Facts:
    """What is known beside the answers."""

    pictures: Pictures = Pictures()
    spec: FamilySpec | None = None
    """The base model's family; None where it is not known yet."""
    half_repeats: bool = False
    """Whether this kind of model needs half as many repeats."""
    precision: str = "no"
    """``--mixed_precision`` that fits the machine."""


def look_at(folder: Path) -> Pictures:
    """Count, measure and read what lies in the numbered folders."""
    numbered = [one for one in files.numbered_folders(folder)[0] if one.repeats >= 1]
    held = [(one, found) for one in numbered if (found := files.pictures(one.path))]
    every = [picture for _, found in held for picture in found][:MOST_READ]
    sizes = [size for picture in every if (size := files.read_header(picture).size)]
    ending = max((".txt", ".caption"), key=lambda one: sum(files.caption_file(picture, one) is not None for picture in every))
    captions = {picture: _first_line(picture, ending) for picture in every}
    firsts = [{captions[picture].split(",")[0].strip() for picture in found if picture in captions} for _, found in held]
    names = [one.class_tokens for one, _ in held if one.class_tokens]
    return Pictures(
        tuple(arithmetic.FolderCount(len(found), one.repeats) for one, found in held),
        round(statistics.median((width * height) ** 0.5 for width, height in sizes)) if sizes else 0,
        tuple(text for text in captions.values() if text), ending,
        all(len(first) == 1 and first != {""} for first in firsts if first),
        "".join("_" if sign in '<>:"/\\|?* ' else sign for sign in (names[0] if names else folder.name)) or "lora")


def _first_line(picture: Path, ending: str) -> str:
    file = files.caption_file(picture, ending)
    return next(iter(files.read_caption(file).lines), "") if file else ""


# ---------------------------------------------------------------------------------------------------------- defaults


def usual(answers: Mapping[str, Any]) -> Usual:
    return AT_ONE if answers["train_batch_size"] == 1 else ABOVE


def target(answers: Mapping[str, Any], facts: Facts) -> int:
    """The number of steps that the epochs are chosen for."""
    return round(usual(answers).steps * PURPOSES[answers["purpose"]].length * (0.5 if facts.half_repeats else 1))


def counted(answers: Mapping[str, Any], facts: Facts, epochs: int) -> arithmetic.Arithmetic:
    return arithmetic.of_counts(facts.pictures.folders, answers["train_batch_size"], epochs, bool(answers["reg_data_dir"]))


def _epochs(answers: Mapping[str, Any], facts: Facts) -> int:
    return max(1, round(target(answers, facts) / counted(answers, facts, 1).per_epoch))


def _rate(kind: str, answers: Mapping[str, Any]) -> float | None:
    """The usual rate for the purpose; those of the parts keep their proportion to a learning rate that was typed."""
    known = {"rate": usual(answers).rate, "unet": usual(answers).unet, "text": usual(answers).text}
    value = known[kind]
    if value is None:
        return None
    scale = answers["learning_rate"] / known["rate"] if "learning_rate" in answers else PURPOSES[answers["purpose"]].rate
    return float(f"{value * scale:.2g}")


def _text_rate(answers: Mapping[str, Any], facts: Facts) -> float | None:
    trains = facts.spec is None or any(slot.trainable for slot in facts.spec.text_slots)
    return _rate("text", answers) if trains else None


def _resolution(answers: Mapping[str, Any], facts: Facts) -> str:
    """The model's size, or a smaller one in whole 64s where the pictures are smaller."""
    of_model = facts.spec.default_resolution if facts.spec else 512
    side = min(of_model, max(64, facts.pictures.side // 64 * 64)) if facts.pictures.side else of_model
    return f"{side},{side}"


def _dim(answers: Mapping[str, Any], facts: Facts) -> int:
    """That of the earlier file, which it must have; else 16."""
    if answers["network_weights"]:
        shapes = read_header(answers["network_weights"]).shapes
        ranks = [shape[0] for name, shape in shapes.items() if name.endswith((".lora_down.weight", ".lora_A.weight"))]
        if ranks:
            return statistics.mode(ranks)
    return 16


def _shuffled(answers: Mapping[str, Any], facts: Facts) -> bool:
    """Tags are shuffled; sentences, with few commas to a caption, are not."""
    captions = facts.pictures.captions
    return not captions or sum(text.count(",") for text in captions) / len(captions) >= 2


DEFAULTS = {
    "purpose": lambda answers, facts: "character",
    "output_dir": lambda answers, facts: "lora_out",
    "train_batch_size": lambda answers, facts: 2,
    "max_train_epochs": _epochs,
    "network_dim": _dim,
    "network_alpha": lambda answers, facts: max(1, answers["network_dim"] / 2),
    "resolution": _resolution,
    "learning_rate": lambda answers, facts: _rate("rate", answers),
    "text_encoder_lr": _text_rate,
    "unet_lr": lambda answers, facts: _rate("unet", answers),
    "lr_scheduler": lambda answers, facts: "cosine_with_restarts",
    "save_every_n_epochs": lambda answers, facts: max(1, answers["max_train_epochs"] // 10),
    "shuffle_caption": _shuffled,
    "keep_tokens": lambda answers, facts: PURPOSES[answers["purpose"]].keep_tokens,
    "lr_warmup_steps": lambda answers, facts: usual(answers).warmup,
    "output_name": lambda answers, facts: facts.pictures.name,
}
"""Question -> what Enter takes, from the answers before it; questions that are not here have none."""


def remarks(key: str, answers: Mapping[str, Any], facts: Facts) -> list[str]:
    """What is to be said before a question beyond its own line: where its default comes from."""
    if key == "load_json":
        return [PURPOSES[answers["purpose"]].advice]
    if key == "keep_tokens" and PURPOSES[answers["purpose"]].keep_tokens and not facts.pictures.shared_first:
        return [say("The captions of a folder do not all begin with the same tag; {command} puts a trigger in front.",
                    command=f'python tools/dataset.py tags "{answers["train_data_dir"]}" --activate TRIGGER')]
    if key != "max_train_epochs":
        return []
    one = counted(answers, facts, 1)
    lines = [say("{per_epoch} steps an epoch; aimed at about {target} steps in all: {steps} is {why}.", per_epoch=one.per_epoch,
                 target=target(answers, facts), steps=usual(answers).steps, why=say(usual(answers).why))]
    if PURPOSES[answers["purpose"]].length != 1:
        lines.append(say("A style takes {times:g} times as many.", times=PURPOSES[answers["purpose"]].length))
    if facts.half_repeats:
        lines.append(say("This kind of model needs half the repeats; the folders keep their numbers, so the epochs are halved."))
    if one.per_epoch > target(answers, facts):
        lines.append(say("One epoch alone is more than that: smaller numbers before the folders' names would do."))
    return lines


# ---------------------------------------------------------------------------------------------------------- settings


def settings(answers: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The run's settings by flag names: the answers and what goes with them."""
    decided = {key: value for key, value in answers.items() if key not in NOT_FLAGS and value not in (None, "")}
    if "text_encoder_lr" in decided:
        decided["text_encoder_lr"] = [decided["text_encoder_lr"]]
    if decided["lr_scheduler"] == "cosine_with_restarts":
        decided["lr_scheduler_num_cycles"] = 3
    smallest = min(int(side) for side in decided["resolution"].split(","))
    largest = max(int(side) for side in decided["resolution"].split(","))
    return decided | {
        "network_module": "networks.lora", "caption_extension": facts.pictures.ending, "enable_bucket": True,
        "min_bucket_reso": min(256, smallest // 64 * 64), "max_bucket_reso": max(1024, largest * 2), "cache_latents": True,
        "mixed_precision": facts.precision, "save_model_as": "safetensors", "seed": 42}


def toml_of(decided: Mapping[str, Any], command: str) -> str:
    """The settings as a kohya config file, with the command that trains from it."""
    return "\n".join([f"# {command}", *(f"{name} = {toml_value(value)}" for name, value in decided.items()), ""])


def read_answers(file: Path) -> dict[str, Any]:
    """Answers out of a saved file, a kohya settings file or a preset of its GUI; other settings in it are left aside.

    Raises UserError where it cannot be read.
    """
    data = read_settings(file).data
    if is_gui_preset(data):
        data = from_gui(data, file.name, [])
    known = {question.key for question in QUESTIONS}
    return {key: value for key, value in data.items() if key in known}


def typed(value: Any) -> str:
    """A value as a person would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(typed(one) for one in value)
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)
