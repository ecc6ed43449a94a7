"""kohya's arguments that give the roles of a transformer's layers ranks of their own (``img_attn_dim=8``), as patterns.

They say what ``network_reg_dims`` says with regular expressions, and are turned into these.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from library.util.records import Problem, Target, UserError

logger = logging.getLogger(__name__)

DOUBLE, SINGLE = r"transformer_blocks\.\d+\.", r"single_transformer_blocks\.\d+\."
IMAGE = {"attn": r"attn2?\.to_(q|k|v|out\.0)", "mlp": r"ff\..*", "mod": r"norm1\..*"}
TEXT = {"attn": r"attn\.(add_(q|k|v)_proj|to_add_out)", "mlp": r"ff_context\..*", "mod": r"norm1_context\..*"}
LUMINA = r"(?:layers|noise_refiner|context_refiner)\.\d+\."
REFINER = r"(?:noise|context)_refiner\.\d+\..*"
MIDDLE = r"layers\.\d+\.(?:attn|feed_forward|norm1)\..*"
"""Lumina's blocks between the refiners; its text encoder has ``layers`` too, of other parts."""
LAST = r"norm_out\..*"
ROLES: Mapping[str, str] = {
    **{f"{front}_{part}_dim": DOUBLE + pattern for front in ("img", "x") for part, pattern in IMAGE.items()},
    **{f"{front}_{part}_dim": DOUBLE + pattern for front in ("txt", "context") for part, pattern in TEXT.items()},
    "single_dim": SINGLE + r"(attn\..*|proj_mlp|proj_out)",
    "single_mod_dim": SINGLE + r"norm\..*",
    "attn_dim": LUMINA + r"attn\..*",
    "mlp_dim": LUMINA + r"feed_forward\..*",
    "mod_dim": LUMINA + r"norm1\..*|norm_out\.linear_1",
    "refiner_dim": REFINER,
}
"""Argument -> paths in diffusers of the layers that it speaks of. The first that holds a layer gives its rank: kohya's order."""
_TIME = r"\.timestep_embedder\..*"
OUTER: Mapping[str, tuple[str, ...]] = {
    "in_dims": ("x_embedder", f"time_text_embed{_TIME}", r"time_text_embed\.text_embedder\..*",
                r"time_text_embed\.guidance_embedder\..*", "context_embedder"),
    "emb_dims": ("context_embedder", f"time_text_embed{_TIME}", r"pos_embed\.proj", r"time_text_embed\.text_embedder\..*",
                 r"norm_out\.linear", "proj_out"),
    "embedder_dims": ("x_embedder", f"time_caption_embed{_TIME}", r"time_caption_embed\.caption_embedder\..*"),
}
"""Argument -> the paths of the layers outside the blocks that each of its numbers speaks of, in kohya's order: Flux (img, time,
vector, guidance, txt), SD 3 (context, time, x, y, the last modulation, the last layer), Lumina (x, time, caption)."""
BLOCKS: Mapping[str, str] = {"train_double_block_indices": "transformer_blocks", "train_block_indices": "transformer_blocks",
                             "train_single_block_indices": "single_transformer_blocks"}
"""Argument -> the list of blocks of which it names those that are trained."""
WHICH: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "all": (".*", ()), "double": (DOUBLE + ".*", (SINGLE + ".*",)), "single": (SINGLE + ".*", (DOUBLE + ".*",)),
    "transformer": (MIDDLE, (REFINER, LAST)), "refiners": (REFINER, (MIDDLE, LAST)),
    "noise_refiner": (r"noise_refiner\..*", (r"context_refiner\..*", MIDDLE, LAST)),
    "context_refiner": (r"context_refiner\..*", (r"noise_refiner\..*", MIDDLE, LAST)),
}
"""``train_blocks`` -> what the model must have for it, and what is left out."""
SPLIT = "split_qkv"


def with_outer(args: Mapping[str, Any], targets: Sequence[Target], outside: Sequence[Target]) -> list[Target]:
    """The targets, and those outside the blocks that ``in_dims``, ``emb_dims`` or ``embedder_dims`` name."""
    wanted = [pattern for name in OUTER if args.get(name) is not None for pattern in OUTER[name]]
    known = {target.name for target in targets}
    return [*targets, *(target for target in outside if target.name not in known
                        and any(re.fullmatch(pattern, target.path) for pattern in wanted))]


