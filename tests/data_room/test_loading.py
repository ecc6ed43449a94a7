import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from library.config.run_config import LoopConfig, SubsetConfig
from library.data import images
from library.data.caches import LatentOptions, cache_latents
from library.data.loading import Feed, Pictures, Setting, Sources, check_lengths, step_plan
from library.data.order import epoch_order
from library.data.text_cache import TextOptions, cache_text
from library.util.records import UserError
from tests.data_room.made import PART, TEMPLATE, folder_plan, picture, subsets_plan

RANDOM = replace(TEMPLATE, shuffle_caption=True, flip_aug=True, random_crop=True, color_aug=True, caption_tag_dropout_rate=0.3)


def encode(pixels_BCHW):
    return torch.nn.functional.avg_pool2d(pixels_BCHW, 8)


def many(tmp_path, template=RANDOM, count=7, **part):
    for index in range(count):
        picture(tmp_path / "train" / "2_x" / f"{index}.png", [(64, 64), (90, 64), (70, 100)][index % 3], "a, b, c, d", index)
    return folder_plan(tmp_path, replace(PART, batch_size=2, **part), template)


def equal(one, other):
    return (one.captions == other.captions and one.keys == other.keys and torch.equal(one.pixels_BCHW, other.pixels_BCHW)
            and one.crops == other.crops)


def same(ones, others):
    ones, others = list(ones), list(others)
    return len(ones) == len(others) and all(map(equal, ones, others))


