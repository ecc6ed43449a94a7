"""Makes docs/architectures.md from the families' specs: ``python tools/architectures.py``."""

from __future__ import annotations

import sys
from dataclasses import fields, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from library.families import registry, released  # noqa: E402  (needs the path above)
from library.families.interface import Family  # noqa: E402
from library.flags import flags_of  # noqa: E402
from library.preflight.estimate import GIB, Load, Size, adapter_size, gpu_bytes, shown_bytes  # noqa: E402

LYCORIS = "lycoris.kohya"
SLIDERS = {"LoRA": ("networks.lora", {}), "LyCORIS": (LYCORIS, {"algo": "lokr"}), "full": (LYCORIS, {"algo": "full"})}
"""What the Sliders column names -> network module and arguments; tests/families/test_slider_kinds.py trains each of them."""
PAGE = ROOT / "docs" / "architectures.md"
HEAD = """# Architectures

Made by `python tools/architectures.py` from `library/families/`. The base model decides what is trained, whichever
script is started: `python train_network.py` takes every model of this page, as a single file or a diffusers folder. A
diffusers folder (or its hub id) holds everything; a single file needs the files that its row names beside it, where it does
not hold them. A file that is cut into pieces (`...-00001-of-00003.safetensors`) is given by its first piece, a text encoder
also by its folder.

| model | script with its own defaults | further files | pictures | LoRA on text encoders | Sliders |
|---|---|---|---|---|---|"""
MEMORY_HEAD = """## Memory

GPU memory while steps are taken, estimated by the sum that the start-up check uses (meant to be right within a factor of
two): one picture at the resolution of the table above, dim 16, `--gradient_checkpointing`, `--cache_latents`, and (but for
Stable Diffusion) `--cache_text_encoder_outputs`. While captions are encoded, the text encoders have the card to themselves.
Main memory holds denoiser and text encoders while they are loaded, about 2 GB for each billion.

| model | weights: denoiser + text encoders | bf16 | `--fp8_base` | `--base_quantization=nf4` | nf4 and `--blocks_to_swap=N` |
|---|---|---|---|---|---|"""


def files_of(family: Family) -> list[str]:
    """Options of the family that name a file, as flags of its first script."""
    known = flags_of(family.SPEC.scripts[0])
    return [one.name for one in fields(family.Options) if one.name in known and known[one.name].path]


CARDS = (12, 24)
"""Gigabytes of the graphics cards that the commands are made for, the smallest that will do."""
FULL = 0.95
"""How much of a card a run may take."""


def load_of(family: Family, one: released.Released) -> Load:
    """What one published model puts on a graphics card with the settings of the page's commands."""
    billion = released.BILLION
    staying = 0 if family.SPEC.target_space == "flow" else (one.text + one.vae) * billion
    return Load(Size(one.denoiser * billion, staying, one.blocks), adapter_size(16, one.denoiser * billion),
                units=family.SPEC.default_resolution**2 / 512**2)  # fmt: skip


def savers(family: Family) -> tuple[int, list[str]]:
    """(card in GB, flags) with which the family's first published model fits, by the gentlest way there is."""
    load = load_of(family, released.of(family.SPEC.name)[0])
    ways = [([], load), (["--fp8_base"], replace(load, kept="fp8")), (["--base_quantization=nf4"], replace(load, kept="nf4"))]
    ways += [(["--base_quantization=nf4", f"--blocks_to_swap={n}"], replace(load, kept="nf4", swapped=n))
             for n in range(1, load.size.blocks + 1)]  # fmt: skip
    return next((card, flags) for card in CARDS for flags, way in ways if gpu_bytes(way) <= FULL * card * GIB)


