"""What pictures and captions of a run make likely to go wrong: tags that are tied to the trigger, pictures of one kind."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from library.data.plan import Item
from library.study.likeness import apart
from library.util.said import say

if TYPE_CHECKING:
    import torch

ALWAYS = 0.9
"""Part of the captions from which a tag counts as standing in all of them."""
FEW, ADVISED = 5, 20
"""Pictures that are the least, and that are advised."""
ALIKE = 0.5
"""Mean distance of two training pictures below which they are much the same; unrelated ones have about 1."""
ASIDE, EITHER = 0.15, 0.25
"""How far off the middle (half the width is 1) a subject counts as aside, and the part of pictures on either side that is much."""


def on_tags(items: Sequence[Item]) -> list[str]:
    """Tags that stand beside the trigger in nearly every caption."""
    captions = {str(item.path): item.caption for item in items if not item.is_reg and item.has_caption}
    tags = [[tag.strip() for tag in caption.split(",") if tag.strip()] for caption in captions.values()]
    if len(tags) < FEW:
        return []
    first = {one[0] for one in tags if one}
    trigger = first.pop() if len(first) == 1 else None
    counts = Counter(tag for one in tags for tag in dict.fromkeys(one))
    tied = [tag for tag, count in counts.most_common() if count >= ALWAYS * len(tags) and tag != trigger]
    if not tied:
        return []
    return [say("{tied}: in nearly all of {count} captions; what a tag stands for is learned with it and called by it. Prune tags "
                "of what belongs to the subject (tools/dataset.py tags), keep those of what you want to change",
                tied=_listed(tied), count=len(tags))]


def _listed(tags: Sequence[str], most: int = 6) -> str:
    words = ", ".join(f'"{tag}"' for tag in tags[:most])
    return say("{words} and {count} more", words=words, count=len(tags) - most) if len(tags) > most else words


def on_count(items: Sequence[Item]) -> list[str]:
    """Too few pictures."""
    count = len({str(item.path) for item in items if not item.is_reg})
    if count >= FEW:
        return []
    return [say("{count:picture|pictures}: with fewer than {few} they themselves are learned; {advised} and more are advised",
                count=count, few=FEW, advised=ADVISED)]


def on_latents(latents: Sequence[torch.Tensor]) -> list[str]:
    """Pictures that are much the same, or show their subject now left, now right; latents CHW of one size."""
    if len(latents) < FEW:
        return []
    found: list[str] = []
    distance = statistics.mean(apart(one, other) for one, other in combinations(latents, 2))
    if distance < ALIKE:
        found.append(say("the pictures resemble each other (mean distance {distance:.2f}; unrelated ones have about 1): pose, view "
                         "or background is learned with the subject. Add pictures that differ in it", distance=distance))
    sides = [_off_middle(one) for one in latents]
    left, right = (sum(side * sign > ASIDE for side in sides) / len(sides) for sign in (-1, 1))
    if min(left, right) >= EITHER:
        found.append(say("the subject stands left of the middle in {left:.0%} of the pictures and right of it in {right:.0%}: such "
                         "sets give split views. Crop them so that it stands in the middle (tools/dataset.py crop)",
                         left=left, right=right))
    return found


def _off_middle(latent_CHW: torch.Tensor) -> float:
    """Where what stands out from the picture's mean lies, from -1 (left edge) to 1 (right edge)."""
    import torch

    energy_W = (latent_CHW - latent_CHW.mean((1, 2), keepdim=True)).pow(2).sum((0, 1))
    return float(energy_W @ torch.linspace(-1, 1, len(energy_W)) / energy_W.sum().clamp_min(1e-12))
