"""What kohya's scripts in ``finetune/`` do beside tagging: folders as they search them, and metadata files (JSON)."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from library.data import files
from library.util.command import tell
from library.util.records import Problem, UserError
from library.util.said import say

from . import tag_command
from .caption_command import caption_all
from .captioner import Writing
from .journal import UNDO, carry_out, write_whole
from .tags import parse

FACES = re.compile(r"^\W*_\W*$")
PEOPLE = re.compile(r"(girls|boys)\b")
ONE_OF_EACH = tuple(re.compile(pattern) for pattern in (
    r"(long|short|medium) hair", r"(bob|hime) cut", r"[\w\-]+ eyes", r"[\w\-]+ sleeves|sleeveless",
    r"ponytail|braid|ahoge|twintails|[\w\-]+ bun|single (hair|side) bun|two (side up|tails)|[\w\-]+ braid|sidelocks",
    r"(?!long|short|medium)[\w\-]+ hair"))
"""Where several people are shown and several of these tags stand, nothing says whose they are: all go."""
SUBJECT = r"(?:anime|cartoon)?\s*\b(?:female|lady|woman|person)\b|\b(?:anime|cartoon) (?:girl|character)\b"
CAPTION_RULES = ((r"\banime anime\b", "anime"), (r"\byoung ", ""), (r"\b(?:anime|cartoon)? ?\b(?:women|people)\b", "girls"),
                 (SUBJECT, "girl"), (r"\ban? (?:anime cartoon|anime|cartoon) (image)", r"an \1"),
                 (r"\ban? (?:anime cartoon|anime|cartoon) (figure|picture|drawing)", r"a \1"), (r"\bgirl girl\b", "girl"))
LETTERING = re.compile(
    r"""[,.]?\s*\b(?:(?:with|and)\s+)?(?:(?:that|which)\s+(?:says?|reads?)
                       |(?:the|a)\s+(?:words?|letters?|numbers?|text|caption|title|name)s?\b(?:\s+(?:that|which)\s+(?:says?|reads?))?)
                       [^,.]*""",
    re.IGNORECASE | re.VERBOSE,
)
"""What a captioner says of lettering in a picture, up to the end of its clause."""


def add_folder(parser: argparse.ArgumentParser, extension: str) -> None:
    """``train_data_dir``, ``--caption_extension``, ``--recursive`` and ``--debug``."""
    parser.add_argument("train_data_dir", help="folder of the pictures")
    parser.add_argument("--caption_extension", default=extension, help="ending of the caption files (%(default)s)")
    parser.add_argument("--caption_extention", help=argparse.SUPPRESS)
    parser.add_argument("--recursive", action="store_true", help="also the folders inside it")
    parser.add_argument("--debug", action="store_true", help="show each picture's text")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """kohya's ``--max_data_loader_n_workers``, which concerns speed alone."""
    parser.add_argument("--max_data_loader_n_workers", type=int, help="not needed here: pictures are read as they are used")


def pictures(args: argparse.Namespace) -> list[Path]:
    """The pictures of the folder. Raises UserError where there are none."""
    if args.caption_extention:
        args.caption_extension = args.caption_extention
    folder = Path(args.train_data_dir)
    if not folder.is_dir():
        raise UserError(Problem("train_data_dir", say("There is no folder {folder}.", folder=folder), "Check the path."))
    inside = [folder, *(path for path in sorted(folder.rglob("*")) if path.is_dir() and UNDO not in path.parts)]
    found = [path for one in (inside if args.recursive else [folder]) for path in files.pictures(one)]
    if not found:
        raise UserError(Problem("train_data_dir", say("There are no pictures in {folder}.", folder=folder),
                                "Add --recursive if they lie deeper."))
    tell(f"found {len(found)} images.")
    return found


def caption(args: argparse.Namespace, model_id: str, writing: Writing, clean: Callable[[str], str] = str) -> None:
    """Caption all pictures of the folder and write; captions that are replaced are kept. Raises UserError."""
    if args.max_data_loader_n_workers:
        tell(f"--max_data_loader_n_workers={args.max_data_loader_n_workers}: not needed, pictures are read as they are used")
    found = caption_all(model_id, pictures(args), writing, args.batch_size)
    texts = {path: (path.with_suffix("." + args.caption_extension.lstrip(".")), clean(text)) for path, text in found.items()}
    if args.debug:
        for path, (_, text) in texts.items():
            tell(f"{path}: {text}")
    carry_out(Path(args.train_data_dir), "caption", tag_command.changes(texts))
    tell("done!")


