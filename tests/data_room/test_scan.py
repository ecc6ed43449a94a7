import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from library.config.run_config import DatasetConfig, SubsetConfig
from library.data import metadata
from library.data.files import numbered_folders, pictures, read_caption, read_header
from library.data.found import nearest_existing
from library.data.scan import scan
from tests.data_room.made import PART, RULES, TEMPLATE, folder_config, folder_plan, picture, subsets_plan


def words(plan, severity=None):
    return [problem.what for problem in plan.problems if severity in (None, problem.severity)]


# ------------------------------------------------------------------------------------------------------------- folders


def test_numbered_folders_give_repeats_and_words(tmp_path):
    picture(tmp_path / "train" / "10_riho girl" / "a.png")
    picture(tmp_path / "train" / "1" / "b.png", caption=None)
    plan = folder_plan(tmp_path)
    assert [(one.name, one.config.num_repeats, one.config.class_tokens) for one in plan.subsets] == [
        ("1", 1, ""), ("10_riho girl", 10, "riho girl")]
    assert [(item.path.name, item.repeats, item.caption) for item in plan.items] == [("b.png", 1, ""), ("a.png", 10, "a, b")]
    assert plan.images() == 11


def test_a_missing_caption_is_the_folders_words(tmp_path):
    picture(tmp_path / "train" / "2_red cube" / "a.png", caption=None)
    plan = folder_plan(tmp_path)
    assert plan.items[0].caption == "red cube" and not plan.items[0].has_caption
    assert any("1 of 1 picture has no .txt caption" in what for what in words(plan, "warn"))


def test_another_ending_of_captions_is_named(tmp_path):
    picture(tmp_path / "train" / "2_x" / "a.png", caption="tag")
    plan = folder_plan(tmp_path, template=replace(TEMPLATE, caption_extension=".caption"))
    assert any(".txt files are there" in what for what in words(plan, "warn"))
    assert any("--caption_extension=.txt" in problem.remedy for problem in plan.problems)


