"""Shows a file's metadata as JSON.

    python tools/show_metadata.py --model FILE.safetensors
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command
from library.util.header import FileKind, read_header
from library.util.records import Problem, UserError


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flag."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a .safetensors file: LoRA, model, VAE, ...")
    return parser


def _value(text: str) -> object:
    """Values that hold JSON themselves (tag frequencies, buckets) are shown as such, other text as it is."""
    if text[:1] not in "{[":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def work(args: argparse.Namespace) -> None:
    """Print the metadata; the file's tensors are not read."""
    header = read_header(args.model)
    if header.kind != FileKind.SAFETENSORS:
        raise UserError(Problem(f"--model {args.model}", header.detail or f"is a {header.kind}, which holds no metadata",
                                "Give a .safetensors file."))
    shown = {key: _value(value) for key, value in sorted(header.metadata.items())}
    command.tell(json.dumps(shown, indent=4, ensure_ascii=False) if shown else "This file has no metadata.")


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