def without_lettering(text: str) -> str:
    """A caption without what it says of words and numbers in the picture (``a cup with the words good day``)."""
    return " ".join(LETTERING.sub("", text).split()).strip(" ,.") or text


def merge_parser(extension: str) -> argparse.ArgumentParser:
    """Flags of kohya's merge scripts."""
    parser = argparse.ArgumentParser()
    add_folder(parser, extension)
    parser.add_argument("out_json", help="metadata file to write")
    parser.add_argument("--in_json", help="metadata file to add to; out_json itself if it is there")
    parser.add_argument("--full_path", action="store_true", help="name pictures by their whole paths")
    return parser


def merge(args: argparse.Namespace, field: str) -> None:
    """Write the captions (or tags) of a folder's pictures into a metadata file. Raises UserError."""
    if args.recursive and not args.full_path:
        raise UserError(Problem("--recursive", "It needs --full_path: pictures of several folders may have one name.",
                                "Add --full_path."))
    found = pictures(args)
    source = args.in_json or (args.out_json if Path(args.out_json).is_file() else None)
    table = read_metadata(source) if source else {}
    missing = 0
    for picture in found:
        file = files.caption_file(picture, args.caption_extension)
        if file is None:
            missing += 1
            continue
        text = "\n".join(line for line in files.read_caption(file).lines if line)
        table.setdefault(str(picture) if args.full_path else picture.stem, {})[field] = text
        if args.debug:
            tell(f"{picture}: {text}")
    if missing:
        tell(f"{missing} pictures have no {args.caption_extension} file; nothing is written for them")
    write_metadata(args.out_json, table)


def read_metadata(file: str) -> dict[str, dict[str, Any]]:
    """Raises UserError."""
    try:
        table = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(Problem(file, "This metadata file cannot be opened.", "Check the path.")) from error
    except ValueError as error:
        raise UserError(Problem(file, say("This is no metadata file ({error}).", error=error), "Make it anew.")) from error
    if not isinstance(table, dict):
        raise UserError(Problem(file, "This is no metadata file.", 'It looks like {"name": {"caption": "...", "tags": "..."}}.'))
    return table


def write_metadata(file: str, table: dict[str, dict[str, Any]]) -> None:
    write_whole(Path(file), json.dumps(table, indent=2, ensure_ascii=False).encode("utf-8"))
    tell(f"writing metadata: {file} ({len(table)} pictures)")


def clean(source: str, target: str, debug: bool) -> None:
    """Clean the tags and captions of a metadata file into another."""
    table = read_metadata(source)
    rules: dict[str, Callable[[str], str]] = {"tags": clean_tags, "caption": clean_caption}
    for name, entry in table.items():
        for field, rule in rules.items():
            if field not in entry:
                continue
            before, entry[field] = entry[field], rule(entry[field])
            if debug and before != entry[field]:
                tell(f"{name}\n  - {before}\n  + {entry[field]}")
    write_metadata(target, table)


def clean_tags(text: str) -> str:
    """Spaces for underscores, no ratings, no hair and eyes of nobody known, no ``shirt`` beside ``white shirt``."""
    found = [tag if FACES.match(tag) else tag.replace("_", " ") for tag in parse(text)]
    found = [tag for tag in found if not tag.startswith("rating")]
    if any(PEOPLE.search(tag) for tag in found):
        for group in ONE_OF_EACH:
            inside = [tag for tag in found if group.fullmatch(tag)]
            found = [tag for tag in found if tag not in inside] if len(inside) > 1 else found
    return ", ".join(tag for tag in found if (" " in tag and tag != "hair ornament")
                     or not any(other.endswith(f" {tag}") for other in found))


def clean_caption(text: str) -> str:
    """Captions of BLIP's kind with one word for one thing: an anime woman is a girl."""
    before = None
    while before != text:
        before = text
        for pattern, new in CAPTION_RULES:
            text = re.sub(pattern, new, text)
        text = " ".join(text.split())
    return text
