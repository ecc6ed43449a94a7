"""What the command-line tools share: the frame around mistakes, the exit code, lines that any console can print."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from library.util import frame, log
from library.util.language import language_of
from library.util.records import Problem, UserError
from library.util.said import say, spoken
from library.util.secrets import mask

Number = TypeVar("Number", int, float)


def run(parser: argparse.ArgumentParser, work: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None) -> int:
    """Parse, work, and show a user's mistakes in the frame. Returns the exit code."""
    args = parser.parse_args(argv)
    log.prepare_environment()
    try:
        work(args)
    except UserError as error:
        return _shown(error.problems)
    except BrokenPipeError:  # whoever read the output has had enough: | head
        sys.stdout = None
        return 1
    except OSError as error:
        return _shown([_of_disk(error)])
    return 0


def _shown(problems: Sequence[Problem]) -> int:
    text = frame.render(problems, language=language_of(), tool=True)
    print(mask(frame.printable(text, sys.stderr.encoding)), file=sys.stderr)
    return 1


def _of_disk(error: OSError) -> Problem:
    """A disk's or folder's refusal in words: full, not allowed, a folder where a file should be."""
    place = str(error.filename2 or error.filename or say("a file"))
    if error.errno == errno.ENOSPC:
        return Problem(place, say("The disk is full."), say("Make room, or write to another disk."))
    return Problem(place, say("It cannot be read or written: {reason}.", reason=error.strerror or str(error)),
                   say("Check that it is a file and not a folder, that its folder exists, and that you may write there."))


def within(kind: type[Number], least: Number, most: Number | None = None) -> Callable[[str], Number]:
    """A type for argparse: a number of this kind from ``least`` to ``most``."""
    def read(text: str) -> Number:
        value = kind(text)
        if value < least or (most is not None and value > most):
            span = f"{least} or more" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not {span}")
        return value

    read.__name__ = kind.__name__  # argparse names it where the text is no number at all
    return read


def tell(text: str) -> None:
    """A line for the user, on any console; a sentence made by ``say`` in the user's language."""
    print(mask(frame.printable(spoken(text), sys.stdout.encoding)), flush=True)
