"""Lists the words that a LoRA's text encoders were moved by most: what it was trained on, where nothing else tells.

    python networks/lora_interrogator.py --sd_model BASE.safetensors --model LORA.safetensors
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, file, interrogate


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags, and ``--top``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_device(parser)
    parser.add_argument("--v2", action="store_true", help="the model is SD 2; found out by itself, here it is checked")
    parser.add_argument("--sd_model", help="the model that the LoRA is for: a checkpoint or a diffusers folder")
    parser.add_argument("--model", help="the LoRA file")
    parser.add_argument("--batch_size", type=int, default=16, help="tokens at a time")
    parser.add_argument("--clip_skip", type=int, help="look at the states so many layers before the end")
    parser.add_argument("--top", type=int, default=100, help="length of the list")
    return parser


def work(args: argparse.Namespace) -> None:
    """A line for each of the most moved tokens of every text encoder."""
    source, path = file.given("--sd_model", args.sd_model), file.given("--model", args.model)
    lora = file.read(path)
    asked = interrogate.Asked(max(1, args.batch_size), args.clip_skip, args.device or "cpu")
    family, parts = interrogate.open_texts(source, args.v2, asked.device)
    for part, found in interrogate.interrogate(family, parts, lora, asked).items():
        middle = found[len(found) // 2].change
        command.tell(f"{part}: {len(found)} tokens, mean change of the states; half of them change by more than {middle:.3g}")
        for place, moved in enumerate(found[:args.top], 1):
            command.tell(f"{place:4}  {moved.change:.4g}  {moved.token}")


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
