"""Merges LoRA files into one another, or into a model, with a weight for each block of the U-Net.

    python networks/sdxl_merge_lora.py --models A.safetensors B.safetensors --ratios 1 0.5 --save_to AB.safetensors \\
        --lbws "[1,1,1,1,1,1,1,0,0,0,0,0]" "[0,0,0,0,0,0,1,1,1,1,1,1]"
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
    parser.add_argument("--sd_model", help="merge into this model instead of into one file: a checkpoint or a diffusers folder")
    parser.add_argument("--lbws", nargs="*", help="block weights, a JSON list of 12, 17, 20 or 26 numbers for each file")
    return parser


def work(args: argparse.Namespace) -> None:
    """Into the model where one is given, else into one file."""
    if args.sd_model:
        merge_command.merge_into_model(args, args.sd_model, lbws=args.lbws)
    else:
        merge_command.merge_files(args, args.lbws)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
