import json
import pickle
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.utils.data

from library.config.run_config import DatasetConfig, DatasetPart, SliderOrder, SubsetConfig
from library.data import captions
from library.data.buckets import BucketRules, Placement
from library.data.kohya_order import KohyaOrder
from library.data.order import batch_counts, epoch_order, sign, sign_counts
from library.data.pairs import pair
from library.data.plan import DatasetPlan, Item

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "kohya_order.json").read_text(encoding="utf-8"))


DEFAULT = SliderOrder()


def plan_of(*subsets, batch_size=1, buckets=((64, 64),), slider=DEFAULT):
    """A plan of pictures that exist in name only; each subset: (count, repeats, strength, probability)."""
    configs, items = [], []
    for number, (count, repeats, strength, probability) in enumerate(subsets):
        configs.append(SubsetConfig(Path(f"s{number}"), num_repeats=repeats, slider_strength=strength, probability=probability))
        for index in range(count):
            bucket = buckets[index % len(buckets)]
            items.append(Item(Path(f"s{number}/{index}.png"), bucket, "", 0, number, repeats, False,
                              Placement(bucket, bucket, 0.0), strength))
    part = DatasetPart(tuple(configs), batch_size, enable_bucket=True)
    return DatasetPlan(DatasetConfig((part,), slider=slider), (part,), (), tuple(items))


PLAIN = plan_of((7, 3, None, 1.0), (4, 1, None, 1.0), batch_size=2, buckets=((64, 64), (32, 96)))


def strengths(plan, refs):
    return [plan.items[ref.items[0]].strength for ref in refs]


# -------------------------------------------------------------------------------------------------------------- our order


def test_every_picture_comes_once_an_epoch_for_each_repeat():
    for epoch in range(3):
        seen = Counter(index for ref in epoch_order(PLAIN, 1, epoch) for index in ref.items)
        assert seen == {index: item.repeats for index, item in enumerate(PLAIN.items)}


def test_a_batch_holds_one_bucket_and_only_the_last_of_a_bucket_is_smaller():
    refs = epoch_order(PLAIN, 1, 0)
    buckets = [{PLAIN.items[index].placement.bucket for index in ref.items} for ref in refs]
    assert all(len(one) == 1 for one in buckets)
    for bucket in ((64, 64), (32, 96)):
        sizes = [len(ref.items) for ref, one in zip(refs, buckets, strict=True) if one == {bucket}]
        assert sorted(sizes)[1:] == [2] * (len(sizes) - 1)
    assert len(refs) == batch_counts(PLAIN)


def test_the_order_is_a_function_of_seed_and_epoch_alone():
    random.seed(5)
    first = epoch_order(PLAIN, 1, 2)
    random.seed(6)
    assert epoch_order(pickle.loads(pickle.dumps(PLAIN)), 1, 2) == first
    assert epoch_order(PLAIN, 1, 3) != first != epoch_order(PLAIN, 2, 2)


def test_every_picture_of_an_epoch_has_a_seed_of_its_own():
    seeds = [seed for epoch in range(2) for ref in epoch_order(PLAIN, 1, epoch) for seed in ref.seeds]
    assert len(seeds) == len(set(seeds)) == 2 * 25


def test_slider_batches_hold_one_strength_and_come_positive_negative_neutral():
    plan = plan_of((4, 1, 0.5, 1.0), (4, 1, -0.5, 1.0), (3, 1, 0.0, 1.0), batch_size=2)
    refs = epoch_order(plan, 1, 0)
    assert all(len({plan.items[index].strength for index in ref.items}) == 1 for ref in refs)
    assert strengths(plan, refs) == [0.5, -0.5, 0.0, 0.5, -0.5, 0.0]


def test_a_sign_that_has_run_out_drops_out_of_the_cycle():
    plan = plan_of((5, 1, 1.0, 1.0), (2, 1, -1.0, 1.0), (1, 1, None, 1.0), slider=SliderOrder(balance=False))
    assert [sign(one) for one in strengths(plan, epoch_order(plan, 1, 0))] == [
        "positive", "negative", "neutral", "positive", "negative", "positive", "positive", "positive"]


def test_strengths_of_one_sign_never_share_a_batch():
    plan = plan_of((3, 1, 1.0, 1.0), (3, 1, 0.5, 1.0), (6, 1, -1.0, 1.0), batch_size=3)
    refs = epoch_order(plan, 3, 0)
    assert all(len({plan.items[index].strength for index in ref.items}) == 1 for ref in refs)
    assert [sign(one) for one in strengths(plan, refs)] == ["positive", "negative"] * 2


