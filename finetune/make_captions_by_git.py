"""Captions pictures with GIT, with kohya's flags. The model is transformers' own; captions that are replaced are kept.

    python finetune/make_captions_by_git.py FOLDER --batch_size 4 --remove_words
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.dataset import kohya_scripts
from library.dataset.captioner import Writing
from library.util import command

MODEL = "microsoft/git-large-textcaps"


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kohya_scripts.add_folder(parser, ".caption")
    kohya_scripts.add_workers(parser)
    parser.add_argument("--model_id", default=MODEL, help="the captioner: hub id or folder (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--max_length", type=int, default=50, help="tokens at most (%(default)s)")
    parser.add_argument("--remove_words", action="store_true", help='leave out what is said of lettering ("with the words ...")')
    return parser


def work(args: argparse.Namespace) -> None:
    """Caption all pictures, and write."""
    clean = kohya_scripts.without_lettering if args.remove_words else str
    kohya_scripts.caption(args, args.model_id, Writing(max_length=args.max_length, min_length=0), clean)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
