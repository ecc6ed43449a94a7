"""``dataset.py caption``: write a sentence about each picture into its caption, for photographs rather than drawings."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from library.util.command import within
from library.util.records import UserError
from library.util.said import say

from . import captioner, tag_command
from .shared import add_place, add_yes, few, place, settle, tell

MODEL = "Salesforce/blip-image-captioning-large"


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_place(parser)
    parser.add_argument("--model_id", default=MODEL, help="a captioner of transformers (BLIP, GIT, Florence-2): hub id or folder "
                        "(%(default)s)")
    parser.add_argument("--prompt", default="", help='what the caption begins with; for Florence-2 "<MORE_DETAILED_CAPTION>"')
    parser.add_argument("--prefix", default="", help='put before every caption: "zobi, "')
    parser.add_argument("--batch_size", type=within(int, 1), default=1)
    parser.add_argument("--num_beams", type=within(int, 1), default=1, help="more are slower and better (%(default)s)")
    parser.add_argument("--max_length", type=within(int, 1), default=75, help="tokens at most (%(default)s)")
    parser.add_argument("--min_length", type=within(int, 0), default=5, help="tokens at least (%(default)s)")
    add_yes(parser)


def caption_all(model_id: str, pictures: Sequence[Path], writing: captioner.Writing, batch: int) -> dict[Path, str]:
    """The captions of all pictures that can be read; the others are named."""
    found = {}
    for path, one in captioner.Captioner(model_id).write(pictures, writing, batch):
        if isinstance(one, UserError):
            tell(say("left out: {name}: {what}", name=path, what=one.problems[0].what))
        else:
            found[path] = one
    return found


def work(args: argparse.Namespace) -> None:
    data = place(args)
    folders = {path: folder for folder, path in data.pictures()}
    writing = captioner.Writing(args.prompt, args.num_beams, max_length=args.max_length, min_length=args.min_length)
    found = caption_all(args.model_id, list(folders), writing, args.batch_size)
    texts = {path: (folders[path].new_caption_of(path), args.prefix + text) for path, text in found.items()}
    few([f"{data.label(file)}\n  + {text}" for file, text in texts.values()])
    settle(data, "caption", tag_command.changes(texts), args.yes)
