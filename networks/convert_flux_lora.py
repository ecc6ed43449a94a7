"""Writes a LoRA of ai-toolkit's names in kohya's, or the other way round.

    python networks/convert_flux_lora.py --src ai-toolkit --dst sd-scripts --src_path A.safetensors --dst_path B.safetensors

Kohya's command; networks/convert_lora.py does the same for every architecture and finds out the source's format itself.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, convert_command, file


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    formats = ", ".join(convert_command.WORDS)
    parser.add_argument("--src", default="ai-toolkit", help=f"format of the file: {formats}")
    parser.add_argument("--dst", default="sd-scripts", help=f"format of the new file: {formats}")
    parser.add_argument("--src_path", help="the LoRA file")
    parser.add_argument("--dst_path", help="the file to write")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, rename, write."""
    source = file.given("--src_path", args.src_path)
    output = file.Output.of(args.dst_path, None, source, flag="--dst_path")
    wanted = convert_command.format_called("--src", args.src)
    convert_command.convert_file(output, source, convert_command.format_called("--dst", args.dst), wanted=wanted)


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
