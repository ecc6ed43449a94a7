"""Cuts a LoRA file to a smaller rank.

    python networks/resize_lora.py --model BIG.safetensors --save_to SMALL.safetensors --new_rank 16
    python networks/resize_lora.py ... --new_rank 64 --dynamic_method sv_fro --dynamic_param 0.9     a rank for each layer

LoHa and LoKr files become LoRA.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from library.lorafile import command, file, resize


def setup_parser() -> argparse.ArgumentParser:
    """kohya's flags."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    command.add_saving(parser)
    command.add_device(parser)
    parser.add_argument("--model", required=True, help="the file to resize")
    parser.add_argument("--new_rank", type=int, default=4, help="new rank; with --dynamic_method the largest there may be")
    parser.add_argument("--new_conv_rank", type=int, help="the same for convolutions; as --new_rank if omitted")
    parser.add_argument("--dynamic_method", choices=["sv_ratio", "sv_fro", "sv_cumulative"], help="choose each layer's rank: "
                        "values above the largest / PARAM; PARAM of the Frobenius norm; PARAM of the values' sum")
    parser.add_argument("--dynamic_param", type=float, help="the figure that --dynamic_method aims at")
    parser.add_argument("--verbose", action="store_true", help="a line for every layer")
    return parser


def work(args: argparse.Namespace) -> None:
    """Read, cut, write."""
    output = file.Output.of(args.save_to, args.save_precision, args.model)
    dynamic = (args.dynamic_method, args.dynamic_param)
    request = resize.ResizeRequest.of(args.new_rank, args.new_conv_rank, dynamic, args.device)
    lora = file.read(args.model)
    modules, report = resize.resize(lora, request)
    if args.verbose:
        for r in report:
            command.tell(f"{r.stem:75} | sum(S) kept {r.sum_kept:.1%}, norm kept {r.norm_kept:.1%}, "
                         f"max(S) ratio {r.ratio:.1f}, dim {r.rank}, alpha {r.alpha:g}")
    tensors = {**file.spelled(modules, lora.identity.format), **lora.rest}
    saved = file.write(output, tensors, resize.metadata_after(lora, request, report))
    command.tell(f"{saved.path}: {resize.summary(report)}")


if __name__ == "__main__":
    sys.exit(command.run(setup_parser(), work))