def translated(args: Mapping[str, Any], targets: Sequence[Target]) -> dict[str, Any]:
    """The arguments with those of roles and blocks turned into ``network_reg_dims``, behind the user's own patterns.

    Raises UserError that holds every value that cannot be read, and every role that this model does not have.
    """
    found: dict[str, list[str]] = {"left out": [], "dims": []}
    problems: list[Problem] = []
    paths = [target.path for target in targets]
    for name, reader in READERS.items():
        if args.get(name) is None:
            continue
        try:
            needed, pairs = reader.read(name, str(args[name]).strip())
        except (ValueError, KeyError):
            problems.append(Problem(f"--network_args {name}={args[name]}", "This cannot be read.", reader.how(name)))
            continue
        if any(not any(re.fullmatch(pattern, path) for path in paths) for pattern in needed):
            problems.append(Problem(f"--network_args {name}={args[name]}", "This model has no such layers.",
                                    "Leave it out, or use network_reg_dims with patterns on this model's layers."))
        found[reader.kind] += pairs
    if problems:
        raise UserError(*problems)
    rest = {name: value for name, value in args.items() if name not in READERS}
    own = [str(rest["network_reg_dims"])] if rest.get("network_reg_dims") else []
    every = [*found["left out"], *own, *found["dims"]]
    return rest | ({"network_reg_dims": ",".join(every)} if every else {})


Read = tuple[list[str], list[str]]
"""(patterns of which each must match some layer of the model, ``pattern=dim`` pairs)."""


def _role(name: str, text: str) -> Read:
    return [ROLES[name]], [f"{ROLES[name]}={int(text)}"]


def _outer(name: str, text: str) -> Read:
    """``[4,0,0,0,4]``, with or without brackets."""
    numbers = [int(number) for number in text.strip("[]").split(",")]
    pairs = list(zip(OUTER[name], numbers, strict=True))
    return [pattern for pattern, dim in pairs if dim], [f"{pattern}={dim}" for pattern, dim in pairs]


def _blocks(name: str, text: str) -> Read:
    """``all``, ``none``, or numbers and ranges: ``0-3,7``. The others are left out."""
    stem = BLOCKS[name]
    if text in ("all", "none"):
        return [], [] if text == "all" else [rf"{stem}\.\d+\..*=0"]
    numbers: list[str] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += map(str, range(int(first), int(last or first) + 1))
    if not numbers:
        raise ValueError(text)
    return [], [rf"{stem}\.(?!({'|'.join(numbers)})\.)\d+\..*=0"]


def _which(name: str, text: str) -> Read:
    needed, others = WHICH[text]
    return [needed], [f"{pattern}=0" for pattern in others]


def _split(name: str, text: str) -> Read:
    """q, k and v have adapters of their own here in any case, which kohya's True asks for."""
    if {"true": True, "false": False}[text.lower()] is False:
        logger.info("split_qkv=%s: q, k and v have adapters of their own here all the same, each of the network's rank; a file "
                    "in which they are one holds them side by side", text)
    return [], []


@dataclass(frozen=True)
class Reader:
    """How an argument's value becomes pairs, which of them it adds to, and what its value looks like."""

    read: Callable[[str, str], Read]
    kind: str
    how: Callable[[str], str]


def _fixed(text: str) -> Callable[[str], str]:
    return lambda name: text


READERS: Mapping[str, Reader] = {
    **dict.fromkeys(BLOCKS, Reader(_blocks, "left out", _fixed("Write all, none, or numbers and ranges: 0-3,7."))),
    "train_blocks": Reader(_which, "left out", _fixed(f"Write one of {', '.join(WHICH)}.")),
    SPLIT: Reader(_split, "dims", _fixed("Write true or false.")),
    **dict.fromkeys(ROLES, Reader(_role, "dims", _fixed("Give a whole number; 0 leaves these layers out."))),
    **dict.fromkeys(OUTER, Reader(_outer, "dims", lambda name: f"Give {len(OUTER[name])} whole numbers with commas; 0 leaves "
                                                               "these layers out.")),
}
