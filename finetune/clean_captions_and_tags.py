"""Cleans the tags and captions of a metadata file, with kohya's arguments.

    python finetune/clean_captions_and_tags.py meta.json meta_clean.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.dataset import kohya_scripts
from library.util import command


def setup_parser() -> argparse.ArgumentParser:
    """kohya's arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("in_json", help="metadata file to read")
    parser.add_argument("out_json", help="metadata file to write")
    parser.add_argument("--debug", action="store_true", help="show what is changed")
    return parser


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), lambda args: kohya_scripts.clean(args.in_json, args.out_json, args.debug)))