def command(family: Family) -> list[str]:
    """A command that trains this architecture from the files that its section lists."""
    given = {flag: place.rpartition("/")[2] for flag, place in released.of(family.SPEC.name)[0].files.items()}
    side, flows = family.SPEC.default_resolution, family.SPEC.target_space == "flow"
    further = ["--cache_text_encoder_outputs", "--network_train_unet_only"] if flows else []
    advice = ["--recommended"] if family.SPEC.recommended else []
    return ["python", family.SPEC.scripts[0], *(f"--{flag}={name}" for flag, name in given.items()),
            "--train_data_dir=train", "--caption_extension=.txt", "--output_dir=lora_out", f"--resolution={side},{side}",
            "--enable_bucket", "--network_module=networks.lora", "--network_dim=16", "--network_alpha=16", "--learning_rate=1e-4",
            "--max_train_steps=1600", "--mixed_precision=bf16", "--gradient_checkpointing", "--cache_latents", *further,
            *savers(family)[1], *advice]


def page() -> str:
    """The whole page."""
    families = [registry.get(name) for name in registry.names()]
    memory = [_memory_row(family, one) for family in families for one in released.of(family.SPEC.name)]
    return "\n".join([HEAD, *map(_row, families), "", MEMORY_HEAD, *memory, "",
                      *(line for family in families for line in _section(family))])


def _row(family: Family) -> str:
    spec = family.SPEC
    trained = [slot.part for slot in spec.text_slots if slot.trainable]
    cells = (spec.title, f"`{spec.scripts[0]}`", ", ".join(f"`--{name}`" for name in files_of(family)) or "none",
             f"{spec.default_resolution}, in steps of {spec.bucket_step}", ", ".join(f"`{part}`" for part in trained) or "none",
             ", ".join(SLIDERS))
    return f"| {' | '.join(cells)} |"


def _memory_row(family: Family, one: released.Released) -> str:
    load, half = load_of(family, one), one.blocks // 2
    ways = (load, replace(load, kept="fp8"), replace(load, kept="nf4"), replace(load, kept="nf4", swapped=half))
    sums = [shown_bytes(gpu_bytes(way)) for way in ways]
    cells = (one.name, f"{one.denoiser:.1f} + {one.text:.1f} billion", *sums[:3], f"{sums[3]} (N = {half})")
    return f"| {' | '.join(cells)} |"


def _section(family: Family) -> list[str]:
    spec = family.SPEC
    lines = [f"## {spec.title}", "", *_where(spec.name), ""]
    lines += [f"- `--save_format={name}` loads in {', '.join(programs) or 'none of them as it is'}"
              for name, programs in spec.loads_in.items()]  # fmt: skip
    if spec.recommended:
        settings = " ".join(f"--{name}={value}" for name, value in spec.recommended.items())
        lines.append(f"- documented as better than the defaults, taken by `--recommended`: `{settings}`")
    lines += [f"- the tokenizer of {slot.tokenizer_of} does not ship: it is downloaded once, or lies beside the text encoder's file"
              for slot in spec.text_slots if slot.tokenizer_of]  # fmt: skip
    return [*lines, "", f"On a card with {savers(family)[0]} GB:", "", "```", " ".join(command(family)), "```", ""]


def _where(name: str) -> list[str]:
    """Where the published models lie, and the single files of the first of them."""
    lines = []
    for one in released.of(name):
        folder = f" as a folder from {_hub(one.folder)}" if one.folder else ""
        gate = "; log in and accept the terms there first" if one.gated else ""
        lines.append(f"- {one.name}{folder} (licence: {one.licence}{gate})" + (f". {one.remark}" if one.remark else ""))
    return lines + [f"- `--{flag}`: {_file(place)}" for flag, place in released.of(name)[0].files.items()]


def _hub(repo: str) -> str:
    return f"[{repo}](https://huggingface.co/{repo})"


def _file(place: str) -> str:
    """``owner/name/path`` in words."""
    owner, name, path = place.split("/", 2)
    what = "" if "." in path.rpartition("/")[2] else "the folder "
    return f"{what}`{path}` of {_hub(f'{owner}/{name}')}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"wrote {PAGE}")
