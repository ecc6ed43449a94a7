"""Cuts a DyLoRA file into LoRA files, one for every multiple of --unit below its rank.

    python networks/extract_lora_from_dylora.py --model DYLORA.safetensors --save_to OUT.safetensors --unit 4

writes OUT-0004.safetensors, OUT-0008.safetensors, ...
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, file, nested


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="the DyLoRA file")
    parser.add_argument("--save_to", help="name of the files; the rank is put before the ending")
    parser.add_argument("--unit", type=int, required=True, help="the unit it was trained with")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, cut, write each."""
    target = file.Output.of(args.save_to, None, args.model).path
    lora = file.read(args.model)
    for rank, modules, metadata in nested.cuts(lora, args.unit):
        output = file.Output(target.with_name(f"{target.stem}-{rank:04d}{target.suffix}"))
        saved = file.write(output, file.spelled(modules, lora.identity.format), metadata)
        command.tell(f"{saved.path}: rank {rank}")


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
