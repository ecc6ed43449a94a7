"""Merges LoRA files into one another, or into a Flux transformer.

    python networks/flux_merge_lora.py --models A.safetensors B.safetensors --ratios 1 0.5 --concat --save_to AB.safetensors
    python networks/flux_merge_lora.py --flux_model MODEL --models A.safetensors --ratios 0.8 --save_to MERGED.safetensors

Files are read and written a layer at a time.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, merge_command
from library.util.records import Problem, UserError

TEXT_ENCODERS = ("--clip_l", "--t5xxl", "--clip_l_save_to", "--t5xxl_save_to")


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_saving(parser, "that of --precision if omitted")
    command.add_merging(parser)
    merge_command.add_ways(parser)
    parser.add_argument("--flux_model", help="merge into this model instead of into one file")
    for flag in ("--loading_device", "--working_device"):
        parser.add_argument(flag, default="cpu", help="where to compute (the first is kept for old commands)")
    parser.add_argument("--mem_eff_load_save", action="store_true",
                        help="not needed here, kept for old commands: files are always read and written a layer at a time")
    parser.add_argument("--diffusers", action="store_true",
                        help="not needed here, kept for old commands: a file's format is recognised")
    for flag in TEXT_ENCODERS:
        parser.add_argument(flag, help="not done here: a text encoder in a file of its own is not merged into")
    return parser


def work(args: argparse.Namespace) -> None:
    """Into the model where one is given, else into one file."""
    typed = [flag for flag in TEXT_ENCODERS if vars(args)[flag.removeprefix("--")]]
    if typed:
        raise UserError(Problem(" ".join(typed), "Text encoders in files of their own are not merged into.",
                                "Leave it out, or merge into a diffusers folder, which holds the text encoders too."))
    if args.flux_model:
        merge_command.merge_into_model(args, args.flux_model, "--flux_model", device=args.working_device)
    else:
        merge_command.merge_files(args)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