def test_probabilities_weigh_sets_of_one_sign_until_one_is_used_up():
    plan = plan_of((200, 1, 1.0, 3.0), (200, 1, 1.0, 1.0), (400, 1, -1.0, 1.0))
    refs = epoch_order(plan, 1, 0)
    positive = [plan.items[ref.items[0]].subset for ref in refs if plan.items[ref.items[0]].strength == 1.0]
    assert 0.65 < 1 - sum(positive[:100]) / 100 < 0.85
    assert len(positive) == 400 and sum(positive) == 200


def test_a_slider_set_of_probability_zero_is_left_out():
    plan = plan_of((3, 1, 1.0, 0.0), (2, 1, 1.0, 1.0), (2, 1, -1.0, 1.0))
    refs = epoch_order(plan, 1, 0)
    assert len(refs) == batch_counts(plan) == 4 and all(plan.items[ref.items[0]].subset != 0 for ref in refs)


def test_the_side_with_fewer_pictures_is_gone_through_again():
    plan = plan_of((10, 2, 1.0, 1.0), (3, 1, -1.0, 1.0), (2, 1, 0.0, 1.0), batch_size=2)
    refs = epoch_order(plan, 1, 0)
    signs = [sign(one) for one in strengths(plan, refs)]
    assert signs == ["positive", "negative", "neutral"] + ["positive", "negative"] * 9
    assert sign_counts(plan) == {"positive": 10, "negative": 10, "neutral": 1} and batch_counts(plan) == len(refs)
    used = Counter(index for ref in refs for index in ref.items if plan.items[index].strength == -1.0)
    assert len(used) == 3 and max(used.values()) - min(used.values()) <= 5
    seeds = [seed for ref in refs for seed in ref.seeds]
    assert len(seeds) == len(set(seeds))


def test_two_processes_share_the_cycle_and_a_resumed_epoch_goes_on_in_mid_cycle():
    plan = plan_of((6, 1, 1.0, 1.0), (6, 1, -1.0, 1.0), (6, 1, 0.0, 1.0))
    refs = epoch_order(plan, 1, 3)
    assert [sign(one) for one in strengths(plan, refs[4:][:3])] == ["negative", "neutral", "positive"]
    assert sorted(ref.number for rank in (0, 1) for ref in refs[rank::2]) == list(range(len(refs)))


def paired_plan(names, sizes=None, batch_size=2):
    """A plan whose sides hold pictures of these names: ``(positive names, negative names)``."""
    rules = BucketRules((64, 64), 32, 96, 32)
    items = []
    for number, (side, strength) in enumerate(zip(names, (1.0, -1.0), strict=True)):
        for name in side:
            size = (sizes or {}).get((strength, name), (64, 64))
            items.append(Item(Path(f"s{number}/{name}.png"), size, name, 0, number, 1, False, rules.place(size), strength))
    part = DatasetPart((SubsetConfig(Path("s0"), slider_strength=1.0), SubsetConfig(Path("s1"), slider_strength=-1.0)),
                       batch_size, enable_bucket=True)
    made = pair(items, (rules,))
    return DatasetPlan(DatasetConfig((part,), slider=SliderOrder(pairing="filename")), (part,), (), made.items,
                       partners=made.partners), made


def test_pictures_of_one_name_share_a_batch_and_everything_random():
    plan, made = paired_plan((["a", "b", "c"], ["c", "a", "b"]))
    assert made.by_name == 3
    for ref in epoch_order(plan, 1, 0):
        half = len(ref.items) // 2
        above, below = ref.items[:half], ref.items[half:]
        assert [plan.items[index].path.stem for index in above] == [plan.items[index].path.stem for index in below]
        assert {plan.items[index].strength for index in above} == {1.0}
        assert {plan.items[index].strength for index in below} == {-1.0}
        assert ref.seeds[:half] == ref.seeds[half:] and len(set(ref.seeds)) == half


