"""Writes an Anima LoRA under ComfyUI's names, or back under kohya's.

    python networks/convert_anima_lora_to_comfy.py FILE.safetensors NEW.safetensors
    python networks/convert_anima_lora_to_comfy.py FILE.safetensors NEW.safetensors --reverse

Kohya's command; networks/convert_lora.py does the same for every architecture.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, convert_command, file


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("src_path", help="the LoRA file")
    parser.add_argument("dst_path", help="the file to write")
    parser.add_argument("--reverse", action="store_true", help="from ComfyUI's names to kohya's")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, rename, write."""
    output = file.Output.of(args.dst_path, None, args.src_path, flag="dst_path")
    convert_command.convert_file(output, args.src_path, "kohya" if args.reverse else "comfy")


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
