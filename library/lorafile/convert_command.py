"""What the conversion commands do: a LoRA file under another format's names."""

from __future__ import annotations

from library.lorafile import convert
from library.lorafile.command import tell
from library.lorafile.file import Output, read, write
from library.util.records import Problem, UserError
from networks import keys

WORDS: dict[str, keys.FileFormat] = {"sd-scripts": "kohya", "ai-toolkit": "diffusers", "kohya": "kohya", "comfy": "comfy",
                                     "diffusers": "diffusers"}
"""Format names of the commands -> ours. ai-toolkit's files have diffusers' names (``transformer.``)."""


def format_called(flag: str, word: str) -> keys.FileFormat:
    """Raises UserError for a word that names no format."""
    if word not in WORDS:
        raise UserError(Problem(f"{flag} {word}", "no format is called that", f"Give one of {', '.join(WORDS)}."))
    return WORDS[word]


def convert_file(output: Output, source: str, to: keys.FileFormat, family: str | None = None,
                 wanted: keys.FileFormat | None = None) -> None:
    """Read, rename, write; ``wanted`` is the format that the file was said to have.

    Raises UserError where it has another, or nothing of it belongs to a known model.
    """
    lora = read(source)
    if wanted is not None and lora.identity.format != wanted:
        raise UserError(Problem(source, f"its names are {lora.identity.format}'s, not {wanted}'s",
                                "Say what it is, or use networks/convert_lora.py, which finds out."))
    tensors, unknown = convert.convert(lora, to, family)
    saved = write(output, tensors, lora.metadata)
    tell(f"{saved.path}: {len(lora.modules) - len(unknown)} modules, {to} format")
    if unknown:
        tell(f"{len(unknown)} modules are of no layer of this architecture (the first: {unknown[0]}); left out.")
