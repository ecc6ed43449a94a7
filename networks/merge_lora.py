"""Merges LoRA files into one another, or into a model.

    python networks/merge_lora.py --models A.safetensors B.safetensors --ratios 0.7 0.3 --save_to AB.safetensors
    python networks/merge_lora.py --sd_model MODEL --models A.safetensors --ratios 0.8 --save_to MERGED.safetensors

Any adapter kind, key format and architecture; a diffusers folder gives a folder.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, merge_command


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_saving(parser, "that of --precision if omitted")
    command.add_merging(parser)
    merge_command.add_ways(parser)
    merge_command.add_model(parser)
    return parser


def work(args: argparse.Namespace) -> None:
    """Into the model where one is given, else into one file."""
    if args.sd_model:
        merge_command.merge_into_model(args, args.sd_model)
    else:
        merge_command.merge_files(args)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