def test_an_ending_without_its_dot_is_understood(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png", caption="tag")
    assert folder_plan(tmp_path, template=replace(TEMPLATE, caption_extension="txt")).items[0].caption == "tag"


LAYOUTS = {
    "one level too deep": (("train/a.png",), "10_x", "one level too deep"),
    "pictures without a folder": (("train/a.png",), "train", "not in a folder with a number"),
    "no numbers": (("train/cats/a.png",), "train", "has a number of repeats in front"),
    "one level too high": (("train/set/10_x/a.png",), "train", 'too high: the numbered folders are in "set"'),
    "three levels too high": (("train/a/b/c/10_x/a.png",), "train", 'too high: the numbered folders are in "'),
    "nothing": (("train/10_x/note.doc",), "train", "no picture to train on"),
    "empty": (("train/note.doc",), "train", "no pictures in"),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_folder_without_pictures_to_train_on_is_explained(tmp_path, case):
    files, name, expected = LAYOUTS[case]
    for file in files:
        path = tmp_path / file.replace("train", name, 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, caption=None) if path.suffix == ".png" else path.write_text("x")
    plan = scan(replace(folder_config(tmp_path), train_data_dir=tmp_path / name), RULES)
    assert any(expected in what for what in words(plan, "stop")), plan.problems
    assert all(problem.remedy for problem in plan.problems)


def test_a_path_that_is_not_there_is_told_by_its_nearest_part(tmp_path):
    (tmp_path / "pictures").mkdir()
    plan = folder_plan(tmp_path)
    assert plan.problems[0].severity == "stop" and "pictures" in plan.problems[0].remedy


def test_of_many_folders_the_likely_ones_are_named_first(tmp_path):
    for name in (*(f"a{number}" for number in range(9)), "train data"):
        (tmp_path / name).mkdir()
    assert "there are: train data, a0" in nearest_existing(tmp_path / "trian data" / "10_x")


@pytest.mark.skipif(os.sep == "\\", reason="there a backslash separates folders")
def test_a_path_of_windows_is_found_with_slashes(tmp_path):
    (tmp_path / "train" / "10_x").mkdir(parents=True)
    assert f'"{tmp_path}/train/10_x" is there' in nearest_existing(Path(f"{tmp_path}/train\\10_x"))


@pytest.mark.parametrize("names,expected", [
    (["10_x/a.png", "cats/b.png"], "Folders without a number are left out: cats"),
    (["10_x/a.png", "0_y/b.png"], "fewer than one repeat are left out: 0_y"),
    (["10_x/a.png", "b.png"], "1 picture lies directly"),
    (["10_x/a.png", "10_y/z/b.png"], "only in folders inside it: z"),
    (["10_x/a.png", "10_y/b.gif"], "files of kind .gif"),
    (["10_x/a.png", "10_y/readme"], "There are no pictures in this folder"),
])
def test_pictures_that_are_left_out_are_warned_about(tmp_path, names, expected):
    for name in names:
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path) if path.suffix == ".png" else path.write_bytes(b"x")
    assert any(expected in what for what in words(folder_plan(tmp_path), "warn"))


def test_a_strength_in_a_folders_name_is_used_and_announced(tmp_path):
    for name in ("10_s+0.5_big eyes", "10_s-0.5_small eyes", "4_eyes", "4_s_eyes", "4_s5_team", "10_s_style"):
        picture(tmp_path / "train" / name / "a.png", caption=None)
    plan = folder_plan(tmp_path)
    assert {item.caption: item.strength for item in plan.items} == {
        "big eyes": 0.5, "small eyes": -0.5, "eyes": 0.0, "s_eyes": 0.0, "s5_team": 0.0, "s_style": 0.0}
    assert any("10_s+0.5_big eyes (+0.5)" in what for what in words(plan, "note"))


def test_folders_are_taken_by_name_or_in_the_systems_order_as_asked(tmp_path):
    for name in ("3_b", "1_c", "2_a"):
        (tmp_path / name).mkdir()
    assert [one.path.name for one in numbered_folders(tmp_path)[0]] == ["1_c", "2_a", "3_b"]
    assert [one.path for one in numbered_folders(tmp_path, True)[0]] == list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------------------------- pictures


def test_every_kind_of_picture_is_found_once_whatever_the_case_of_its_name(tmp_path):
    for name in ("a.png", "b.PNG", "c.jpg", "d.Jpeg", "e.webp", "f.bmp"):
        picture(tmp_path / name)
    (tmp_path / "g.txt").write_text("x")
    assert [path.name for path in pictures(tmp_path)] == ["a.png", "b.PNG", "c.jpg", "d.Jpeg", "e.webp", "f.bmp"]


@pytest.mark.parametrize("orientation,size", [(1, (40, 20)), (3, (40, 20)), (6, (20, 40)), (8, (20, 40))])
def test_a_photos_size_is_that_of_the_upright_picture_but_for_kohya(tmp_path, orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert read_header(tmp_path / "a.jpg").size == size
    assert read_header(tmp_path / "a.jpg", upright=False).size == (40, 20)


BROKEN = {"page": b"<!DOCTYPE html><html>", "empty": b"", "pointer": b"version https://git-lfs.github.com/spec/v1\n"}


@pytest.mark.parametrize("kind,word", [("page", "web page"), ("empty", "empty"), ("pointer", "LFS")])
def test_files_that_are_no_pictures_stop_the_run_by_name(tmp_path, kind, word):
    picture(tmp_path / "train" / "1_x" / "a.png")
    (tmp_path / "train" / "1_x" / "b.jpg").write_bytes(BROKEN[kind])
    plan = folder_plan(tmp_path)
    stops = [problem for problem in plan.problems if problem.severity == "stop"]
    assert len(stops) == 1 and stops[0].where.endswith("b.jpg") and word in stops[0].what
    assert len(plan.items) == 1


@pytest.mark.parametrize("size,expected", [
    ((64, 64), None), ((65, 64), "Image too large"), ((64, 63), "smaller than --resolution")])
def test_without_buckets_only_pictures_of_the_resolution_fit(tmp_path, size, expected):
    picture(tmp_path / "train" / "1_x" / "a.png", size)
    part = replace(PART, enable_bucket=False)
    assert [expected in what for what in words(folder_plan(tmp_path, part), "stop")] == ([True] if expected else [])
    cached = folder_plan(tmp_path, part, rules=replace(RULES, latents_cached=True))
    assert not words(cached, "stop") and cached.items[0].placement.bucket == (64, 64)


def test_random_crops_take_larger_pictures_without_buckets(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png", (80, 70))
    plan = folder_plan(tmp_path, replace(PART, enable_bucket=False), replace(TEMPLATE, random_crop=True))
    assert not words(plan, "stop") and len(plan.items) == 1


def test_pictures_of_one_name_are_warned_about(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png")
    picture(tmp_path / "train" / "1_x" / "a.jpg")
    assert any("share a name" in what for what in words(folder_plan(tmp_path), "warn"))


def test_a_bucket_step_that_does_not_suit_the_model_stops_the_run(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png")
    assert any("does not suit" in what for what in words(folder_plan(tmp_path, rules=replace(RULES, bucket_step=64)), "stop"))


def test_a_plan_pickles(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png")
    plan = folder_plan(tmp_path)
    assert pickle.loads(pickle.dumps(plan)) == plan


# -------------------------------------------------------------------------------------------------------------- captions

ENCODED = {
    "utf-8-sig": "\ufeff猫, 犬\n次".encode(), "utf-16": "猫, 犬\n次".encode("utf-16"),
    "utf-16-le": "cat, dog\nnext".encode("utf-16-le"), "cp932": "猫, 犬\r\n次".encode("cp932"),
}


def test_captions_are_read_in_the_encodings_that_windows_writes(tmp_path):
    file = tmp_path / "a.txt"
    for encoding in ("utf-8-sig", "utf-16", "cp932"):
        file.write_bytes(ENCODED[encoding])
        assert read_caption(file).lines == ("猫, 犬", "次") and read_caption(file).encoding == encoding
    file.write_bytes(ENCODED["utf-16-le"])
    assert read_caption(file).lines == ("cat, dog", "next")
    file.write_bytes(b"\xe9\xff")
    assert read_caption(file).lines == ("éÿ",)


def test_a_caption_that_is_not_utf8_is_noted(tmp_path):
    path = picture(tmp_path / "train" / "1_x" / "a.png")
    path.with_suffix(".txt").write_bytes("猫".encode("cp932"))
    plan = folder_plan(tmp_path)
    assert plan.items[0].caption == "猫" and any("cp932" in what for what in words(plan, "note"))


def test_only_the_first_line_counts_without_wildcards_as_in_kohya(tmp_path):
    picture(tmp_path / "train" / "1_x" / "a.png", caption="\nsecond\n\nthird\n")
    plan = folder_plan(tmp_path)
    assert plan.items[0].caption == "" and any("first line" in what for what in words(plan, "warn"))
    assert folder_plan(tmp_path, template=replace(TEMPLATE, enable_wildcard=True)).items[0].caption == "second\nthird"


def test_an_empty_caption_file_is_an_empty_caption(tmp_path):
    picture(tmp_path / "train" / "1_word" / "a.png", caption="")
    plan = folder_plan(tmp_path)
    assert plan.items[0].caption == "" and plan.items[0].has_caption and not words(plan, "stop")
    assert any("1 caption is empty" in what for what in words(plan, "note"))


def test_a_name_with_face_data_shares_the_caption_of_its_picture(tmp_path):
    picture(tmp_path / "train" / "1_x" / "pic_30_30_20_20.png", caption=None)
    (tmp_path / "train" / "1_x" / "pic.txt").write_text("shared")
    assert folder_plan(tmp_path).items[0].caption == "shared"


def test_tags_are_counted_by_folder_and_caption_not_by_repeats(tmp_path):
    picture(tmp_path / "train" / "5_x" / "a.png", caption="Cat, dog,, cat ")
    picture(tmp_path / "train" / "5_x" / "b.png", caption="dog")
    picture(tmp_path / "train" / "2_y z" / "c.png", caption=None)
    assert folder_plan(tmp_path).tag_frequency == ({"2_y z": {"y z": 1}, "5_x": {"cat": 2, "dog": 2}},)


# ------------------------------------------------------------------------------------- regularisation, validation, masks


def test_regularisation_pictures_are_repeated_up_to_the_training_pictures(tmp_path):
    for index in range(3):
        picture(tmp_path / "train" / "4_x" / f"{index}.png")
    for index in range(5):
        picture(tmp_path / "reg" / "1_girl" / f"{index}.png", caption=None)
    plan = folder_plan(tmp_path)
    assert [item.repeats for item in plan.items if item.is_reg] == [3, 3, 2, 2, 2]
    assert plan.images(reg=True) == plan.images() == 12 and plan.reg_images() == 5


def test_surplus_regularisation_pictures_are_left_out(tmp_path):
    picture(tmp_path / "train" / "3_x" / "a.png")
    for index in range(4):
        picture(tmp_path / "reg" / "2_girl" / f"{index}.png", caption=None)
    assert [item.repeats for item in folder_plan(tmp_path).items if item.is_reg] == [2, 2]


def test_a_regularisation_folder_without_pictures_is_warned_about(tmp_path):
    picture(tmp_path / "train" / "3_x" / "a.png")
    (tmp_path / "reg" / "1_girl").mkdir(parents=True)
    assert any("no regularisation pictures" in what for what in words(folder_plan(tmp_path), "warn"))


def make_ten(tmp_path):
    for index in range(10):
        picture(tmp_path / "train" / "2_x" / f"{index}.png")
    picture(tmp_path / "reg" / "1_y" / "r.png", caption=None)


def test_validation_holds_out_a_seeded_share_once_and_never_trains_on_it(tmp_path):
    make_ten(tmp_path)
    plan = folder_plan(tmp_path, replace(PART, validation_split=0.25, validation_seed=7))
    assert len(plan.validation) == 2 and {item.repeats for item in plan.validation} == {1}
    training = [item.path.name for item in plan.items if not item.is_reg]
    assert len(training) == 8 and not {*training} & {item.path.name for item in plan.validation}
    again = folder_plan(tmp_path, replace(PART, validation_split=0.25, validation_seed=7))
    other = folder_plan(tmp_path, replace(PART, validation_split=0.25, validation_seed=8))
    assert again.validation == plan.validation != other.validation


def test_kohyas_order_shuffles_training_and_validation_pictures_anew_from_one_stream(tmp_path):
    import random

    make_ten(tmp_path)
    part = replace(PART, validation_split=0.3)
    plan = folder_plan(tmp_path, part, rules=replace(RULES, seed=42), kohya_order=True)
    stream = random.Random(42)
    first, second = [f"{i}.png" for i in range(10)], [f"{i}.png" for i in range(10)]
    stream.shuffle(first)
    stream.shuffle(second)
    assert [item.path.name for item in plan.items if not item.is_reg] == first[:7]
    assert [item.path.name for item in plan.validation] == second[7:]
    assert plan.kohya_seed == stream.randint(0, 2**31)


def test_masks_are_found_by_name_and_must_fit_their_pictures(tmp_path):
    picture(tmp_path / "images" / "a.png", (64, 48))
    picture(tmp_path / "images" / "b.png", (64, 48))
    picture(tmp_path / "masks" / "a.jpg", (64, 48), caption=None)
    picture(tmp_path / "masks" / "c.png", (64, 48), caption=None)
    subset = SubsetConfig(tmp_path / "images", conditioning_data_dir=tmp_path / "masks", caption_extension=".txt")
    plan = subsets_plan(subset)
    assert plan.items[0].mask_file == tmp_path / "masks" / "a.jpg"
    assert any("no mask for 1 picture: b.png" in what for what in words(plan, "stop"))
    assert any("1 mask belongs to no picture: c" in what for what in words(plan, "warn"))
    picture(tmp_path / "masks" / "b.png", (32, 32), caption=None)
    assert any("is 32x32, its picture 64x48" in what for what in words(subsets_plan(subset), "stop"))


def test_a_folder_that_is_given_twice_counts_once(tmp_path):
    picture(tmp_path / "a" / "a.png")
    plan = subsets_plan(SubsetConfig(tmp_path / "a"), SubsetConfig(tmp_path / "a", num_repeats=5))
    assert plan.images() == 1 and any("given twice" in what for what in words(plan, "warn"))


def test_kohyas_order_is_refused_where_it_would_mix_strengths(tmp_path):
    picture(tmp_path / "a" / "a.png")
    plan = subsets_plan(SubsetConfig(tmp_path / "a", slider_strength=1.0), kohya_order=True)
    assert any("mix slider strengths" in what for what in words(plan, "stop"))


def test_a_probability_without_a_slider_is_warned_about(tmp_path):
    picture(tmp_path / "a" / "a.png")
    assert any("slider" in what for what in words(subsets_plan(SubsetConfig(tmp_path / "a", probability=2)), "warn"))


# ---------------------------------------------------------------------------------------------------------- descriptions


@pytest.mark.parametrize("name", ["meta.json", "meta.jsonl"])
def test_metadata_files_give_captions_and_tags_longest_names_first(tmp_path, name):
    for stem in ("a", "long name"):
        picture(tmp_path / "images" / f"{stem}.png", caption="unused")
    entries = {"a.png": {"caption": "cap", "tags": "t1, t2"}, "long name": {"tags": "t1"}, "gone.png": {"caption": "x"}}
    if name.endswith("l"):
        lines = [json.dumps({"image_path": key} | entry) for key, entry in entries.items()]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    else:
        (tmp_path / name).write_text(json.dumps(entries), encoding="utf-8")
    plan = subsets_plan(SubsetConfig(tmp_path / "images", metadata_file=tmp_path / name, num_repeats=3))
    assert [(item.path.name, item.caption, item.repeats) for item in plan.items] == [
        ("long name.png", "t1", 3), ("a.png", "cap,t1, t2", 3)]
    assert plan.tag_frequency == ({name: {"t1": 2, "t2": 1}},) and not plan.is_dreambooth(0)
    assert any("gone.png" in what for what in words(plan, "warn"))


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}'])
def test_a_file_that_is_no_metadata_stops_the_run(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    assert words(subsets_plan(SubsetConfig(tmp_path, metadata_file=tmp_path / "m.json")), "stop")


def test_cache_info_is_written_once_and_used_afterwards(tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = tmp_path / "train" / "1_x"
    folder.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(folder / "a.jpg", exif=exif)
    (folder / "a.txt").write_text("tag")
    template = replace(TEMPLATE, cache_info=True)
    first = folder_plan(tmp_path, template=template)
    table = json.loads((folder / metadata.INFO_CACHE).read_text(encoding="utf-8"))
    assert list(table.values()) == [{"caption": "tag", "resolution": [60, 40], "orientation": 6}]
    monkeypatch.setattr("library.data.files.read_header", lambda *_: pytest.fail("the header was read again"))
    (folder / "a.txt").write_text("changed")
    again = folder_plan(tmp_path, template=template)
    assert again.items == first.items and again.items[0].size == (40, 60)


def test_notes_that_cannot_be_written_end_nothing(tmp_path, monkeypatch, caplog):
    picture(tmp_path / "train" / "1_x" / "a.png", (64, 64))

    def refuse(new, old):
        raise PermissionError(13, "Access is denied", str(old))

    monkeypatch.setattr("os.replace", refuse)
    assert len(folder_plan(tmp_path, template=replace(TEMPLATE, cache_info=True)).items) == 1
    assert "metadata_cache.json cannot be written: " in caplog.text
    assert not list(tmp_path.rglob("*.partial"))


def test_ten_thousand_pictures_would_scan_in_seconds(tmp_path):
    import time

    source = picture(tmp_path / "train" / "1_x" / "0.png", (200, 300))
    for index in range(1, 400):
        shutil.copy(source, source.with_name(f"{index}.png"))
        shutil.copy(source.with_suffix(".txt"), source.with_name(f"{index}.txt"))
    start = time.process_time()
    assert len(folder_plan(tmp_path).items) == 400
    assert (time.process_time() - start) * 25 < 20


def test_data_from_a_dataset_file_keeps_its_parts(tmp_path):
    picture(tmp_path / "a" / "a.png", (64, 32))
    subset = SubsetConfig(Path(tmp_path / "a"), caption_extension=".txt")
    parts = (replace(PART, subsets=(subset,)), replace(PART, subsets=(subset,), resolution=(96, 96)))
    plan = scan(DatasetConfig(parts, folder_mode=False), RULES)
    assert [item.part for item in plan.items] == [0, 1] and plan.bucket_counts(0) != plan.bucket_counts(1)
    assert plan.tag_frequency[0] == plan.tag_frequency[1] == {"a": {"a": 1, "b": 1}}
