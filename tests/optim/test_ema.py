"""Averages of the adapter's parameters."""

import pytest
import torch

from library.optim.ema import Ema, constant_decay, power_decay


def moving(decay, values):
    parameter = torch.nn.Parameter(torch.tensor([values[0]]))
    ema = Ema([parameter], decay)
    for value in values[1:]:
        with torch.no_grad():
            parameter.fill_(value)
        ema.update()
    return parameter, ema


def test_constant_decay_follows_its_formula():
    values = [0.0, 1.0, 3.0, 2.0]
    _, ema = moving(lambda step: 0.9, values)
    expected = 0.0
    for value in values[1:]:
        expected = 0.9 * expected + 0.1 * value
    assert ema.averages[0].item() == pytest.approx(expected)


def test_constant_decay_is_reached_gradually():
    decay = constant_decay(0.999)
    assert decay(1) == pytest.approx(2 / 11) and decay(10**6) == 0.999


def test_power_decay_weighs_the_past_by_a_power_whose_width_was_asked_for():
    decay, count = power_decay(0.1), 4000
    weights = torch.zeros(count, dtype=torch.float64)
    for step in range(1, count + 1):
        weights *= decay(step)
        weights[step - 1] += 1 - decay(step)
    times = torch.linspace(1 / count, 1, count, dtype=torch.float64)
    mean = (weights * times).sum()
    assert ((weights * (times - mean) ** 2).sum().sqrt()).item() == pytest.approx(0.1, rel=0.01)


def test_averages_are_in_place_inside_the_block_only():
    parameter, ema = moving(constant_decay(0.9), [0.0, 1.0, 2.0])
    before = parameter.detach().clone()
    with ema.applied():
        assert torch.equal(parameter.detach(), ema.averages[0])
    assert torch.equal(parameter.detach(), before)


def test_averages_are_in_place_inside_the_block_even_if_it_fails():
    parameter, ema = moving(constant_decay(0.9), [0.0, 1.0])
    with pytest.raises(RuntimeError), ema.applied():
        raise RuntimeError
    assert parameter.item() == 1.0


def test_resumed_averages_equal_unbroken_ones():
    _, unbroken = moving(constant_decay(0.9), [0.0, 1.0, 2.0, 5.0])
    parameter, half = moving(constant_decay(0.9), [0.0, 1.0, 2.0])
    again = Ema([parameter], constant_decay(0.9))
    again.load_state_dict(half.state_dict())
    with torch.no_grad():
        parameter.fill_(5.0)
    again.update()
    assert torch.equal(again.averages[0], unbroken.averages[0])
