"""Does not cache latents: the trainer does it itself, by bucket, from the same metadata file. Says how.

    accelerate launch train_network.py ... --in_json meta.json --train_data_dir FOLDER --cache_latents_to_disk --enable_bucket
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.util import command
from library.util.records import Problem, UserError


def work(args: argparse.Namespace) -> None:
    """Say what to do instead."""
    raise UserError(Problem("prepare_buckets_latents.py", "latents are not cached by a program of their own here.",
                            "Give the trainer the metadata file itself: --in_json=meta.json --train_data_dir=FOLDER "
                            "--enable_bucket --cache_latents_to_disk; the first run caches, later ones use it."))


def setup_parser() -> argparse.ArgumentParser:
    """Takes whatever is typed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
