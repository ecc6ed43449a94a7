"""Logging for programs that people watch: INFO lines on stderr, in any console, with anything secret masked."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

from library.util.said import Said, spoken
from library.util.secrets import mask

QUIET = (
    "accelerate",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "urllib3",
    "filelock",
    "PIL",
    "matplotlib",
    "xformers",
    "triton",
    "bitsandbytes",
    "fsspec",
    "huggingface_hub.utils._http",
)
"""Libraries whose chatter below WARNING (or below ERROR: xformers, triton, bitsandbytes) says nothing about the training."""


RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Where launchers (torchrun, MPI's kinds) leave a process's number, in the order in which accelerate looks."""


def process_rank() -> int:
    """The number of this process among those of one run; 0 is the one that speaks."""
    return next((int(os.environ[name]) for name in RANKS if os.environ.get(name, "").isdigit()), 0)


class MaskingFormatter(logging.Formatter):
    """A formatter that speaks the user's language, and whose output holds no token or key, wherever it came from."""

    def format(self, record: logging.LogRecord) -> str:
        if isinstance(record.msg, Said):
            record = logging.makeLogRecord({**record.__dict__, "msg": spoken(record.msg)})
        return mask(super().format(record))


class SafeHandler(logging.StreamHandler):
    """A stream handler that never fails on a character: what the console cannot show is replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + self.terminator
            encoding = self.stream.encoding or "utf-8"
            try:
                self.stream.write(line.encode(encoding, "replace").decode(encoding))
            except LookupError:
                self.stream.write(line.encode("ascii", "replace").decode("ascii"))
            self.flush()
        except (OSError, ValueError):
            self.handleError(record)


class LastingStream(io.TextIOWrapper):
    """A stream that falls silent when nobody reads it any more (a closed pipe, a full disk): a run goes on without it."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError:
            self._fall_silent()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError:
            self._fall_silent()

    def _fall_silent(self) -> None:
        """Send what follows nowhere, what waits in the buffer included."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def safe_streams() -> None:
    """Make stdout and stderr such that no print can end a run: what their encoding lacks is replaced, a closed pipe ignored.

    The encoding itself stays: a console in cp932 shows cp932. Streams that other programs put in place (notebooks)
    stay theirs. Where there are none (``>&-``, pythonw), what is printed goes nowhere.
    """
    sys.stdout, sys.stderr = _safe(sys.stdout, sys.__stdout__), _safe(sys.stderr, sys.__stderr__)


def _safe(stream: TextIO | None, original: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")
    if stream is original and isinstance(stream, io.TextIOWrapper):
        stream.flush()
        return LastingStream(stream.buffer, encoding=stream.encoding, errors="replace", line_buffering=stream.line_buffering,
                             write_through=stream.write_through)
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


def prepare_environment() -> None:
    """Set what libraries read from the environment at import, unless the user set it: no symlink warning on Windows."""
    if os.name == "nt":
        os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def set_up(
    level: str = "INFO", file: Path | None = None, simple: bool = False, stream: TextIO | None = None
) -> logging.Handler:
    """Send log lines to stderr, or to ``file`` in UTF-8, and return the handler in use.

    ``simple`` leaves out time and place (``--console_log_simple``); ``level`` is a name such as DEBUG
    (``--console_log_level``). Calling it again replaces the handler of the call before. Of several processes only the
    first tells what goes well; the others show warnings and errors, with their number.
    """
    safe_streams()
    rank = process_rank()
    handler: logging.Handler
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(file, mode="a", encoding="utf-8", errors="replace")
    else:
        handler = SafeHandler(sys.stderr if stream is None else stream)
    line = "%(message)s" if simple else "%(asctime)s %(levelname)-7s %(message)s  [%(filename)s:%(lineno)d]"
    handler.setFormatter(MaskingFormatter(f"process {rank}: {line}" if rank else line, datefmt="%Y-%m-%d %H:%M:%S"))
    if rank:
        handler.setLevel(logging.WARNING)
    handler.set_name("trainer")
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == "trainer"]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.ERROR if name in ("xformers", "triton", "bitsandbytes") else logging.WARNING)
    return handler
