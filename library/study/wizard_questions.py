"""The wizard's questions in their order: what is asked, the line that explains it, and how an answer is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from library.config.run_config import DatasetConfig, DatasetPart
from library.data import files
from library.data.folders import expanded
from library.data.found import Found
from library.util.said import say

NONE_WORDS = ("none", "-", "なし", "無し")
"""What is typed for "nothing of the kind" where there is a default."""
YES_WORDS = ("yes", "y", "true", "1", "はい")
NO_WORDS = ("no", "n", "false", "0", "いいえ", *NONE_WORDS)
SCHEDULERS = ("cosine_with_restarts", "cosine", "constant", "constant_with_warmup", "linear", "polynomial")


@dataclass(frozen=True)
class Purpose:
    """What a LoRA is made for, and how the settings differ for it."""

    title: str
    rate: float
    """The usual learning rates are multiplied by it."""
    length: float
    """The usual number of steps is multiplied by it."""
    keep_tokens: int
    """Tags that stay in front: the trigger, if there is one."""
    advice: str


TRIGGER = "Its trigger tag stands first in every caption and stays there."
PURPOSES = {
    "character": Purpose("a character", 1.0, 1.0, 1, TRIGGER),
    "style": Purpose("a style", 0.5, 1.5, 0, "A style has no trigger tag; it is learned at a lower rate in more epochs."),
    "pose": Purpose("a pose", 1.0, 1.0, 1, TRIGGER),
    "outfit": Purpose("an outfit", 1.0, 1.0, 1, TRIGGER),
}
IN_JAPANESE = {"キャラクター": "character", "画風": "style", "ポーズ": "pose", "衣装": "outfit"}
"""Words of the Japanese question that may be typed as they stand there."""


class Wrong(ValueError):
    """An answer that cannot be taken; its text is the sentence for the person."""

    def __init__(self, sentence: str):
        super().__init__(sentence)
        self.sentence = sentence


def bare(typed: str) -> str:
    """An answer without blanks and quotation marks around it, and without the & that PowerShell puts before a dropped path."""
    text = typed.strip()
    if text.startswith("& ") and text[2:].lstrip()[:1] in ("'", '"'):
        text = text[2:]
    return text.strip().strip("\"'").strip()


def plain(typed: str) -> str:
    return bare(typed)


def yes_no(typed: str) -> bool:
    word = bare(typed).lower()
    if word not in (*YES_WORDS, *NO_WORDS):
        raise Wrong(say('"{typed}" is neither yes nor no.', typed=typed))
    return word in YES_WORDS


def whole(typed: str, least: int = 1) -> int:
    try:
        number = int(bare(typed))
    except ValueError:
        raise Wrong(say('"{typed}" is not a whole number.', typed=typed)) from None
    if number < least:
        raise Wrong(say("{number} is too small: the least is {least}.", number=number, least=least))
    return number


def whole_or_zero(typed: str) -> int:
    return whole(typed, 0)


def positive(typed: str) -> float:
    try:
        number = float(bare(typed))
    except ValueError:
        raise Wrong(say('"{typed}" is not a number.', typed=typed)) from None
    if not 0 < number < math.inf:
        raise Wrong(say("{number:g} is not greater than 0.", number=number))
    return number


def rate(typed: str) -> float:
    number = positive(typed)
    if number > 10:
        raise Wrong(say("{number:g} is far too high for a learning rate: 1e-4 is usual.", number=number))
    return number


def share(typed: str) -> float:
    if bare(typed) in ("0", "0.0"):
        return 0.0
    number = positive(typed)
    if number >= 1:
        raise Wrong(say("{number:g} is not a share of the steps: 0.05 is 5 %.", number=number))
    return number


def purpose(typed: str) -> str:
    return _one_of(IN_JAPANESE.get(bare(typed), typed), tuple(PURPOSES))


def scheduler(typed: str) -> str:
    return _one_of(typed, SCHEDULERS)


def _one_of(typed: str, known: tuple[str, ...]) -> str:
    """One of the words, its number in the list, or its beginning where that is plain."""
    word = bare(typed).lower()
    if word.isdecimal() and 1 <= int(word) <= len(known):
        return known[int(word) - 1]
    begun = [one for one in known if word and one.startswith(word)]
    if word in known or len(begun) == 1:
        return word if word in known else begun[0]
    raise Wrong(say('"{typed}" is none of {known}.', typed=typed, known=list(known)))


def resolution(typed: str) -> str:
    parts = bare(typed).strip("()[]").replace("x", ",").split(",")
    sides = [whole(part, 64) for part in parts]
    if len(sides) > 2:
        raise Wrong(say('"{typed}" is not a size: write 512 or 512,768.', typed=typed))
    return ",".join(str(side) for side in (*sides, *sides)[:2])


def existing_file(typed: str) -> str:
    path = Path(bare(typed)).expanduser()
    if not path.is_file():
        raise Wrong(say("There is no file {path}.", path=path))
    return str(path)


def output_folder(typed: str) -> str:
    path = Path(bare(typed)).expanduser()
    if path.exists() and not path.is_dir():
        raise Wrong(say("{path} is a file, not a folder.", path=path))
    return str(path)


def picture_folder(typed: str) -> str:
    """A folder with folders such as ``10_name`` in it, or the sentence of the start-up checks that says what is wrong."""
    path = Path(bare(typed)).expanduser()
    found = Found()
    parts = expanded(DatasetConfig((DatasetPart(()),), train_data_dir=path), found)
    stops = [one for one in found.problems if one.severity == "stop"]
    if stops:
        raise Wrong(say("{what} {remedy}", what=stops[0].what, remedy=stops[0].remedy))
    if not any(subset.image_dir is not None and files.pictures(subset.image_dir) for part in parts for subset in part.subsets):
        raise Wrong(say('There are no pictures in the numbered folders of "{folder}".', folder=path))
    return str(path)


def file_name(typed: str) -> str:
    name = bare(typed)
    bad = sorted({sign for sign in name if sign in '<>:"/\\|?*'})
    if not name or bad:
        raise Wrong(say('"{typed}" cannot be a file\'s name.', typed=typed))
    return name


def tags(typed: str) -> str:
    return ", ".join(tag for tag in (one.strip() for one in bare(typed).replace("、", ",").split(",")) if tag)


@dataclass(frozen=True)
class Question:
    """One question."""

    key: str
    """The setting that it decides, by its flag's name where it is one."""
    ask: str
    why: str
    read: Callable[[str], Any]
    optional: bool = False
    """Whether "none" is an answer."""
    left_out: Callable[[Mapping[str, Any]], bool] = lambda answers: False
    """Whether earlier answers make it pointless."""


