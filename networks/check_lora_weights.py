"""Shows the weights of a LoRA file: size and spread of every tensor, and what is not a number.

    python networks/check_lora_weights.py FILE.safetensors
    python networks/check_lora_weights.py FILE.safetensors --show_all_keys
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, file
from networks import keys


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="the LoRA file")
    parser.add_argument("-s", "--show_all_keys", action="store_true", help="also alphas and everything else")
    return parser


def work(args: argparse.Namespace) -> None:
    """A line for every tensor."""
    lora = file.read(args.file)
    identity = lora.identity
    command.tell(f"{lora.name}: {identity.kind}, {identity.format} format, {identity.modules} modules")
    tensors = {**keys.flatten(lora.modules), **lora.rest}
    bad = 0
    for key, value in sorted(tensors.items()):
        if not args.show_all_keys and value.dim() == 0:
            continue
        number = value.float()
        nan, infinite = int(number.isnan().sum()), int(number.isinf().sum())
        bad += bool(nan or infinite)
        warning = f", {nan} NaN, {infinite} infinite" if nan or infinite else ""
        command.tell(f"{key}: {keys.shape_text(value.shape)}, mean |x| {number.abs().mean():.3g}, "
                     f"smallest {number.min():.3g}, largest {number.max():.3g}{warning}")
    command.tell(f"{len(tensors)} tensors" + (f"; {bad} hold values that are no numbers" if bad else ", all of them numbers"))


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
