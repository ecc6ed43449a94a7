"""kohya's arguments that give the roles of a transformer's layers ranks of their own (``img_attn_dim=8``), as patterns.

They say what ``network_reg_dims`` says with regular expressions, and are turned into these.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from library.util.records import Problem, Target, UserError

DOUBLE, SINGLE = r"transformer_blocks\.\d+\.", r"single_transformer_blocks\.\d+\."
IMAGE = {"attn": r"attn2?\.to_(q|k|v|out\.0)", "mlp": r"ff\..*", "mod": r"norm1\..*"}
TEXT = {"attn": r"attn\.(add_(q|k|v)_proj|to_add_out)", "mlp": r"ff_context\..*", "mod": r"norm1_context\..*"}
ROLES: Mapping[str, str] = {
    **{f"{front}_{part}_dim": DOUBLE + pattern for front in ("img", "x") for part, pattern in IMAGE.items()},
    **{f"{front}_{part}_dim": DOUBLE + pattern for front in ("txt", "context") for part, pattern in TEXT.items()},
    "single_dim": SINGLE + r"(attn\..*|proj_mlp|proj_out)",
    "single_mod_dim": SINGLE + r"norm\..*",
}
"""Argument -> the paths in diffusers of the layers that it speaks of."""
BLOCKS: Mapping[str, str] = {"train_double_block_indices": "transformer_blocks", "train_block_indices": "transformer_blocks",
                             "train_single_block_indices": "single_transformer_blocks"}
"""Argument -> the list of blocks of which it names those that are trained."""
WHICH = {"all": (), "double": (SINGLE + ".*",), "single": (DOUBLE + ".*",)}
"""``train_blocks`` -> what is left out."""
_PATTERNS = "Write network_reg_dims=REGEX=DIM with a pattern on the layers' paths in diffusers."
NOT_HERE: Mapping[str, str] = {
    "in_dims": "Leave it out: only the layers of the blocks get adapters.",
    "emb_dims": "Leave it out: only the layers of the blocks get adapters.",
    "embedder_dims": "Leave it out: only the layers of the blocks get adapters.",
    "split_qkv": "Leave it out: q, k and v always have adapters of their own while training, and are put together where "
                 "the file's format wants one.",
    **dict.fromkeys(("attn_dim", "mlp_dim", "mod_dim", "refiner_dim"), _PATTERNS),
}
"""kohya's arguments of this kind that do not work here -> the way out."""


def translated(args: Mapping[str, Any], targets: Sequence[Target]) -> dict[str, Any]:
    """The arguments with those of roles and blocks turned into ``network_reg_dims``, behind the user's own patterns.

    Raises UserError that holds every value that cannot be read, and every role that this model does not have.
    """
    left_out: list[str] = []
    dims: list[str] = []
    problems: list[Problem] = []
    readers: dict[str, tuple[Callable[[str, str], list[str]], list[str]]] = {
        **dict.fromkeys(ROLES, (_role, dims)), **dict.fromkeys(BLOCKS, (_blocks, left_out)), "train_blocks": (_which, left_out)}
    paths = [target.path for target in targets]
    for name in [name for name in args if name in readers and args[name] is not None]:
        read, found = readers[name]
        try:
            pairs = read(name, str(args[name]).strip())
        except (ValueError, KeyError):
            problems.append(Problem(f"--network_args {name}={args[name]}", "this cannot be read", _HOW[read]))
            continue
        if name in ROLES and not any(re.fullmatch(ROLES[name], path) for path in paths):
            problems.append(Problem(f"--network_args {name}={args[name]}", "this model has no such layers",
                                    "Leave it out, or use network_reg_dims with patterns on this model's layers."))
        found += pairs
    if problems:
        raise UserError(*problems)
    rest = {name: value for name, value in args.items() if name not in readers}
    own = [str(rest["network_reg_dims"])] if rest.get("network_reg_dims") else []
    every = [*left_out, *own, *dims]
    return rest | ({"network_reg_dims": ",".join(every)} if every else {})


def _role(name: str, text: str) -> list[str]:
    return [f"{ROLES[name]}={int(text)}"]


def _blocks(name: str, text: str) -> list[str]:
    """``all``, ``none``, or numbers and ranges: ``0-3,7``. The others are left out."""
    stem = BLOCKS[name]
    if text in ("all", "none"):
        return [] if text == "all" else [rf"{stem}\.\d+\..*=0"]
    numbers: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += map(str, range(int(first), int(last or first) + 1))
    if not numbers:
        raise ValueError(text)
    return [rf"{stem}\.(?!({'|'.join(numbers)})\.)\d+\..*=0"]


def _which(name: str, text: str) -> list[str]:
    return [f"{pattern}=0" for pattern in WHICH[text]]


_HOW = {_role: "Give a whole number; 0 leaves these layers out.", _blocks: "Write all, none, or numbers and ranges: 0-3,7.",
        _which: f"Write one of {', '.join(WHICH)}."}
