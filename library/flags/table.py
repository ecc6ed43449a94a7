"""All flags in one table, looked up by name and by entry script."""

from __future__ import annotations

from functools import cache

from library.flags import kohya_data, kohya_output, kohya_scripts, kohya_training, ours, sliders
from library.flags.flag import Flag
from library.flags.scripts import SAME_FLAGS, SCRIPTS

GROUPS_FIRST = (
    "Settings files",
    "Model",
    "Files of the model's parts",
    "Text encoders",
    "Pictures",
    "Sizes and buckets",
    "Captions",
    "Augmentation",
    "Network (the LoRA)",
    "Optimizer",
    "Learning rates by part",
    "Learning rate schedule",
    "Length and seed",
    "Loss",
    "Noise and time steps",
    "Flow matching",
    "Precision, memory and speed",
    "Memory of large models",
    "Saving",
)
"""Order of groups in help and docs; groups not named here follow in the order of declaration."""


def _in_order(flags: tuple[Flag, ...]) -> tuple[Flag, ...]:
    groups = list(dict.fromkeys([*GROUPS_FIRST, *(flag.group for flag in flags)]))
    return tuple(sorted(flags, key=lambda flag: groups.index(flag.group)))


KOHYA = _in_order((*kohya_training.FLAGS, *kohya_data.FLAGS, *kohya_output.FLAGS, *kohya_scripts.FLAGS))
OURS = (*ours.FLAGS, *sliders.FLAGS)
BY_NAME = {flag.name: flag for flag in (*KOHYA, *OURS)}
assert len(BY_NAME) == len(KOHYA) + len(OURS), "a flag is declared twice"


@cache
def flags_of(script: str) -> dict[str, Flag]:
    """Flags of an entry script by name, kohya's first; a script that kohya lacks takes those of the first one."""
    known = script if script in SCRIPTS else SAME_FLAGS.get(script, SCRIPTS[0])
    found = (flag.in_script(known) for flag in (*KOHYA, *OURS))
    return {flag.name: flag for flag in found if flag is not None}


def scripts_with(name: str) -> tuple[str, ...]:
    """Entry scripts that take the flag of this name; () where none does."""
    return (BY_NAME[name].scripts or SCRIPTS) if name in BY_NAME else ()
