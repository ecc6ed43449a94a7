"""Captions pictures with BLIP, with kohya's flags. The model is transformers' own; captions that are replaced are kept.

    python finetune/make_captions.py FOLDER --batch_size 4 --beam_search --num_beams 4
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.dataset import kohya_scripts
from library.dataset.caption_command import MODEL
from library.dataset.captioner import Writing
from library.util import command


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    kohya_scripts.add_folder(parser, ".caption")
    parser.add_argument("--caption_weights", default=MODEL, help="the captioner: hub id or folder (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--beam_search", action="store_true", help="the likeliest words instead of drawn ones")
    parser.add_argument("--num_beams", type=int, default=1)
    parser.add_argument("--top_p", type=float, default=0.9, help="without --beam_search: drawn among the likeliest words")
    parser.add_argument("--max_length", type=int, default=75)
    parser.add_argument("--min_length", type=int, default=5)
    parser.add_argument("--seed", type=int, default=42)
    kohya_scripts.add_workers(parser)
    return parser


def work(args: argparse.Namespace) -> None:
    """Caption all pictures, and write."""
    import torch

    random.seed(args.seed)
    torch.manual_seed(args.seed)
    beams = args.num_beams if args.beam_search else 1
    writing = Writing("", beams, not args.beam_search, args.top_p, args.max_length, args.min_length)
    kohya_scripts.caption(args, args.caption_weights, writing)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
