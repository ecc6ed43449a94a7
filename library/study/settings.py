"""What programs beside training take from a training run's settings file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from library.config.toml_file import read_command
from library.flags import Flags
from library.save.names import FileNames


def read(file: Path, script: str = "train_network.py") -> Flags:
    """The settings of a run; UserError with everything that is wrong in the file."""
    return read_command(["--config_file", str(file)], script)


def run_of(file: Path) -> dict[str, Any]:
    """Base model, last LoRA, prompts, picture size, pictures of a run, by the names of the programs' flags."""
    flags = read(file)
    name = FileNames(flags["output_name"] or "last", flags["save_model_as"]).last()
    width, height = _size(flags["resolution"])
    return {"pretrained_model_name_or_path": flags["pretrained_model_name_or_path"], "vae": flags["vae"],
            "clip_skip": flags["clip_skip"], "lora": str(Path(flags["output_dir"]) / name) if flags["output_dir"] else None,
            "sample_prompts": flags["sample_prompts"],
            "sampler": flags["sample_sampler"] if flags.given("sample_sampler") else None,
            "train_data_dir": flags["train_data_dir"], "width": width, "height": height}


def _size(resolution: Any) -> tuple[int | None, int | None]:
    """(width, height) of ``--resolution`` as typed: ``512``, ``512,768``, or None."""
    sides = [int(one) for one in str(resolution or "").replace(" ", "").strip("()[]").split(",") if one.isdigit()]
    return (sides[0], sides[-1]) if sides else (None, None)