def test_a_batch_is_the_fitted_pictures_with_sizes_and_weights(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png", (96, 64))
    picture(tmp_path / "reg" / "1_y" / "r.png", (64, 64), caption=None)
    plan = folder_plan(tmp_path)
    batches = {batch.keys[0][-5:]: batch for batch in Feed(Pictures(plan, Setting(1, prior_loss_weight=0.25))).epoch(0)}
    batch = batches["a.png"]
    item = plan.items[0]
    fitted = images.fit(images.read(item.path), item.placement, None, None)
    assert torch.equal(batch.pixels_BCHW[0], images.to_tensor(fitted.pixels))
    assert batch.captions == ["a, b"] and batch.original_sizes == [(64, 96)] and batch.strength is None
    assert batch.target_size == item.placement.bucket[::-1] and batch.masks_B1HW is None
    assert batch.weights_B.tolist() == [1.0] and batches["r.png"].weights_B.tolist() == [0.25]


def test_the_number_of_readers_changes_nothing(tmp_path):
    plan = many(tmp_path)
    pictures = Pictures(plan, Setting(3))
    assert same(Feed(pictures).epoch(1), Feed(pictures, workers=3).epoch(1))


def test_torchs_loader_in_spawned_workers_gives_the_same_batches(tmp_path):
    plan = many(tmp_path, count=2)
    pictures = pickle.loads(pickle.dumps(Pictures(plan, Setting(3))))
    loader = torch.utils.data.DataLoader(pictures, batch_size=None, sampler=epoch_order(plan, 3, 0), num_workers=1,
                                         multiprocessing_context="spawn", collate_fn=None)
    assert same(loader, Feed(pictures).epoch(0))


def test_an_epoch_goes_on_from_any_batch_as_if_unbroken(tmp_path):
    feed = Feed(Pictures(many(tmp_path), Setting(3)))
    assert same(list(feed.epoch(2))[3:], feed.epoch(2, 3))


def test_processes_share_the_batches_of_one(tmp_path):
    pictures = Pictures(many(tmp_path), Setting(3))
    whole = list(Feed(pictures).epoch(0))
    first, second = (list(Feed(pictures, rank, 2).epoch(0)) for rank in range(2))
    assert same([batch for pair in zip(first, second) for batch in pair], whole[:2 * len(second)])


def test_random_changes_differ_between_epochs(tmp_path):
    feed = Feed(Pictures(many(tmp_path, count=1), Setting(3)))
    assert len({batch.captions[0] for epoch in range(5) for batch in feed.epoch(epoch)}) > 1


def test_global_random_streams_are_left_alone(tmp_path):
    random.seed(1)
    torch.manual_seed(1)
    expected = random.Random(1).random(), torch.random.get_rng_state()
    list(Feed(Pictures(many(tmp_path), Setting(3)), workers=2).epoch(0))
    assert random.random() == expected[0] and torch.equal(torch.random.get_rng_state(), expected[1])


def test_a_broken_picture_is_named_also_by_readers(tmp_path):
    plan = many(tmp_path)
    plan.items[3].path.write_bytes(plan.items[3].path.read_bytes()[:500])
    with pytest.raises(UserError, match=r"3\.png"):
        list(Feed(Pictures(plan, Setting(3)), workers=2).epoch(0))


def test_a_picture_whose_size_changed_since_the_scan_stops_the_run(tmp_path):
    plan = many(tmp_path, count=1)
    picture(plan.items[0].path, (32, 50))
    with pytest.raises(UserError, match="32x50"):
        list(Feed(Pictures(plan, Setting(3))).epoch(0))


def test_mirrored_pictures_count_the_crop_from_the_other_side(tmp_path):
    picture(tmp_path / "train" / "20_x" / "a.png", (150, 64))
    plan = folder_plan(tmp_path, replace(PART, bucket_reso_steps=64, min_bucket_reso=64, max_bucket_reso=64), replace(
        TEMPLATE, flip_aug=True))
    fitted = images.fit(images.read(plan.items[0].path), plan.items[0].placement, None, None)
    plain = images.to_tensor(fitted.pixels)
    left, top, right, _ = fitted.ltrb
    seen = set()
    for batch in Feed(Pictures(plan, Setting(1))).epoch(0):
        mirrored = torch.equal(batch.pixels_BCHW[0], plain.flip(-1))
        assert mirrored or torch.equal(batch.pixels_BCHW[0], plain)
        assert batch.crops == [(int(top), int(64 - right) if mirrored else int(left))]
        seen.add(mirrored)
    assert seen == {True, False}


def test_cached_latents_are_mirrored_as_the_pictures_would_be(tmp_path):
    picture(tmp_path / "train" / "9_x" / "a.png", (64, 64))
    plan = folder_plan(tmp_path, template=replace(TEMPLATE, flip_aug=True))
    cache = cache_latents(plan, encode, LatentOptions())
    drawn = [encode(batch.pixels_BCHW) for batch in Feed(Pictures(plan, Setting(1))).epoch(0)]
    cached = [batch.latents_BCHW for batch in Feed(Pictures(plan, Setting(1), Sources(cache)), workers=4).epoch(0)]
    assert all(torch.equal(one, other) for one, other in zip(drawn, cached, strict=True))
    assert len({one.numpy().tobytes() for one in cached}) == 2


def test_batches_carry_the_cached_conditioning_of_their_captions(tmp_path):
    for index, text in enumerate(("one", "{two|two}", "three")):
        picture(tmp_path / "train" / "1_x" / f"{index}.png", caption=text)
    plan = folder_plan(tmp_path, replace(PART, batch_size=3), replace(TEMPLATE, enable_wildcard=True))
    texts = cache_text(plan, lambda captions: {"length": torch.tensor([[len(caption)] for caption in captions])}, TextOptions())
    batch = next(iter(Feed(Pictures(plan, Setting(1), Sources(texts=texts))).epoch(0)))
    assert batch.cond["length"].ravel().tolist() == [len(caption) for caption in batch.captions]
    assert sorted(batch.captions) == ["one", "three", "two"]


@pytest.mark.parametrize("flip", [False, True])
def test_masks_are_cut_and_mirrored_with_their_pictures(tmp_path, flip):
    rng = np.random.RandomState(0)
    for index in range(2):
        pixels = rng.randint(0, 256, (80, 100, 3)).astype(np.uint8)
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png")
    subset = SubsetConfig(tmp_path / "images", conditioning_data_dir=tmp_path / "masks", random_crop=True, flip_aug=flip)
    plan = subsets_plan(subset, batch_size=2)
    for batch in Feed(Pictures(plan, Setting(1))).epoch(0):
        assert torch.allclose(batch.masks_B1HW[:, 0], (batch.pixels_BCHW[:, 0] + 1) / 2, atol=1e-6)


def test_pictures_without_a_mask_train_whole_beside_those_with_one(tmp_path):
    for name, alpha in (("a", 0), ("b", 255)):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((64, 64, 4), alpha, np.uint8)).save(tmp_path / name / "p.png")
    plan = subsets_plan(SubsetConfig(tmp_path / "a", alpha_mask=True), SubsetConfig(tmp_path / "b"), batch_size=2)
    batch = next(iter(Feed(Pictures(plan, Setting(1))).epoch(0)))
    values = {key[-7]: mask.unique().tolist() for key, mask in zip(batch.keys, batch.masks_B1HW, strict=True)}
    assert values == {"a": [0.0], "b": [1.0]}


