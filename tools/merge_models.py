"""Mixes whole models of one architecture: a weighted sum, tensor by tensor.

    python tools/merge_models.py --models A.safetensors B.safetensors --ratios 0.6 0.4 --output MIX.safetensors

What only some of the models have is mixed among these. One tensor of each is in memory at a time.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, file, mix


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", help="the models' files")
    parser.add_argument("--output", help="the file to write")
    parser.add_argument("--ratios", nargs="+", type=float, help="share of each; equal shares if omitted")
    parser.add_argument("--unet_only", action="store_true", help="mix the denoiser alone; the rest is the first model's")
    parser.add_argument("--device", default="cpu", help="where to compute")
    parser.add_argument("--precision", choices=["float", "fp16", "bf16"], default="float", help="precision of the sums")
    parser.add_argument("--saving_precision", choices=["float", "fp16", "bf16"], default="float", help="precision of the file")
    parser.add_argument("--show_skipped", action="store_true", help="list what not every model has")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, mix, write."""
    output = file.Output.of(args.output, args.saving_precision, *(args.models or []), flag="--output")
    request = mix.MixRequest.of(args.models, args.ratios, args.unet_only, (args.device, args.precision))
    done = mix.mix(request, output)
    command.tell(f"{output.path}: {done.mixed} tensors mixed from {len(args.models)} models")
    if done.partly:
        command.tell(f"{len(done.partly)} tensors are not in every model" + ("" if args.show_skipped else " (--show_skipped)"))
    for name in done.partly if args.show_skipped else ():
        command.tell(f"  {name}")


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
