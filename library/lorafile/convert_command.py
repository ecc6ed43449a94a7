"""What the conversion commands do: a LoRA file under another format's names."""

from __future__ import annotations

import argparse

from library.lorafile import convert
from library.lorafile.command import tell
from library.lorafile.file import Output, read, write
from library.util.records import Problem, UserError
from library.util.said import say
from networks import keys

WORDS: dict[str, keys.FileFormat] = {"sd-scripts": "kohya", "ai-toolkit": "diffusers", "kohya": "kohya", "comfy": "comfy",
                                     "diffusers": "diffusers"}
"""Format names of the commands -> ours. ai-toolkit's files have diffusers' names (``transformer.``)."""


def format_called(flag: str, word: str) -> keys.FileFormat:
    """Raises UserError for a word that names no format."""
    if word not in WORDS:
        raise UserError(Problem(f"{flag} {word}", "No format is called that.", say("Give one of {words}.", words=WORDS)))
    return WORDS[word]


def convert_file(output: Output, source: str, to: keys.FileFormat, family: str | None = None,
                 wanted: keys.FileFormat | None = None) -> None:
    """Read, rename, write; ``wanted`` is the format that the file was said to have.

    Raises UserError where it has another, or nothing of it belongs to a known model.
    """
    lora = read(source)
    if wanted is not None and lora.identity.format != wanted:
        raise UserError(Problem(source, say("Its names are {value}'s, not {wanted}'s.", value=lora.identity.format, wanted=wanted),
                                "Say what it is, or use networks/convert_lora.py, which finds out."))
    tensors, unknown = convert.convert(lora, to, family)
    saved = write(output, tensors, lora.metadata)
    tell(f"{saved.path}: {len(lora.modules) - len(unknown)} modules, {to} format")
    if unknown:
        tell(f"{len(unknown)} modules are of no layer of this architecture (the first: {unknown[0]}); left out.")


def comfy_parser(description: str) -> argparse.ArgumentParser:
    """Flags of kohya's ``convert_*_lora_to_comfy.py``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("src_path", help="the LoRA file")
    parser.add_argument("dst_path", help="the file to write")
    parser.add_argument("--reverse", action="store_true", help="from ComfyUI's names to kohya's")
    return parser


def to_comfy(args: argparse.Namespace) -> None:
    """What these commands do: read, rename, write. Raises UserError."""
    output = Output.of(args.dst_path, None, args.src_path, flag="dst_path")
    convert_file(output, args.src_path, "kohya" if args.reverse else "comfy")
