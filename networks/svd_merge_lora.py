"""Merges LoRA files into one of any rank: the best LoRA of that rank for the exact weighted sum.

    python networks/svd_merge_lora.py --models A.safetensors B.safetensors --ratios 1 0.5 --new_rank 32 --save_to C.safetensors

The files may be of different ranks and kinds (LoRA, LoHa, LoKr).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, merge, merge_command
from library.lorafile.file import Output


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_saving(parser, "that of --precision if omitted")
    command.add_merging(parser)
    command.add_device(parser)
    parser.add_argument("--new_rank", type=int, default=4, help="rank of the result")
    parser.add_argument("--new_conv_rank", type=int, help="the same for kernels above 1x1; as --new_rank if omitted")
    parser.add_argument("--lbws", nargs="*", help="block weights, a JSON list of 12, 17, 20 or 26 numbers for each file")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, sum, cut, write."""
    output = Output.of(args.save_to, args.save_precision or args.precision, *args.models)
    every = merge.shares(args.models, args.ratios, args.lbws)
    modules = merge.svd_merged(every, args.new_rank, args.new_conv_rank, args.device)
    merge_command.finish(args, every, modules, output)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
