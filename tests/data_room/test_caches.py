import json
import logging
import os
import pickle
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from library.config.run_config import DatasetConfig, SubsetConfig
from library.data import caches, images
from library.data.caches import LatentOptions, cache_latents, key_of
from library.data.scan import scan
from library.data.text_cache import TextCache, TextOptions, cache_text, fixed_caption
from library.util.records import UserError
from tests.data_room.made import PART, RULES, TEMPLATE, folder_plan, picture, subsets_plan

GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "npz_cache.json").read_text(encoding="utf-8"))
DISK = LatentOptions(to_disk=True, batch_size=2)


class Encoder:
    """Means of 8x8 blocks in four channels; remembers what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, pixels_BCHW):
        self.calls.append(tuple(pixels_BCHW.shape))
        means = torch.nn.functional.avg_pool2d(pixels_BCHW, 8)
        return torch.cat([means, means[:, :1]], 1)


def two_pictures(tmp_path, template=TEMPLATE):
    picture(tmp_path / "train" / "1_x" / "a.png", (96, 64), seed=1)
    picture(tmp_path / "train" / "1_x" / "b.png", (64, 64), seed=2)
    return folder_plan(tmp_path, template=template)


def test_latents_in_memory_are_the_encoders_of_the_fitted_pictures(tmp_path):
    plan = two_pictures(tmp_path)
    cache = cache_latents(plan, Encoder(), LatentOptions())
    for item in plan.items:
        pixels = images.fit(images.read(item.path), item.placement, None, None).pixels
        expected = Encoder()(images.to_tensor(pixels)[None])[0]
        assert torch.equal(cache(item).latents, expected) and cache(item).original == item.size
    assert pickle.loads(pickle.dumps(cache)).memory.keys() == {key_of(item) for item in plan.items}


def test_pictures_are_encoded_by_bucket_area_in_batches_and_mirrored_ones_again(tmp_path):
    for index, size in enumerate([(96, 64), (64, 64), (96, 64), (64, 64), (64, 64)]):
        picture(tmp_path / "train" / "1_x" / f"{index}.png", size, seed=index)
    encoder = Encoder()
    plan = folder_plan(tmp_path, template=replace(TEMPLATE, flip_aug=True), part=replace(PART, resolution=(80, 80)))
    cache = cache_latents(plan, encoder, LatentOptions(batch_size=2))
    widths = [item.placement.bucket for item in plan.items]
    areas = [shape[2] * shape[3] for shape in encoder.calls]
    assert areas == sorted(areas) and len(set(widths)) == 2
    assert [shape[0] for shape in encoder.calls] == [2, 2, 1, 1, 2, 2]
    item = plan.items[0]
    assert torch.allclose(cache(item).flipped, cache(item).latents.flip(-1), atol=1e-6)


def test_files_have_kohyas_names_and_arrays(tmp_path):
    for name in GOLDEN:
        folder, file = Path(name).parts[-2:]
        stem, size, _ = file.rsplit("_", 2)
        picture(tmp_path / "train" / folder / f"{stem}.png", tuple(map(int, size.split("x"))))
    part = replace(PART, min_bucket_reso=64, max_bucket_reso=256, bucket_reso_steps=64)
    plan = folder_plan(tmp_path, part, replace(TEMPLATE, flip_aug=True))
    cache_latents(plan, Encoder(), DISK)
    made = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.npz")}
    assert {"data_cache/" + name for name in made} == set(GOLDEN)
    for name, path in made.items():
        golden = GOLDEN["data_cache/" + name]
        with np.load(path) as arrays:
            assert set(arrays.files) == set(golden) - {"_bytes"}
            for array in arrays.files:
                shape, dtype, values = golden[array]
                assert list(arrays[array].shape) == shape and str(arrays[array].dtype) == dtype
                assert values is None or arrays[array].tolist() == values
        assert abs(path.stat().st_size - golden["_bytes"]) < 64  # zip headers differ between versions of numpy


def test_valid_files_are_used_and_not_encoded_again(tmp_path):
    plan = two_pictures(tmp_path)
    first, second = Encoder(), Encoder()
    before = cache_latents(plan, first, DISK)
    after = cache_latents(plan, second, DISK)
    assert first.calls and not second.calls
    assert all(torch.equal(before(item).latents, after(item).latents) for item in plan.items)


def kohyas_file(item, **more):
    """What kohya writes for an item."""
    width, height = (side // 8 for side in item.placement.bucket)
    arrays = {"latents": np.full((4, height, width), 0.5, np.float32), "original_size": np.array(item.size),
              "crop_ltrb": np.array([0.0, 1.0, 60.0, 63.5])}
    np.savez(item.latents_file, **(arrays | more))


def test_kohyas_own_files_are_read(tmp_path):
    plan = two_pictures(tmp_path)
    for item in plan.items:
        kohyas_file(item)
    encoder = Encoder()
    cache = cache_latents(plan, encoder, DISK)
    assert not encoder.calls and (cache(plan.items[0]).latents == 0.5).all()
    assert cache(plan.items[0]).ltrb == (0.0, 1.0, 60.0, 63.5) and cache(plan.items[0]).original == (96, 64)


def broken(item):
    item.latents_file.write_bytes(b"PK\x03\x04 half a file")


def without_mirror_image(item):
    kohyas_file(item)


def older_than_its_picture(item):
    kohyas_file(item, latents_flipped=np.zeros((4, 8, 8), np.float32))
    os.utime(item.latents_file, (1, 1))


@pytest.mark.parametrize("spoil", [broken, without_mirror_image, older_than_its_picture])
def test_stale_and_broken_files_are_made_again_with_a_word(tmp_path, spoil, caplog):
    picture(tmp_path / "train" / "1_x" / "b.png", (64, 64))
    plan = folder_plan(tmp_path, template=replace(TEMPLATE, flip_aug=True))
    spoil(plan.items[0])
    encoder = Encoder()
    with caplog.at_level(logging.WARNING):
        cache = cache_latents(plan, encoder, DISK)
    assert encoder.calls and "made again" in caplog.text
    assert cache(plan.items[0]).flipped is not None


def test_files_of_another_vae_are_made_again(tmp_path):
    plan = two_pictures(tmp_path)
    calls = []
    for maker in ("one", "one", "other"):
        encoder = Encoder()
        cache_latents(plan, encoder, replace(DISK, maker=maker))
        calls.append(len(encoder.calls))
    assert calls == [1, 0, 1]


def test_skip_cache_check_takes_files_as_they_are(tmp_path):
    plan = two_pictures(tmp_path)
    for item in plan.items:
        kohyas_file(item, latents=np.zeros((4, 3, 3), np.float32))
    encoder = Encoder()
    cache = cache_latents(plan, encoder, replace(DISK, skip_check=True))
    assert not encoder.calls and cache(plan.items[0]).latents.shape == (4, 3, 3)


def test_raw_files_hold_the_vaes_own_latents(tmp_path):
    plan = two_pictures(tmp_path)
    options = replace(DISK, to_file=lambda latents: latents / 0.5, from_file=lambda raw: raw * 0.5)
    cache = cache_latents(plan, Encoder(), options)
    memory = cache_latents(plan, Encoder(), LatentOptions(batch_size=2))
    item = plan.items[0]
    with np.load(item.latents_file) as arrays:
        assert np.allclose(arrays["latents"], memory(item).latents.numpy() * 2)
    assert torch.allclose(cache(item).latents, memory(item).latents)


def test_families_with_sizes_in_names_keep_several_sizes_in_one_file(tmp_path):
    options = replace(DISK, sizes_in_names=True)
    picture(tmp_path / "a" / "a.png", (128, 128))
    subset = SubsetConfig(tmp_path / "a", caption_extension=".txt")
    small, large = subsets_plan(subset), subsets_plan(subset, resolution=(128, 128))
    cache_latents(small, Encoder(), options)
    cache = cache_latents(large, Encoder(), options)
    with np.load(large.items[0].latents_file) as arrays:
        assert {"latents_8x8", "latents_16x16", "crop_ltrb_8x8", "original_size_16x16"} <= set(arrays.files)
    assert cache(large.items[0]).latents.shape == (4, 16, 16)
    encoder = Encoder()
    cache_latents(small, encoder, options)
    assert not encoder.calls


def two_sizes(tmp_path, **large):
    """One picture in two data sets, 64 and 128 pixels wide."""
    picture(tmp_path / "a" / "a.png", (128, 128))
    subset = SubsetConfig(tmp_path / "a", caption_extension=".txt")
    parts = (replace(PART, subsets=(subset,)), replace(PART, subsets=(replace(subset, **large),), resolution=(128, 128)))
    return scan(DatasetConfig(parts, folder_mode=False), RULES)


@pytest.mark.parametrize("options", [DISK, replace(DISK, sizes_in_names=True), replace(DISK, skip_check=True)])
def test_a_picture_trained_at_two_sizes_has_both_on_disk(tmp_path, options, caplog):
    plan = two_sizes(tmp_path, flip_aug=True)
    in_memory = cache_latents(plan, Encoder(), LatentOptions())
    cache = cache_latents(plan, Encoder(), options)
    assert [cache(item).latents.shape[-1] for item in plan.items] == [8, 16]
    assert all(torch.equal(cache(item).latents, in_memory(item).latents) for item in plan.items)
    assert torch.equal(cache(plan.items[1]).flipped, in_memory(plan.items[1]).flipped)
    again = Encoder()
    cache_latents(plan, again, options)
    assert not again.calls and not caplog.records


@pytest.mark.parametrize("options", [DISK, replace(DISK, sizes_in_names=True)])
def test_a_newer_picture_is_encoded_at_all_its_sizes_again(tmp_path, options):
    plan, again = two_sizes(tmp_path), Encoder()
    cache_latents(plan, Encoder(), options)
    os.utime(plan.items[0].latents_file, (1, 1))
    cache_latents(plan, again, options)
    assert [shape[-1] for shape in again.calls] == [64, 128]


def test_a_picture_that_is_mirrored_in_one_set_and_masked_in_another_has_both_on_disk(tmp_path):
    picture(tmp_path / "a" / "a.png")
    subset = SubsetConfig(tmp_path / "a", caption_extension=".txt")
    parts = [replace(PART, subsets=(replace(subset, **more),)) for more in ({"flip_aug": True}, {"alpha_mask": True})]
    plan = scan(DatasetConfig(tuple(parts), folder_mode=False), RULES)
    cache = cache_latents(plan, Encoder(), DISK)
    assert cache(plan.items[0]).flipped is not None and cache(plan.items[1]).mask is not None


def test_transparency_is_kept_as_a_mask(tmp_path):
    from PIL import Image

    path = tmp_path / "a" / "a.png"
    path.parent.mkdir()
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, :16, 3] = 255
    Image.fromarray(pixels).save(path)
    plan = subsets_plan(SubsetConfig(tmp_path / "a", alpha_mask=True))
    for options in (LatentOptions(), DISK):
        mask = cache_latents(plan, Encoder(), options)(plan.items[0]).mask
        assert mask.shape == (1, 64, 64) and mask[0, :, :16].min() == 1 and mask[0, :, 16:].max() == 0


def test_latents_that_are_not_numbers_stop_the_run_with_the_pictures_name(tmp_path):
    plan = two_pictures(tmp_path)
    with pytest.raises(UserError, match=r"\.png.*not numbers"):
        cache_latents(plan, lambda pixels: torch.full((len(pixels), 4, 8, 8), float("nan")), LatentOptions())


def test_pictures_that_share_a_cache_file_stop_the_run(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png")
    picture(tmp_path / "train" / "1_x" / "a.bmp")
    with pytest.raises(UserError, match="shares its cache file"):
        cache_latents(folder_plan(tmp_path), Encoder(), DISK)


def test_a_failed_write_leaves_no_half_file(tmp_path, monkeypatch):
    plan = two_pictures(tmp_path)

    def full(stream, **_):
        stream.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(UserError, match="disk full"):
        cache_latents(plan, Encoder(), DISK)
    assert not [path for path in (tmp_path / "train" / "1_x").iterdir() if "npz" in path.name]


def test_processes_share_the_work_of_caching_on_disk(tmp_path):
    plan = two_pictures(tmp_path)
    counts = []
    for rank in range(2):
        encoder = Encoder()
        cache_latents(plan, encoder, replace(DISK, rank=rank, processes=2))
        counts.append(sum(shape[0] for shape in encoder.calls))
    assert counts == [1, 1]


# ------------------------------------------------------------------------------------------------------------------ texts


@dataclass(frozen=True)
class Pad:
    dim: int | None
    value: float = 0.0


class TextEncoder:
    """Conditioning whose length is that of the longest text of the batch."""

    def __init__(self):
        self.texts = []

    def __call__(self, texts):
        self.texts += texts
        length = max(map(len, texts))
        ids = torch.tensor([[ord(text[i]) if i < len(text) else 0 for i in range(length)] for text in texts])
        return {"hidden": ids.float()[..., None].expand(-1, -1, 3), "mask": (ids > 0).long(),
                "parts": [torch.arange(len(text)).float() for text in texts]}


TEXT = TextOptions(padding={"hidden": Pad(1, -1.0), "mask": Pad(1)})


@pytest.mark.parametrize("to_disk", [False, True])
def test_texts_are_encoded_once_and_padded_as_the_family_says(tmp_path, to_disk):
    for name, text in (("a", "long text"), ("b", "abc"), ("c", "abc")):
        picture(tmp_path / "train" / "1_x" / f"{name}.png", caption=text)
    plan, encoder = folder_plan(tmp_path), TextEncoder()
    options = replace(TEXT, to_disk=to_disk)
    cache = cache_text(plan, encoder, options)
    assert encoder.texts == ["long text", "abc"]
    cond = cache.collate([cache(item, fixed_caption(plan, item)) for item in plan.items])
    assert cond["hidden"].shape == (3, 9, 3) and cond["mask"].sum(1).tolist() == [9, 3, 3]
    assert [len(part) for part in cond["parts"]] == [9, 3, 3]
    assert cond["hidden"][1, :, 0].tolist() == [97, 98, 99] + [-1.0] * 6
    assert isinstance(pickle.loads(pickle.dumps(cache)), TextCache)


def test_texts_of_a_changed_caption_are_encoded_again(tmp_path):
    path = picture(tmp_path / "train" / "1_x" / "a.png", caption="old")
    options = replace(TEXT, to_disk=True)
    cache_text(folder_plan(tmp_path), TextEncoder(), options)
    again = TextEncoder()
    cache_text(folder_plan(tmp_path), again, options)
    path.with_suffix(".txt").write_text("new", encoding="utf-8")
    changed = TextEncoder()
    cache_text(folder_plan(tmp_path), changed, options)
    other = TextEncoder()
    cache_text(folder_plan(tmp_path), other, replace(options, maker="another model"))
    assert again.texts == [] and changed.texts == other.texts == ["new"]


def test_of_kohyas_files_only_what_the_family_knows_is_read(tmp_path):
    """kohya's hold more arrays (Flux: ``txt_ids``, ``apply_t5_attn_mask``), which must not meet files of ours in a batch."""
    for name in "ab":
        picture(tmp_path / "train" / "1_x" / f"{name}.png", caption=name)
    np.savez(tmp_path / "train" / "1_x" / "a_te.npz", hidden=np.full((4, 3), 0.5, np.float32), mask=np.ones(4, np.int64),
             txt_ids=np.zeros((4, 3)), apply_t5_attn_mask=np.array(False))
    plan, encoder = folder_plan(tmp_path), TextEncoder()
    cache = cache_text(plan, lambda texts: {k: v for k, v in encoder(texts).items() if k != "parts"}, replace(TEXT, to_disk=True))
    assert encoder.texts == ["b"]
    cond = cache.collate([cache(item, item.caption) for item in plan.items])
    assert set(cond) == {"hidden", "mask"} and cond["hidden"].shape == (2, 4, 3) and (cond["hidden"][0] == 0.5).all()