QUESTIONS = (
    Question("purpose", "What is the LoRA for? (character, style, pose, outfit)",
             "It decides the trigger tag, the learning rate and the length of the training.", purpose),
    Question("load_json", "Load answers from a file?",
             "A file that this program saved, or a kohya settings file; what it says becomes the defaults.",
             existing_file, True),
    Question("pretrained_model_name_or_path", "Base model",
             "A .safetensors or .ckpt file, a diffusers folder, a hub id such as user/name, or a direct link.", plain),
    Question("train_data_dir", "Folder of training pictures",
             "The folder above folders such as 10_name, where 10 is how often each picture is shown in an epoch.", picture_folder),
    Question("output_dir", "Output folder", "LoRA files and the report of the run go there.", output_folder),
    Question("save_json", "Save these answers as a file?", "The name of a .json file that can be loaded next time.", plain, True),
    Question("reg_data_dir", "Folder of regularisation pictures",
             "Pictures of the same kind without your subject keep the model from unlearning; they double the steps.",
             picture_folder, True),
    Question("network_weights", "Go on from an earlier LoRA file?", "Training then starts from that file instead of from nothing.",
             existing_file, True),
    Question("train_batch_size", "Batch size",
             "Pictures of one step: 2 to 4 where the memory allows it, 1 on a card of 8 GB or less.",
             whole),
    Question("max_train_epochs", "Epochs", "How often all pictures are gone through.", whole),
    Question("network_dim", "Dim (rank)", "Size of the LoRA: 4 to 32 for most things, 128 at most; the file grows with it.", whole),
    Question("network_alpha", "Alpha",
             "The LoRA acts at alpha / dim: half of dim is usual, 1 is the cure for over-fitting at dim 128.",
             positive),
    Question("resolution", "Resolution",
             "The size the base model was made for, and no larger than the pictures: 512, 1024 or 512,768.",
             resolution),
    Question("learning_rate", "Learning rate", "How large each step is; raise it only together with a lower alpha.", rate),
    Question("text_encoder_lr", "Learning rate of the text encoder",
             "None: the learning rate; else a half to a fifth of the U-Net's.", rate, True),
    Question("unet_lr", "Learning rate of the U-Net", "None: the learning rate.", rate, True),
    Question("lr_scheduler", "Schedule of the learning rate",
             "How the rate falls: cosine_with_restarts (3 cycles), cosine, constant, constant_with_warmup, linear, polynomial.",
             scheduler),
    Question("save_every_n_epochs", "Save a file every so many epochs",
             "1 saves every epoch, so that the best one can be chosen afterwards; none saves the last alone.", whole, True),
    Question("shuffle_caption", "Shuffle the tags of captions?", "Yes for lists of tags, no for sentences.", yes_no),
    Question("keep_tokens", "Tags that stay in front", "As many as there are trigger tags; 0 for a style.", whole_or_zero),
    Question("lr_warmup_steps", "Warm-up ratio", "The share of the steps in which the rate rises to its height.", share,
             left_out=lambda answers: answers["lr_scheduler"] == "constant"),
    Question("output_name", "Name of the LoRA", "The file's name, without .safetensors.", file_name),
    Question("training_comment", "Comment", "It is kept in the file, for example with the trigger tag.", plain, True),
    Question("excluded_tags", "Tags to take out of the captions",
             "Tags that are left out are learned as part of the subject, so exclude what always belongs to it.", tags, True),
)
