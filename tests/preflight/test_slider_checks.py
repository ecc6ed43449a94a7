"""What the start-up checks say of slider runs, beyond one bad run each."""

from __future__ import annotations

import pytest

from .cases import slider
from .world import World, fire


def test_neutral_pictures_alone_stop_a_run_that_would_learn_nothing_from_them(world: World) -> None:
    found = fire("slider_one_sign", slider(world, 0, 0))
    assert [problem.severity for problem in found] == ["stop"] and "slider_strength = -1" in found[0].remedy
    assert not fire("slider_one_sign", slider(world, 0, 0, slider_neutral="plain"))
    assert not fire("slider_one_sign", slider(world, 0.5, -0.5))


@pytest.mark.parametrize(("steps", "more", "speaks"), [
    (1, {}, False), (2, {}, False), (3, {}, True), (3, {"slider_pairing": "filename"}, False),
    (3, {"machine": {"env": {"WORLD_SIZE": "2"}}}, False)])
def test_accumulated_steps_are_judged_by_the_turns_they_hold(world: World, steps: int, more: dict, speaks: bool) -> None:
    assert bool(fire("slider_steps", slider(world, gradient_accumulation_steps=steps, **more))) is speaks


def test_the_steps_that_are_announced_are_those_of_balanced_sides(world: World) -> None:
    context = slider(world, second=3, train_batch_size=1, max_train_epochs=1, max_train_steps=None)
    assert "24 steps an epoch" in fire("plan_steps", context)[0].what
