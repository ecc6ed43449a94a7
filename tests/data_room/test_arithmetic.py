"""Steps by arithmetic: a guide's examples, a study's runs, and the plan that the trainer itself makes."""

from dataclasses import replace
from pathlib import Path

import pytest

from library.config.run_config import DatasetConfig, LoopConfig, SubsetConfig
from library.data.arithmetic import FolderCount, in_words, of_counts, of_plan
from library.data.buckets import BucketRules, Placement
from library.data.loading import step_plan
from library.data.plan import DatasetPlan, Item
from library.data.scan import balanced
from tests.data_room.made import PART

GUIDE = {(10, 10, 10, 2): 500, (20, 5, 10, 4): 250, (100, 1, 10, 4): 250, (1000, 1, 6, 8): 750}
"""(pictures, repeats, epochs, batch) -> steps."""
STUDY = {(13, 36): 2808, (32, 16): 3072, (21, 25): 3150, (57, 10): 3420}
"""(pictures, repeats) -> steps of three epochs at batch 1 beside 400 regularisation pictures."""
SQUARE = Placement((512, 512), (512, 512), 0.0)


def planned(images: int, repeats: int, batch: int, reg: int = 0) -> DatasetPlan:
    """What a scan gives for so many square pictures, without the files."""
    def items(count: int, often: int, is_reg: bool) -> list[Item]:
        return [Item(Path(f"{number}.png"), (512, 512), "", 0, int(is_reg), often, is_reg, SQUARE) for number in range(count)]

    part = replace(PART, batch_size=batch, resolution=(512, 512),
                   subsets=(SubsetConfig(Path("train")), SubsetConfig(Path("reg"), is_reg=True)))
    made = items(images, repeats, False) + balanced(items(reg, 1, True), images * repeats)
    return DatasetPlan(DatasetConfig((part,)), (part,), (), tuple(made), rules=(BucketRules((512, 512)),))


def loop(epochs: int) -> LoopConfig:
    return LoopConfig(max_train_steps=1600, max_train_epochs=epochs, gradient_accumulation_steps=1, seed=0)


@pytest.mark.parametrize(("images", "repeats", "epochs", "batch"), GUIDE)
def test_steps_are_pictures_times_repeats_times_epochs_by_batch(images, repeats, epochs, batch):
    wanted = GUIDE[images, repeats, epochs, batch]
    plan = planned(images, repeats, batch)
    found = of_plan(plan, step_plan(plan, loop(epochs)))
    assert found.steps == wanted and found == of_counts([FolderCount(images, repeats)], batch, epochs)
    assert in_words(found) == [f"{images} pictures, {images * repeats} with repeats / batch {batch} = "
                               f"{wanted // epochs} steps an epoch, x {epochs} epochs = {wanted} steps"]


@pytest.mark.parametrize(("images", "repeats"), STUDY)
def test_regularisation_pictures_double_the_steps_and_this_is_said(images, repeats):
    plan = planned(images, repeats, 1, reg=400)
    found = of_plan(plan, step_plan(plan, loop(3)))
    assert found.steps == STUDY[images, repeats] == 2 * images * repeats * 3
    assert found == of_counts([FolderCount(images, repeats)], 1, 3, regularised=True)
    assert "2 times as long" in in_words(found)[1]


def test_batches_that_buckets_leave_unfilled_are_named():
    plan = planned(3, 1, 2)
    tall = replace(plan.items[0], placement=Placement((256, 512), (256, 512), 0.0))
    plan = replace(plan, items=(tall, *plan.items[1:], replace(tall, placement=Placement((512, 256), (512, 256), 0.0))))
    found = of_plan(plan, step_plan(plan, loop(1)))
    assert found.steps == 3 and "buckets fill their own batches" in in_words(found)[0]


def test_a_picture_that_two_pairs_use_counts_once():
    plan = planned(4, 1, 1)
    plan = replace(plan, items=(*plan.items, plan.items[0], plan.items[0]))
    assert in_words(of_plan(plan, step_plan(plan, loop(1))))[0].startswith("4 pictures, 6 with repeats")


def test_a_run_that_ends_inside_an_epoch_says_so():
    plan = planned(10, 1, 1)
    found = of_plan(plan, step_plan(plan, replace(loop(1), max_train_epochs=None, max_train_steps=25)))
    assert "stopped after 25 steps, in epoch 3" in in_words(found)[0]


def test_a_run_announces_the_arithmetic(caplog):
    from library.train.stages import announce

    plan = planned(13, 36, 1, reg=400)
    with caplog.at_level("INFO"):
        announce(None, plan, step_plan(plan, loop(3)))
    assert "total optimization steps: 2808" in caplog.messages
    assert caplog.messages[-2].endswith("x 3 epochs = 2808 steps") and "2 times as long" in caplog.messages[-1]
