"""Takes a LoRA out of what sets a tuned model apart from the one it was trained from.

    python networks/extract_lora_from_models.py --model_org BASE --model_tuned TUNED --save_to LORA.safetensors --dim 32

Any architecture known here, single files and diffusers folders; one layer is in memory at a time.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, extract_command


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    extract_command.add_flags(parser)
    parser.add_argument("--conv_dim", type=int, help="rank of kernels above 1x1; they are left out if omitted")
    parser.add_argument("--min_diff", type=float, default=0.01,
                        help="text encoders are left out where no value differs by more than this")
    for flag in ("--v2", "--sdxl", "--v_parameterization"):
        parser.add_argument(flag, action="store_true", help="the model's kind; recognised by itself, kept for old commands")
    for flag in ("--load_precision", "--load_original_model_to", "--load_tuned_model_to"):
        parser.add_argument(flag, help="not needed here, kept for old commands: one layer is loaded at a time, in fp32")
    return parser


def work(args: argparse.Namespace) -> None:
    """Compare and write."""
    extract_command.extract_to_file(args, args.conv_dim, args.min_diff)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
