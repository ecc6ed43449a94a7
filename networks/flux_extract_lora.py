"""Takes a LoRA out of what sets a tuned transformer apart from the one it was trained from.

    python networks/flux_extract_lora.py --model_org BASE --model_tuned TUNED --save_to LORA.safetensors --dim 32

One layer is in memory at a time, whatever the model's size.
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
    parser.add_argument("--mem_eff_safe_open", action="store_true",
                        help="not needed here, kept for old commands: files are always read a layer at a time")
    return parser


def work(args: argparse.Namespace) -> None:
    """Compare and write."""
    extract_command.extract_to_file(args, None, 0.0)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