@pytest.mark.parametrize("to_disk", [False, True])
def test_a_picture_with_two_captions_does_not_share_one_cache_file(tmp_path, to_disk):
    picture(tmp_path / "a" / "a.png", caption="cat")
    subset = SubsetConfig(tmp_path / "a", caption_extension=".txt")
    parts = tuple(replace(PART, subsets=(replace(subset, caption_prefix=word),)) for word in ("small", "large"))
    plan = scan(DatasetConfig(parts, folder_mode=False), RULES)
    if to_disk:
        with pytest.raises(UserError, match=r"large cat.*small cat"):
            cache_text(plan, TextEncoder(), replace(TEXT, to_disk=True))
    else:
        cache = cache_text(plan, TextEncoder(), TEXT)
        assert [len(cache(item, fixed_caption(plan, item))["parts"][0]) for item in plan.items] == [9, 9]


def test_cached_texts_have_prefix_and_separators_applied(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png", caption="a;b")
    plan = folder_plan(tmp_path, template=replace(TEMPLATE, caption_prefix="P,", secondary_separator=";"))
    assert fixed_caption(plan, plan.items[0]) == "P, a,b"


@pytest.fixture
def windows_rename(monkeypatch):
    """os.replace as on Windows while another program has the target open: refused, here as often as ``held`` says."""
    held, rename = {"times": 0}, os.replace

    def replace_file(new, old):
        if held["times"] and Path(old).exists():
            held["times"] -= 1
            raise PermissionError(13, "Access is denied", str(old))
        rename(new, old)

    monkeypatch.setattr(os, "replace", replace_file)
    monkeypatch.setattr(caches, "WAITS", (0.001,) * 3)
    return held


def test_of_two_runs_that_make_one_cache_file_at_once_either_files_serves(tmp_path, windows_rename):
    file = tmp_path / "a_0064x0064_sd.npz"
    first = {"latents": np.zeros((4, 8, 8), np.float32), "original_size": np.array((64, 64)), "maker": np.array("vae")}
    caches.write_npz(file, first)
    windows_rename["times"] = 99
    caches.write_npz(file, first | {"latents": np.ones((4, 8, 8), np.float32)})
    with np.load(file) as kept:
        assert not kept["latents"].any()
    assert list(tmp_path.iterdir()) == [file]
    windows_rename["times"] = 2
    os.utime(file, (1e9, 1e9))  # a file of long ago is no twin
    caches.write_npz(file, first | {"latents": np.ones((4, 8, 8), np.float32)})
    with np.load(file) as kept:
        assert kept["latents"].all()


def test_a_cache_file_of_another_model_is_replaced_when_its_reader_lets_go(tmp_path, windows_rename):
    file = tmp_path / "a.npz"
    old = {"latents": np.zeros((4, 8, 8), np.float32), "maker": np.array("another")}
    new = old | {"maker": np.array("this")}
    caches.write_npz(file, old)
    windows_rename["times"] = 2
    caches.write_npz(file, new)
    with np.load(file) as kept:
        assert str(kept["maker"]) == "this"
    windows_rename["times"] = 99
    with pytest.raises(UserError, match="Access is denied"):
        caches.write_npz(file, old)
    assert list(tmp_path.iterdir()) == [file]
