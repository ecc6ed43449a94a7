"""What the merge commands do: files into a file, or files into a model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from library.lorafile import merge
from library.lorafile.command import tell
from library.lorafile.file import Output, precision, spelled, write
from library.util.records import Problem, UserError
from library.util.said import say


def add_ways(parser: argparse.ArgumentParser) -> None:
    """``--concat``, ``--shuffle`` and ours."""
    parser.add_argument("--concat", action="store_true", help="the exact sum: ranks add up. Without it factors are added, "
                        "which is a mean of files from one run")
    parser.add_argument("--shuffle", action="store_true", help="put the ranks of each layer in a random order")
    parser.add_argument("--no_overlap", action="store_true", help="take out of each file what the earlier ones already "
                        "act on (for sliders); implies --concat")


def add_model(parser: argparse.ArgumentParser) -> None:
    """``--sd_model`` and ``--v2``."""
    parser.add_argument("--sd_model", help="merge into this model instead of into one file: a checkpoint or a diffusers folder")
    parser.add_argument("--v2", action="store_true", help="the model is SD 2.x; recognised by itself, kept for old commands")


def merge_files(args: argparse.Namespace, lbws: list[str] | None = None) -> None:
    """``--models`` into one LoRA file."""
    output = Output.of(args.save_to, args.save_precision or args.precision, *args.models)
    every = merge.shares(args.models, args.ratios, lbws)
    if args.no_overlap:
        every = _without_overlap(every)
    exact = args.concat or args.no_overlap
    modules = merge.concatenated(every) if exact else merge.add_factors(every)
    if args.shuffle:
        modules = merge.shuffled(modules)
    if not exact and len(every) > 1:
        tell("factors are added as kohya's tool does: a mean of files from one run. For the sum of different LoRAs use "
             "--concat or svd_merge_lora.py.")
    finish(args, every, modules, output)


def _without_overlap(every: list[merge.Share]) -> list[merge.Share]:
    """The files without what earlier ones act on; says how much of each that is."""
    apart = merge.orthogonal(every)
    for before, after in list(zip(every, apart, strict=True))[1:]:
        part = merge.overlap(before, after)
        tell(f"{before.lora.name}: {part:.1%} of its change acted on what earlier files act on, and was taken out"
             + ("; it will be weaker: raise its ratio, give it first, or use --concat" if part > 0.5 else ""))
    return apart


def finish(args: argparse.Namespace, every: list[merge.Share], modules: Mapping, output: Output) -> None:
    """Write a merged LoRA and say so."""
    metadata = merge.metadata_of(every, modules, args.no_metadata, output.path.stem)
    saved = write(output, spelled(modules, every[0].lora.identity.format), metadata)
    tell(f"{saved.path}: {len(modules)} modules, dim {metadata['ss_network_dim']}, alpha {metadata['ss_network_alpha']}")


def merge_into_model(args: argparse.Namespace, source: str, flag: str = "--sd_model", lbws: list[str] | None = None,
                     device: str | None = None) -> None:
    """``--models`` into a model's files."""
    from library.lorafile.merge_model import merge_into
    from library.lorafile.modelfile import open_model

    if args.concat or args.shuffle or args.no_overlap:
        raise UserError(
            Problem(
                "--concat, --shuffle, --no_overlap",
                say("These are about LoRA files, but {flag} is given.", flag=flag),
                say("Leave them out, or leave {flag} out.", flag=flag),
            )
        )
    if not args.save_to:
        raise UserError(Problem("--save_to", "It says where the result goes, and is missing.", "Add --save_to=NAME."))
    every = merge.shares(args.models, args.ratios, lbws)
    model = open_model(source, flag)
    word = precision(args.save_precision or args.precision)
    done = merge_into(model, every, Path(args.save_to), word, device)
    tell(f"{args.save_to}: {done.changed} of {len(model.slots)} layers changed")
    if done.unknown:
        tell(f"{len(done.unknown)} modules are not in this model (the first: {done.unknown[0]}); they were left out.")
