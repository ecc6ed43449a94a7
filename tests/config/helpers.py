"""A stand-in for a family, and short ways to read settings in tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from library.config.resolve import Detected, resolve
from library.config.toml_file import read_command
from library.flags import SCRIPTS, parse

NEEDED = [
    "--pretrained_model_name_or_path=model.safetensors",
    "--train_data_dir=train",
    "--output_dir=out",
    "--resolution=512",
]


@dataclass(frozen=True)
class Options:
    v2: bool = False
    v_parameterization: bool = False
    clip_skip: int | None = None


SPEC = SimpleNamespace(title="A Model", bucket_step=64, save_formats=("kohya", "diffusers"), recommended={},
                       distilled_marks=(), scripts=tuple(SCRIPTS))
FAMILY = SimpleNamespace(SPEC=SPEC, Options=Options)


def resolved(argv=(), script="train_network.py", needed=True, **found):
    """The RunConfig of a command line; ``found`` are option values detected in the model's file."""
    flags = parse([*(NEEDED if needed else []), *argv], script)
    return resolve(flags, lambda source, flags: Detected("some", found), lambda name: FAMILY)


def from_file(folder: Path, text: str, argv=(), script="train_network.py", name="a.toml"):
    """Flags of a command line whose settings file holds ``text``."""
    path = folder / name
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return read_command(["--config_file", str(path), *argv], script)


def notes(flags) -> str:
    return "\n".join(f"{one.where}: {one.what} {one.remedy}" for one in flags.notes)
