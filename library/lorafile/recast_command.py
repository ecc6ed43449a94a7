"""What ``convert_diffusers20_original_sd.py`` does with its flags."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from library.families import source
from library.families.whole import Whole, open_whole
from library.lorafile import command, recast
from library.lorafile.file import precision, refuse_same
from library.util.records import Problem, UserError
from library.util.said import say


def work(args: argparse.Namespace) -> None:
    """Read, rename, write. Raises UserError where flags contradict each other or the model."""
    target = Path(args.model_to_save)
    if target.suffix.lower() in (".ckpt", ".pt", ".pth"):
        raise UserError(Problem(str(target), "Models are written as .safetensors.", "End the name with .safetensors."))
    refuse_same(target, args.model_to_load)
    kind, metadata = wanted_precision(args), metadata_of(args)
    whole = open_whole(args.model_to_load, args.variant)
    _check_version(args, whole)
    if target.suffix.lower() == ".safetensors":
        count = recast.write_file(whole, target, kind, metadata)
    else:
        folders = ("scheduler", "tokenizer", "tokenizer_2")
        reference = source.locate(args.reference_model, "--reference_model", folders) if args.reference_model else None
        count = recast.write_folder(whole, target, kind, reference)
        if whole.version == "SD 2" and not reference and not whole.parts.options.v_parameterization:
            command.tell("An SD 2 checkpoint seldom says what it predicts; the folder says noise. For a 768-v model give "
                         "--reference_model=FOLDER of one, whose scheduler says velocity.")
    command.tell(f"{target}: {count} tensors of {whole.version}")


def wanted_precision(args: argparse.Namespace) -> str | None:
    """``fp32``, ``fp16``, ``bf16``, or None: as the model has it. Raises UserError where two are asked for."""
    words = {word for word in ("fp16", "bf16", "float") if vars(args)[word] or args.save_precision_as == word}
    if len(words) > 1:
        raise UserError(Problem(", ".join(f"--{w}" for w in sorted(words)), "Only one precision can be written.", "Keep one."))
    return precision(words.pop()) if words else None


def metadata_of(args: argparse.Namespace) -> dict[str, str]:
    """``--metadata`` with epoch and step. Raises UserError where it is no JSON object."""
    try:
        given = json.loads(args.metadata) if args.metadata else {}
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise UserError(Problem(f"--metadata {args.metadata}", "This is not a JSON object.",
                                'Write it as \'{"modelspec.title": "mine"}\'.'))
    steps = {name: str(value) for name, value in (("ss_epoch", args.epoch), ("ss_steps", args.global_step)) if value}
    return {"format": "pt", **steps, **{k: v if isinstance(v, str) else json.dumps(v) for k, v in given.items()}}


def _check_version(args: argparse.Namespace, whole: Whole) -> None:
    for flag, said, version in (("--v1", args.v1, "SD 1"), ("--v2", args.v2, "SD 2")):
        if said and whole.version != version:
            raise UserError(
                Problem(
                    flag,
                    say("{model_to_load} is {version}.", model_to_load=args.model_to_load, version=whole.version),
                    say("Leave {flag} out.", flag=flag),
                )
            )
