"""Data set files and folder flags: kohya's schema, its fall-backs, and what is tolerated or stops."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from library.config.dataset_keys import DATASET, GENERAL, KEYS, SUBSET
from library.util.records import UserError
from tests.config.helpers import NEEDED, resolved

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "dataset_config_schema.json").read_text(encoding="utf-8"))
LINE = [NEEDED[0], NEEDED[2]]


def data(folder, text, argv=(), name="d.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return resolved([*LINE, "--dataset_config", str(path), *argv], needed=False)


def stopped(folder, text, argv=(), **options) -> str:
    with pytest.raises(UserError) as caught:
        data(folder, text, argv, **options)
    return "\n".join(f"{one.where}: {one.what} {one.remedy}" for one in caught.value.problems if one.severity == "stop")


def said(config) -> str:
    return "\n".join(f"{one.where}: {one.what} {one.remedy}" for one in config.notes)


SIMPLE = '[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "a"\n'


def test_every_key_of_kohyas_schema_is_allowed_where_kohya_allows_it():
    schema = SCHEMA["schemas"]["train_network --masked_loss"]
    for table, level in (
        ("general", GENERAL),
        ("dataset_dreambooth", DATASET),
        ("dataset_controlnet", DATASET),
        ("dataset_finetune", DATASET),
        ("subset_dreambooth", SUBSET),
        ("subset_finetune", SUBSET),
        ("subset_controlnet", SUBSET),
    ):
        for name in schema[table]:
            assert level in KEYS[name.removesuffix(" (required)")].tables, (table, name)
    known = {name.removesuffix(" (required)") for table in schema.values() for name in table}
    assert set(KEYS) - known == {"slider_strength", "probability"}


def test_keys_fall_back_to_the_flags_that_kohya_names():
    for flag, key in SCHEMA["argparse_name_to_config_name"].items():
        assert KEYS[key].flag == flag


def test_defaults_of_a_subset_are_kohyas(tmp_path):
    subset = data(tmp_path, SIMPLE).data.parts[0].subsets[0]
    for name, defaults in SCHEMA["params"]["DreamBoothSubsetParams"].items():
        if name in ("image_dir", "validation_seed", "validation_split"):
            continue
        expected = {} if name == "custom_attributes" else defaults["effective_default"]
        assert getattr(subset, name) == expected, name


def test_subset_wins_over_data_set_over_general_over_flag(tmp_path):
    text = (
        '[general]\nkeep_tokens = 1\nshuffle_caption = false\ncaption_extension = ".g"\nbatch_size = 2\n'
        "[[datasets]]\nresolution = [512, 768]\nkeep_tokens = 2\n"
        '[[datasets.subsets]]\nimage_dir = "a"\nkeep_tokens = 0\n'
        '[[datasets.subsets]]\nimage_dir = "b"\nnum_repeats = 5\n'
        '[[datasets]]\nbatch_size = 4\n[[datasets.subsets]]\nimage_dir = "c"\n'
    )
    config = data(
        tmp_path,
        text,
        ["--shuffle_caption", "--flip_aug", "--train_batch_size=9", "--resolution=640", "--dataset_repeats=3"],
    ).data
    (a, b), (c,) = (part.subsets for part in config.parts)
    assert [one.keep_tokens for one in (a, b, c)] == [0, 2, 1]
    assert [one.num_repeats for one in (a, b, c)] == [3, 5, 3]
    assert not a.shuffle_caption and a.flip_aug and c.caption_extension == ".g"
    assert [(part.resolution, part.batch_size) for part in config.parts] == [((512, 768), 2), ((640, 640), 4)]
    assert not config.folder_mode and config.template is None


@pytest.mark.parametrize(
    ("line", "size"),
    [
        ("512", (512, 512)),
        ("[512, 768]", (512, 768)),
        ('"512,768"', (512, 768)),
        ('"512x768"', (512, 768)),
        ("512.0", (512, 512)),
        ("[512]", (512, 512)),
        ('"64"', (64, 64)),
    ],
)
def test_a_resolution_in_any_form_is_understood(tmp_path, line, size):
    config = data(tmp_path, SIMPLE.replace("512", line))
    assert config.data.parts[0].resolution == size
    assert ("read as" in said(config)) == (line not in ("512", "[512, 768]"))


def test_whole_numbers_for_fractions_and_numbers_for_truth_are_noted(tmp_path):
    config = data(
        tmp_path,
        '[general]\nvalidation_split = 0\nenable_bucket = 1\nface_crop_aug_range = [1, 2]\nkeep_tokens = "2"\n'
        + SIMPLE,
    )
    part, subset = config.data.parts[0], config.data.parts[0].subsets[0]
    assert (part.validation_split, part.enable_bucket, subset.face_crop_aug_range, subset.keep_tokens) == (
        0.0,
        True,
        (1.0, 2.0),
        2,
    )
    assert [
        name
        for name in ("validation_split", "enable_bucket", "face_crop_aug_range", "keep_tokens")
        if name not in said(config)
    ] == []


def test_all_unknown_misplaced_and_unreadable_keys_are_named_with_their_lines(tmp_path):
    found = stopped(
        tmp_path,
        '[general]\nresolutoin = 512\n[[datasets]]\nis_reg = true\nbatch_size = "x"\n[[datasets.subsets]]\n'
        'image_dir = "a"\nnum_repeat = 2\nbatch_size = 1\nrepeats = 3\nfoo_bar_baz = 1\n[genral]\n',
        ["--resolution=64"],
    )
    for words in (
        "d.toml:2: There is no setting resolutoin in [general]. Did you mean resolution?",
        "d.toml:4: is_reg does not belong",
        "d.toml:5: batch_size = 'x' is not a whole number",
        "d.toml:8: There is no setting num_repeat",
        "Did you mean num_repeats?",
        "d.toml:9: batch_size does not belong in [[datasets.subsets]]",
        "d.toml:10: There is no setting repeats",
        "called num_repeats",
        "d.toml:11:",
        "d.toml:12: There is no table genral",
        "Did you mean general?",
    ):
        assert words in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[general]\n", "no [[datasets]]"),
        ("[[datasets]]\nresolution = 512\n", "no subsets"),
        ("[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nnum_repeats = 1\n", "names no pictures"),
        ('[[datasets]]\n[[datasets.subsets]]\nimage_dir = "a"\n', "No training size"),
        (SIMPLE + 'conditioning_data_dir = "m"\n', "--masked_loss"),
        (SIMPLE + "num_repeats = 0\n", "num_repeats = 0"),
        (SIMPLE + '[[datasets.subsets]]\nmetadata_file = "m.json"\n', "different kinds"),
        (SIMPLE + "caption_dropout_rate = 2\n", "between 0 (none) and 1"),
        (SIMPLE + "token_warmup_min = 0\n", "token_warmup"),
        ("[general]\nenable_bucket = true\nmin_bucket_reso = 640\n" + SIMPLE, "smallest bucket (min_bucket_reso 640)"),
        ("[general]\nenable_bucket = true\nmax_bucket_reso = 256\n" + SIMPLE, "largest bucket (max_bucket_reso 256)"),
        ("[general]\nenable_bucket = true\nbucket_reso_steps = 48\n" + SIMPLE, "multiple of 64"),
        ("[general]\nshuffle_caption = True\n" + SIMPLE, "true"),
    ],
)
def test_what_makes_no_sense_stops(tmp_path, text, words):
    assert words in stopped(tmp_path, text)


def test_caching_names_the_subset_whose_option_it_excludes(tmp_path):
    assert "random_crop in subset a" in stopped(tmp_path, SIMPLE + "random_crop = true\n", ["--cache_latents"])


def test_fine_tuning_and_mask_subsets_are_read(tmp_path):
    config = data(
        tmp_path,
        '[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nmetadata_file = "m.json"\nimage_dir = "a"\n'
        "[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = \"b\"\nconditioning_data_dir = 'masks'\n",
        ["--masked_loss"],
    )
    (tune,), (mask,) = (part.subsets for part in config.data.parts)
    assert (tune.metadata_file, tune.image_dir, mask.conditioning_data_dir) == (
        Path("m.json"),
        Path("a"),
        Path("masks"),
    )


@pytest.mark.parametrize(
    ("first", "second", "strengths"),
    [
        ("", "", [None, None]),
        ("slider_strength = 0.5", "", [0.5, 0.0]),
        ("network_multiplier = -1.0", "", [-1.0, 1.0]),
        ("slider_strength = 0.5", "network_multiplier = -1", [0.5, -1.0]),
    ],
)
def test_strengths_mean_neutral_or_one_where_they_are_absent(tmp_path, first, second, strengths):
    config = data(
        tmp_path,
        f'[[datasets]]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "a"\n{first}\nprobability = 0.5\n'
        f'[[datasets.subsets]]\nimage_dir = "b"\n{second}\n',
    )
    subsets = config.data.parts[0].subsets
    assert [one.slider_strength for one in subsets] == strengths and subsets[0].probability == 0.5


@pytest.mark.parametrize(("general", "dataset", "subset", "strength"), [
    ("slider_strength = 1.0", "", "", 1.0), ("slider_strength = 1.0", "slider_strength = -0.5", "", -0.5),
    ("slider_strength = 1.0", "slider_strength = -0.5", "slider_strength = 0.25", 0.25),
    ("network_multiplier = 2.0", "", "", 2.0), ("slider_strength = 1.0", "", "network_multiplier = -1.0", -1.0),
    ("slider_strength = 1.0", "network_multiplier = -1.0", "", -1.0),
    ("", "", "slider_strength = -1.0\nnetwork_multiplier = -1", -1.0), ("slider_strength = 1.0", "", "slider_strength = 0", 0.0)])
def test_the_nearest_strength_counts_whichever_of_its_names_is_used(tmp_path, general, dataset, subset, strength):
    text = f"[general]\nresolution = 512\n{general}\n[[datasets]]\n{dataset}\n[[datasets.subsets]]\nimage_dir = 'a'\n{subset}\n"
    assert data(tmp_path, text).data.parts[0].subsets[0].slider_strength == strength


def test_regularisation_pictures_have_the_strength_of_their_own_table_alone(tmp_path):
    text = ("[general]\nresolution = 512\nslider_strength = -1.0\n[[datasets]]\nnetwork_multiplier = 0.5\n[[datasets.subsets]]\n"
            "image_dir = 'a'\n[[datasets.subsets]]\nimage_dir = 'b'\nis_reg = true\n[[datasets.subsets]]\nimage_dir = 'c'\n"
            "is_reg = true\nslider_strength = 0")
    assert [one.slider_strength for one in data(tmp_path, text).data.parts[0].subsets] == [0.5, None, 0.0]


def test_two_names_of_one_strength_in_one_table_must_agree(tmp_path):
    text = f"{SIMPLE}slider_strength = 0.5\nnetwork_multiplier = -0.5\n"
    assert "slider_strength = 0.5 and network_multiplier = -0.5" in stopped(tmp_path, text)


def test_json_is_read_like_toml(tmp_path):
    text = json.dumps(
        {"general": {"resolution": 512}, "datasets": [{"subsets": [{"image_dir": "a", "num_repeats": 2}]}]}
    )
    assert data(tmp_path, text, name="d.json").data.parts[0].subsets[0].num_repeats == 2
    assert "datasets[0].subsets[0].num_repeat:" in stopped(
        tmp_path, text.replace("num_repeats", "num_repeat"), name="d.json"
    )


def test_one_data_set_table_without_brackets_is_read(tmp_path):
    config = data(tmp_path, '[general]\nresolution = 512\n[[datasets.subsets]]\nimage_dir = "a"\n')
    assert len(config.data.parts) == 1 and "one data set" in said(config)


def test_folder_flags_beside_a_data_set_file_are_left_aside_with_a_warning(tmp_path):
    config = data(tmp_path, SIMPLE, ["--train_data_dir=x"])
    assert config.data.train_data_dir is None and "used instead of --train_data_dir" in said(config)


def test_folder_mode_leaves_the_folders_to_the_scan():
    config = resolved(["--reg_data_dir=", "--keep_tokens=1", "--caption_extension=.txt", "--enable_bucket"]).data
    assert config.folder_mode and config.reg_data_dir is None and config.train_data_dir == Path("train")
    assert len(config.parts) == 1 and config.parts[0].subsets == () and config.parts[0].enable_bucket
    assert (config.template.keep_tokens, config.template.caption_extension, config.template.image_dir) == (
        1,
        ".txt",
        None,
    )


def test_metadata_in_folder_mode_is_one_subset():
    part = resolved(["--in_json=m.json", "--dataset_repeats=3"]).data.parts[0]
    assert [(one.metadata_file, one.image_dir, one.num_repeats) for one in part.subsets] == [
        (Path("m.json"), Path("train"), 3)
    ]


def test_bucket_limits_that_nobody_chose_make_room_for_the_resolution():
    small, large = (
        resolved(["--resolution=64", "--enable_bucket"]),
        resolved(["--resolution=768,1152", "--enable_bucket"]),
    )
    assert small.data.parts[0].min_bucket_reso == 64 and large.data.parts[0].max_bucket_reso == 1152
    assert "min_bucket_reso (not given)" in said(small) and "max_bucket_reso (not given)" in said(large)
    with pytest.raises(UserError, match="larger than the largest bucket"):
        resolved(["--resolution=768,1152", "--enable_bucket", "--max_bucket_reso=1024"])


def test_the_old_spelling_of_caption_extension_wins():
    assert resolved(["--caption_extention=.txt"]).data.template.caption_extension == ".txt"
