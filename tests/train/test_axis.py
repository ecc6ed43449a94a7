"""The axis between a slider's two ends, found in latents."""

from __future__ import annotations

import pytest
import torch

from library.train.axis import between, described


def latents(count: int, seed: int, place: float = 0.0, level: float = 0.0) -> list[torch.Tensor]:
    """A blob of drawn size and sign in noise, ``place`` right of the middle, over a drawn level."""
    draw = torch.Generator().manual_seed(seed)
    x_W = torch.linspace(-1, 1, 12)
    found = []
    for _ in range(count):
        width, sign = 0.2 + 0.2 * torch.rand((), generator=draw), torch.rand((), generator=draw)
        own = torch.randn((), generator=draw)
        blob_HW = torch.exp(-((x_W - place) ** 2 + x_W[:, None] ** 2) / width**2) * (3 if sign > 0.5 else -3)
        level_1 = level + 0.3 * own
        found.append(torch.stack([blob_HW + level_1, -blob_HW]) + 0.1 * torch.randn((2, 12, 12), generator=draw))
    return found


@pytest.mark.parametrize("what", ["place", "level"])
def test_pictures_half_way_to_an_end_lie_half_way_along_the_axis(what):
    axis = between(latents(24, 1, **{what: 0.4}), latents(24, 2, **{what: -0.4}))
    high, low = (float(axis.along(described(latents(48, 3, **{what: value}))).mean()) for value in (0.2, -0.2))
    assert axis.certain
    assert (high - low) / 2 == pytest.approx(0.5, rel=0.12)


def test_two_sides_that_do_not_differ_have_no_axis_to_be_certain_of():
    assert not any(between(latents(12, seed), latents(12, seed + 50)).certain for seed in range(5))
    assert between(latents(2, 1), latents(2, 2)) is None


def test_six_pairs_tell_what_six_pictures_a_side_cannot():
    pairs = latents(6, 5, level=0.1), latents(6, 5, level=-0.1)
    assert between(*pairs, paired=True).certainty > 3 * between(*pairs).certainty
