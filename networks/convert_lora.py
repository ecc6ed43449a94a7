"""Writes a LoRA file in another format.

    python networks/convert_lora.py FILE.safetensors --to comfy --save_to NEW.safetensors

kohya: lora_unet_... with alpha (A1111, Forge, ComfyUI). comfy: diffusion_model.<original's path>. diffusers: PEFT's names.
Layers that an original checkpoint holds as one (qkv) are put together or taken apart as the format wants it.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.families import registry
from library.lorafile import command, convert_command, file


def setup_parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="the LoRA file, of any format")
    parser.add_argument("--to", choices=["kohya", "comfy", "diffusers"], required=True, help="format of the new file")
    parser.add_argument("--family", choices=registry.names(), help="architecture, where the file does not tell it")
    command.add_saving(parser)
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, rename, write."""
    output = file.Output.of(args.save_to, args.save_precision, args.file)
    convert_command.convert_file(output, args.file, args.to, args.family)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
