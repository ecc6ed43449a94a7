"""What the command-line tools share: flags, the frame around mistakes, the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from library.lorafile.file import PRECISIONS
from library.util import frame
from library.util.language import language_of
from library.util.records import UserError
from library.util.secrets import mask


def run(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> int:
    """Parse, work, and show a user's mistakes in the frame. Returns the exit code."""
    args = parser.parse_args(argv)
    try:
        work(args)
    except UserError as error:
        text = frame.render(error.problems, language=language_of())
        print(mask(frame.printable(text, sys.stderr.encoding)), file=sys.stderr)
        return 1
    return 0


def tell(text: str) -> None:
    """A line for the user, on any console."""
    print(mask(frame.printable(text, sys.stdout.encoding)), flush=True)


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