def test_pairs_lie_in_one_bucket_and_names_without_a_match_go_by_shape():
    plan, made = paired_plan((["a", "wide", "tall"], ["a", "x", "y"]), {
        (1.0, "wide"): (96, 32), (-1.0, "y"): (90, 32), (1.0, "tall"): (32, 96), (-1.0, "x"): (32, 90), (-1.0, "a"): (80, 40)})
    couples = {plan.items[one].path.stem: plan.items[other] for one, other in plan.partners.items()}
    assert made.by_name == 1 and {name: item.path.stem for name, item in couples.items()} == {"a": "a", "wide": "y", "tall": "x"}
    for one, other in plan.partners.items():
        assert plan.items[one].placement.bucket == plan.items[other].placement.bucket


def test_pictures_that_are_left_over_are_paired_with_ones_that_are_used_again():
    plan, _ = paired_plan((["a", "b", "c", "d"], ["a"]))
    assert len(plan.partners) == 4 and {plan.items[other].path.stem for other in plan.partners.values()} == {"a"}
    assert sum(len(ref.items) for ref in epoch_order(plan, 1, 0)) == 8


# ------------------------------------------------------------------------------------------------------------ kohya's order


def recorded_plan(run):
    rules = BucketRules(tuple(run["resolution"]), 64, 256, 64)
    folders = list(dict.fromkeys(key.split("/")[0] for key, *_ in run["images"]))
    subsets = tuple(SubsetConfig(Path(name), shuffle_caption=run["shuffle_caption"], keep_tokens=run["keep_tokens"])
                    for name in folders)
    part = DatasetPart(subsets, 1, enable_bucket=True)
    items = tuple(Item(Path(key), tuple(size), caption, 0, folders.index(key.split("/")[0]), repeats, is_reg,
                       rules.place(tuple(size))) for key, size, repeats, is_reg, caption in run["images"])
    return DatasetPlan(DatasetConfig((part,), kohya_order=True), (part,), (), items, rules=(rules,))


@pytest.mark.parametrize("name", RECORDED)
def test_kohyas_order_equals_recorded_runs_of_kohya(name, monkeypatch):
    run = RECORDED[name]
    plan = recorded_plan(run)
    assert {str(list(size)): count for size, count in plan.bucket_counts(0)} == run["buckets"]
    order = KohyaOrder(plan, seed=42, max_steps=len(run["fetched"]) - 1)
    assert order.dataset_seed == run["dataset_seed"]
    indices = [index for index, *_ in run["fetched"]]  # the sampler's permutation depends on the model's random draws

    def recorded_permutation(self):
        now, indices[:] = indices[:self.batches], indices[self.batches:]
        return now + [index for index in range(self.batches) if index not in now]

    monkeypatch.setattr(KohyaOrder, "_permutation", recorded_permutation)
    fetched = []

    def make(items, moment):
        texts = [captions.make(plan.items[index].caption, plan.parts[0].subsets[plan.items[index].subset], moment, random)
                 for index in items]
        fetched.append([[plan.items[index].path.as_posix() for index in items], texts, moment.epoch, moment.step])

    steps = 0
    for epoch in range(9):
        for _ in order.epoch(epoch, 0, make):
            steps += 1
            if steps == len(run["fetched"]) - 1:
                break
        if steps == len(run["fetched"]) - 1:
            break
    assert fetched == [rest for _, *rest in run["fetched"]]


def test_kohyas_sampler_draws_from_torchs_global_generator_as_its_loader_does():
    order = KohyaOrder(PLAIN, seed=1, max_steps=10)
    torch.manual_seed(3)
    mine = order._permutation()
    after = torch.random.get_rng_state()
    torch.manual_seed(3)
    loader = torch.utils.data.DataLoader(range(order.batches), batch_size=1, shuffle=True)
    assert mine == [int(one) for one in loader] and torch.equal(after, torch.random.get_rng_state())


def test_kohyas_order_leaves_the_random_stream_alone_until_its_first_batch():
    random.seed(9)
    expected = random.Random(9).random()
    KohyaOrder(PLAIN, seed=1, max_steps=10)
    assert random.random() == expected


def test_kohyas_batches_are_shared_out_and_wrap_around():
    plan = replace(PLAIN, config=replace(PLAIN.config, kohya_order=True))
    seen = []
    for rank in range(2):
        order = KohyaOrder(plan, seed=1, max_steps=10, share=(rank, 2))
        torch.manual_seed(0)
        seen.append(list(order.epoch(0, 0, lambda items, moment: items)))
    assert len(seen[0]) == len(seen[1]) == -(-batch_counts(plan) // 2)