def test_token_warm_up_sees_the_step_that_uses_the_batch(tmp_path):
    picture(tmp_path / "train" / "4_x" / "a.png", caption="a, b, c, d, e")
    plan = folder_plan(tmp_path, template=replace(TEMPLATE, token_warmup_step=4))
    pictures = Pictures(plan, Setting(1, max_steps=8, batches=4, batches_per_step=2))
    lengths = [len(batch.captions[0].split(",")) for epoch in range(2) for batch in Feed(pictures).epoch(epoch)]
    assert lengths == [1, 1, 2, 2, 3, 3, 4, 4]


def test_kohyas_order_is_read_ahead_by_one_in_the_global_stream(tmp_path):
    plan = many(tmp_path, count=3, template=replace(TEMPLATE, shuffle_caption=True))
    plan = replace(plan, config=replace(plan.config, kohya_order=True))
    feed = Feed(Pictures(plan, Setting(42, 8, 4), Sources()), workers=4)
    torch.manual_seed(1)
    batches = [batch for epoch in range(2) for batch in feed.epoch(epoch)]
    torch.manual_seed(1)
    again = Feed(Pictures(plan, Setting(42, 8, 4), Sources()))
    assert same(batches, [batch for epoch in range(2) for batch in again.epoch(epoch)])


@pytest.mark.parametrize("accumulation,processes,epochs,expected", [
    (1, 1, None, (4, 3)), (2, 1, None, (2, 5)), (1, 2, None, (2, 5)), (1, 1, 5, (4, 5)), (3, 1, 5, (2, 5))])
def test_epochs_and_steps_follow_kohyas_arithmetic(tmp_path, accumulation, processes, epochs, expected):
    for index in range(4):
        picture(tmp_path / "train" / "1_x" / f"{index}.png")
    loop = LoopConfig(max_train_steps=10, max_train_epochs=epochs, gradient_accumulation_steps=accumulation, seed=1)
    plan = step_plan(folder_plan(tmp_path), loop, processes)
    assert (plan.steps_per_epoch, plan.epochs) == expected
    assert plan.steps == (10 if epochs is None else epochs * expected[0])


def test_a_run_without_steps_is_refused(tmp_path):
    loop = LoopConfig(max_train_steps=0, max_train_epochs=None, gradient_accumulation_steps=1, seed=1)
    with pytest.raises(UserError, match="nothing to do"):
        check_lengths(step_plan(folder_plan(tmp_path), loop))


def test_attributes_of_a_subset_travel_with_its_pictures(tmp_path):
    from library.data.loading import Pictures, Setting
    from library.data.order import epoch_order
    from tests.data_room.made import TEMPLATE, picture, subsets_plan

    picture(tmp_path / "a" / "1.png")
    plan = subsets_plan(replace(TEMPLATE, image_dir=tmp_path / "a", custom_attributes={"mood": "calm"}))
    (ref,) = epoch_order(plan, 0, 0)
    assert Pictures(plan, Setting(seed=0))[ref].attributes == [{"mood": "calm"}]
