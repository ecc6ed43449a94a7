"""What the command-line tools share: the frame around mistakes, the exit code, lines that any console can print."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from library.util import frame, log
from library.util.language import language_of
from library.util.records import UserError
from library.util.secrets import mask


def run(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> int:
    """Parse, work, and show a user's mistakes in the frame. Returns the exit code."""
    args = parser.parse_args(argv)
    log.prepare_environment()
    try:
        work(args)
    except UserError as error:
        text = frame.render(error.problems, language=language_of(), tool=True)
        print(mask(frame.printable(text, sys.stderr.encoding)), file=sys.stderr)
        return 1
    return 0


def tell(text: str) -> None:
    """A line for the user, on any console."""
    print(mask(frame.printable(text, sys.stdout.encoding)), flush=True)
