"""Makes docs/architectures.md from the families' specs: ``python tools/architectures.py``."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from library.families import registry  # noqa: E402  (needs the path above)
from library.families.interface import Family  # noqa: E402
from library.flags import flags_of  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
HEAD = """# Architectures

Made by `python tools/architectures.py` from `library/families/`. The base model decides what is trained, whichever
script is started: `python train_network.py` takes every model of this page, as a single file or a diffusers folder. A
diffusers folder holds everything; a single file needs the files that its row names beside it, where it does not hold them.

| model | script with its own defaults | further files | pictures | LoRA on text encoders | Sliders |
|---|---|---|---|---|---|"""


def files_of(family: Family) -> list[str]:
    """Options of the family that name a file, as flags of its first script."""
    known = flags_of(family.SPEC.scripts[0])
    return [one.name for one in fields(family.Options) if one.name in known and known[one.name].path]


def command(family: Family) -> list[str]:
    """A command that trains this architecture from a single file."""
    files = [f"--{name}={name}.safetensors" for name in files_of(family)]
    side = family.SPEC.default_resolution
    advice = ["--recommended"] if family.SPEC.recommended else []
    return ["python", family.SPEC.scripts[0], "--pretrained_model_name_or_path=model.safetensors", *files,
            "--train_data_dir=train", "--caption_extension=.txt", "--output_dir=lora_out", f"--resolution={side},{side}",
            "--enable_bucket", "--network_module=networks.lora", "--network_dim=16", "--network_alpha=16", "--learning_rate=1e-4",
            "--max_train_steps=1600", "--mixed_precision=bf16", "--gradient_checkpointing", "--cache_latents", *advice]


def page() -> str:
    """The whole page."""
    families = [registry.get(name) for name in registry.names()]
    return "\n".join([HEAD, *map(_row, families), "", *(line for family in families for line in _section(family))])


def _row(family: Family) -> str:
    spec = family.SPEC
    trained = [slot.part for slot in spec.text_slots if slot.trainable]
    cells = (spec.title, f"`{spec.scripts[0]}`", ", ".join(f"`--{name}`" for name in files_of(family)) or "none",
             f"{spec.default_resolution}, in steps of {spec.bucket_step}", ", ".join(f"`{part}`" for part in trained) or "none",
             "LoRA, LyCORIS")
    return f"| {' | '.join(cells)} |"


def _section(family: Family) -> list[str]:
    spec = family.SPEC
    lines = [f"## {spec.title}", ""]
    lines += [f"- `--save_format={name}` loads in {', '.join(programs)}" for name, programs in spec.loads_in.items()]
    if spec.recommended:
        settings = " ".join(f"--{name}={value}" for name, value in spec.recommended.items())
        lines.append(f"- documented as better than the defaults, taken by `--recommended`: `{settings}`")
    return [*lines, "", "```", " ".join(command(family)), "```", ""]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"wrote {PAGE}")
