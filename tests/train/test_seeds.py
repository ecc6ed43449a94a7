import random

import torch

from library.train.seeds import derive, derived_seeds, seed_everything, skip_uniform_draws


def test_a_batch_draws_the_same_numbers_whatever_came_before():
    seed_batch = derived_seeds(7)
    seed_batch(3)
    first = torch.rand(4), random.random()
    torch.rand(100), random.random()
    seed_batch(3)
    assert torch.equal(first[0], torch.rand(4)) and first[1] == random.random()


def test_seeds_differ_between_batches_and_between_runs():
    assert len({derive(seed, "batch", number) for seed in range(20) for number in range(20)}) == 400


def test_derived_seeds_are_the_same_everywhere():
    assert derive(42, "batch", 0) == 1666473669635699692


def test_skipping_draws_equals_drawing_them():
    seed_everything(1)
    torch.empty(100_003).uniform_()
    expected = torch.rand(3)
    seed_everything(1)
    skip_uniform_draws(100_003, chunk=4096 * 4)
    assert torch.equal(expected, torch.rand(3))
