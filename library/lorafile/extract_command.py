"""What the extraction commands share."""

from __future__ import annotations

import argparse

from library.lorafile import command, extract
from library.lorafile.file import Output, write
from library.lorafile.modelfile import open_model
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys


def add_flags(parser: argparse.ArgumentParser) -> None:
    """kohya's flags that all extraction commands have, and ours."""
    command.add_saving(parser, "float if omitted")
    command.add_device(parser)
    parser.add_argument("--model_org", required=True, help="the model before: a checkpoint or a diffusers folder")
    parser.add_argument("--model_tuned", required=True, help="the model after")
    parser.add_argument("--dim", type=int, default=4, help="rank of the LoRA")
    parser.add_argument("--clamp_quantile", type=float, default=0.99,
                        help="values are limited to this quantile; 1 leaves them as they are, which is closer to the model")
    parser.add_argument("--full_svd", action="store_true", help="decompose exactly instead of by random projection (slow)")
    parser.add_argument("--no_metadata", action="store_true", help="write only the few metadata that programs need")


def extract_to_file(args: argparse.Namespace, conv_dim: int | None, min_diff: float) -> None:
    """``--model_tuned`` minus ``--model_org`` as a LoRA file; says how much of the difference it holds."""
    output = Output.of(args.save_to, args.save_precision, args.model_org, args.model_tuned)
    if min(args.dim, conv_dim or args.dim) < 1 or not 0 < args.clamp_quantile <= 1:
        raise UserError(
            Problem(
                "--dim, --clamp_quantile",
                say("{dim} and {clamp_quantile} cannot both be used.", dim=args.dim, clamp_quantile=args.clamp_quantile),
                "Give a rank of 1 or more, and a quantile above 0 and up to 1.",
            )
        )
    request = extract.ExtractRequest(args.dim, conv_dim, args.clamp_quantile, min_diff, args.full_svd, args.device)
    original, tuned = (open_model(path, flag) for path, flag in ((args.model_org, "--model_org"),
                                                                 (args.model_tuned, "--model_tuned")))
    modules, reports = extract.extract(original, tuned, request)
    metadata = extract.metadata_of(original, request, output.path.stem, args.no_metadata)
    saved = write(output, keys.flatten(modules), metadata)
    error = extract.error_of(reports)
    command.tell(f"{saved.path}: {len(modules)} modules; {error:.2%} of the difference is lost (Frobenius norm)")
    for report in sorted(reports, key=lambda r: -r.lost)[:3]:
        own = (report.lost / report.whole) ** 0.5 if report.whole else 0.0
        command.tell(f"  most of it in {report.stem}: {own:.2%} of its own")
