"""What the command-line tools for LoRA files share: their flags, beside what all tools share."""

from __future__ import annotations

import argparse

from library.lorafile.file import PRECISIONS
from library.util.command import run, tell

__all__ = ["add_device", "add_merging", "add_saving", "run", "tell"]


def add_saving(parser: argparse.ArgumentParser, hint: str = "same as the input if omitted") -> None:
    """``--save_to`` and ``--save_precision``."""
    parser.add_argument("--save_to", help="file to write: .safetensors (or .ckpt, .pt)")
    parser.add_argument("--save_precision", choices=PRECISIONS, help=f"precision of the file, {hint}")


def add_merging(parser: argparse.ArgumentParser) -> None:
    """``--models``, ``--ratios``, ``--precision`` and ``--no_metadata``."""
    parser.add_argument("--models", nargs="*", default=[], help="LoRA files, of any adapter kind and format")
    parser.add_argument("--ratios", nargs="*", type=float, default=[], help="strength of each file, in the same order")
    parser.add_argument("--precision", choices=PRECISIONS, default="float",
                        help="precision of the merged values; sums are always made in fp32")
    parser.add_argument("--no_metadata", action="store_true", help="write only the few metadata that programs need")


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps")
