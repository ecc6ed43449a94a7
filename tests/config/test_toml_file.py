"""Settings files: kohya's merge rules, the tolerance that real files need, and what stops."""

from __future__ import annotations

import json
import tomllib

import pytest
import toml

from library.config.keyvals import as_strings, as_values
from library.config.near_key import distance, misspelt
from library.config.toml_file import read_command
from library.config.understand import UNSET, understand
from library.flags import flags_of, parse
from library.util.records import UserError
from tests.config.helpers import from_file, notes
from tests.flags.reference import COMMANDS


def stopped(folder, text, **options) -> str:
    with pytest.raises(UserError) as caught:
        from_file(folder, text, **options)
    return "\n".join(f"{one.where}: {one.what} {one.remedy}" for one in caught.value.problems)


def test_command_line_wins_over_file_and_file_over_defaults(tmp_path):
    flags = from_file(tmp_path, "network_dim = 8\nseed = 3\n", ["--network_dim", "4"])
    assert (flags["network_dim"], flags["seed"], flags["max_train_steps"]) == (4, 3, 1600)
    assert [flags.origin(name) for name in ("network_dim", "seed", "max_train_steps")] == [
        "command line",
        "a.toml:2",
        "default",
    ]


def test_tables_are_flattened_and_the_later_key_wins(tmp_path):
    flags = from_file(tmp_path, "[a]\nnetwork_dim = 8\n[b]\nnetwork_dim = 16\n[c.d]\nseed = 1\n")
    assert (flags["network_dim"], flags.origin("network_dim"), flags["seed"]) == (16, "a.toml:4", 1)


def test_the_ending_toml_is_added_where_it_is_missing(tmp_path):
    (tmp_path / "a.toml").write_text("seed = 1\n", encoding="utf-8")
    assert read_command(["--config_file", str(tmp_path / "a")])["seed"] == 1


def test_a_missing_file_is_answered_with_the_near_name(tmp_path):
    (tmp_path / "settings.toml").write_text("", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_command(["--config_file", str(tmp_path / "setings")])
    assert "settings.toml" in caught.value.problems[0].remedy


def test_problems_of_line_and_file_are_reported_together(tmp_path):
    found = stopped(tmp_path, "netwrok_dim = 8\n", argv=["--network_dim", "x"])
    assert "network_dim?" in found and '"x" is not a whole number' in found


TOLERANT = [
    ('reg_data_dir = ""', "reg_data_dir", None, "Empty values count as not given: reg_data_dir"),
    ("text_encoder_lr = 5e-5", "text_encoder_lr", [5e-5], "read as the list"),
    ('clip_skip = "2"', "clip_skip", 2, '"2" is read as 2'),
    ("persistent_data_loader_workers = 1", "persistent_data_loader_workers", True, "1 is read as true"),
    ('cache_latents = "true"', "cache_latents", True, "is read as true"),
    ("max_token_length = 75", "max_token_length", None, "75 is read as the default"),
    ('dynamo_backend = "no"', "dynamo_backend", "inductor", '"no" is read as the default'),
    ('lr_warmup_steps = "5%"', "lr_warmup_steps", 0.05, '"5%" is read as 0.05'),
    ("optimizer_args = \"[ 'a=1', 'b=0.9,0.99' ]\"", "optimizer_args", ["a=1", "b=0.9,0.99"], "read as the list"),
    ('optimizer_args = "a=1 b=0.9,0.99"', "optimizer_args", ["a=1", "b=0.9,0.99"], "read as the list"),
    ("network_args = { conv_dim = 4 }", "network_args", ["conv_dim=4"], "a table is read as"),
    ("bucket_reso_steps = 64.0", "bucket_reso_steps", 64, "64.0 is read as 64"),
    ("resolution = [512, 768]", "resolution", "512,768", "is read as"),
    ('learning_rate = "1e-4"', "learning_rate", 1e-4, '"1e-4" is read as 0.0001'),
    ("network_dim = [8]", "network_dim", 8, "a list of one"),
]


@pytest.mark.parametrize(("line", "name", "value", "note"), TOLERANT, ids=[case[0] for case in TOLERANT])
def test_values_of_another_type_are_understood_and_said(tmp_path, line, name, value, note):
    flags = from_file(tmp_path, line)
    assert flags[name] == value
    assert note in notes(flags)


@pytest.mark.parametrize(
    "line",
    [
        "resolution = 512",
        "learning_rate = 1",
        "network_dim = 8",
        'save_precision = "fp16"',
        "network_alpha = 4",
        "enable_bucket = false",
        'dataset_config = "d.toml"',
    ],
)
def test_plain_values_need_no_note(tmp_path, line):
    assert notes(from_file(tmp_path, line)) == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_token_length = 255", "225"),
        ('network_dim = "four"', "a whole number"),
        ("network_dim = [4, 8]", "one value"),
        ("network_dim = true", "where a number is expected"),
        ('enable_bucket = "maybe"', "true or false"),
        ('mixed_precision = "fp17"', "Did you mean fp16"),
    ],
)
def test_values_without_a_plain_meaning_stop_with_line_and_remedy(tmp_path, line, words):
    found = stopped(tmp_path, f"\n{line}\n")
    assert found.startswith("a.toml:2:") and words in found


def test_a_byte_order_mark_and_utf16_are_read(tmp_path):
    assert from_file(tmp_path, '﻿seed = 7\noutput_name = "絵"\n')["seed"] == 7
    assert from_file(tmp_path, 'output_name = "絵"\n'.encode("utf-16"))["output_name"] == "絵"


def test_a_file_in_another_code_page_is_read_with_a_warning(tmp_path):
    flags = from_file(tmp_path, 'output_name = "絵"\n'.encode("cp932"))
    assert flags["output_name"] == "絵" and "UTF-8" in notes(flags)


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ('train_data_dir = "C:\\new\\table"', "train_data_dir", "C:/new/table"),
        ('train_data_dir = "dataset\\lineart"', "train_data_dir", "dataset/lineart"),
        ('output_dir = "C:\\Users\\a\\"', "output_dir", "C:/Users/a/"),
        ('base_weights = ["D:\\a.safetensors"]', "base_weights", ["D:/a.safetensors"]),
        ('resume = "\\\\server\\share\\x"', "resume", "//server/share/x"),
    ],
)
def test_windows_paths_in_double_quotes_are_mended_with_a_warning(tmp_path, line, name, value):
    flags = from_file(tmp_path, f"seed = 1\n{line}\n")
    assert flags[name] == value and "a.toml:2" in notes(flags)


def test_windows_paths_with_doubled_backslashes_or_single_quotes_stay_as_they_are(tmp_path):
    flags = from_file(tmp_path, "train_data_dir = \"C:\\\\new\"\noutput_dir = 'C:\\table'\n")
    assert (flags["train_data_dir"], flags["output_dir"], notes(flags)) == ("C:\\new", "C:\\table", "")


def test_control_characters_in_a_path_stop_the_run(tmp_path):
    assert "control characters" in stopped(tmp_path, 'train_data_dir = """data\\new"""\n')


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("enable_bucket = True", "enable_bucket = true"),
        ("output_name = foo", "'foo'"),
        ("train_data_dir = C:\\x", "'C:\\x'"),
        ("seed = 1\nseed = 2", "first in line 2"),
        ("resolution = 512,512", '"512,512"'),
        ("seed =", "leave the line out"),
        ("seed = None", "leave the line out"),
        ('output_name = "abc', "do not close"),
    ],
)
def test_what_toml_does_not_allow_is_answered_with_line_and_spelling(tmp_path, line, remedy):
    found = stopped(tmp_path, f"v2 = false\n{line}\n")
    assert remedy in found and "a.toml:" in found


def test_all_such_lines_are_named_at_once(tmp_path):
    assert len(stopped(tmp_path, "a = True\nb = x\nseed = 1\nseed = 2\n").splitlines()) == 3


MENDED = [
    ("lr_restart_cycles = 3", "lr_scheduler_num_cycles", 3),
    ("warmup_ratio = 0.05\nlr_scheduler = 'cosine'", "lr_warmup_steps", 0.05),
    ("epoch = 4", "max_train_epochs", 4),
    ("text_encoder_lr1 = 1e-5\ntext_encoder_lr2 = 2e-5", "text_encoder_lr", [1e-5, 2e-5]),
    ('loraplus_lr_ratio = 16\nnetwork_args = ["conv_dim=4"]', "network_args", ["conv_dim=4", "loraplus_lr_ratio=16"]),
]


@pytest.mark.parametrize(("text", "name", "value"), MENDED, ids=[case[1] for case in MENDED])
def test_keys_of_front_ends_with_a_plain_meaning_are_mended(tmp_path, text, name, value):
    flags = from_file(tmp_path, text)
    assert flags[name] == value and flags.origin(name).startswith("a.toml:") and "is read as" in notes(flags)


@pytest.mark.parametrize(
    "key", ["noise_offset_type", "lowvram", "save_toml", "train_text_encoder", "num_cpu_threads_per_process"]
)
def test_other_keys_of_front_ends_are_explained_in_one_line(tmp_path, key):
    flags = from_file(tmp_path, f"{key} = true\n")
    assert notes(flags).count("\n") == 0 and key in notes(flags)


@pytest.mark.parametrize("text", ["max_train_steps = 100\nepoch = 4", "max_train_epochs = 2\nepoch = 4"])
def test_epoch_counts_only_where_nothing_else_says_the_length(tmp_path, text):
    flags = from_file(tmp_path, text)
    assert flags["max_train_epochs"] in (None, 2) and "left aside" in notes(flags)
    assert from_file(tmp_path, "epoch = 4", ["--max_train_steps", "9"])["max_train_epochs"] is None


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("learing_rate", "learning_rate"),
        ("netwrok_dim", "network_dim"),
        ("network-alpha", "network_alpha"),
        ("sede", "seed"),
        ("Network_Dim", "network_dim"),
    ],
)
def test_a_misspelt_key_stops_with_the_flag_it_means(tmp_path, key, meant):
    assert f"Did you mean {meant}?" in stopped(tmp_path, f"{key} = 1\n")


def test_keys_that_are_no_misspelling_are_listed_once_and_the_run_goes_on(tmp_path):
    flags = from_file(tmp_path, 'my_own_note = 1\nsplit_attn = true\nlr = 1\nseed = 2\n')
    listed = [one for one in flags.notes if "left aside" in one.what]
    assert len(listed) == 1 and flags["seed"] == 2
    assert all(
        word in listed[0].what
        for word in ("my_own_note", "split_attn (hunyuan_image_train_network.py, anima_train_network.py)", "lr")
    )


def test_a_data_set_file_given_as_settings_file_is_recognised(tmp_path):
    assert "--dataset_config a.toml" in stopped(tmp_path, "[general]\nresolution = 512\n[[datasets]]\n")


def test_a_warmup_ratio_beside_a_constant_rate_is_left_aside(tmp_path):
    flags = from_file(tmp_path, "warmup_ratio = 0.05\n")
    assert flags["lr_warmup_steps"] == 0 and "no warm-up" in notes(flags)


def test_an_unreadable_line_never_shows_a_key(tmp_path):
    assert "abc123" not in stopped(tmp_path, "wandb_api_key = abc123\n")


def test_a_distance_of_two_counts_only_where_one_flag_is_near():
    assert distance("abcd", "abdc") == 1 and distance("abc", "") == 3 and distance("kitten", "sitting") == 3
    assert misspelt("save_every_n_step", ["save_every_n_steps", "other"]) == "save_every_n_steps"
    assert misspelt("aaaab", ["aaaac", "aaaad"]) is None
    assert misspelt("ab", ["ae", "v2"]) is None


RECORDS = [one for one in COMMANDS if one["given_as"] != "command"]


@pytest.mark.parametrize("record", RECORDS, ids=[f"{one['given_as']}-{one['script']}" for one in RECORDS])
def test_recorded_settings_files_mean_what_they_mean_to_kohya(tmp_path, record):
    text = "".join(
        f"[t{index}]\n{name} = {json.dumps(value, ensure_ascii=False)}\n"
        for index, (name, value) in enumerate(record["flags"])
    )
    flags = from_file(tmp_path, text, script=record["script"])
    table = flags_of(record["script"])
    expected = {name: understand(table[name], value)[0] for name, value in record["means"].items()}
    expected = {name: value for name, value in expected.items() if value is not UNSET and value != table[name].default}
    changed = {name: value for name, value in flags.changed().items() if name != "config_file"}
    mended = {
        "warmup_ratio": "lr_warmup_steps",
        "lr_warmup_ratio_popup": "lr_warmup_steps",
        "lr_restart_cycles": "lr_scheduler_num_cycles",
    }
    for key in record["unknown"]:
        assert key in notes(flags)
        changed.pop(mended.get(key), None)
    assert changed == expected


def test_output_config_writes_what_both_toml_readers_and_we_read_back(tmp_path, capsys):
    path = tmp_path / "out.toml"
    line = [
        "--network_dim=4",
        "--learning_rate=1e-05",
        "--text_encoder_lr",
        "1e-5",
        "2",
        '--output_name=a "b" \\ 絵',
        "--network_args",
        "a=1",
        "--enable_bucket",
        "--lr_warmup_steps=5%",
        "--huggingface_token=hf_" + "a" * 30,
        "--wandb_api_key=k",
        "--base_weights",
        "--training_comment=key hf_" + "b" * 30,
    ]
    with pytest.raises(SystemExit) as end:
        read_command([*line, "--output_config", "--config_file", str(tmp_path / "out")])
    assert end.value.code == 0 and str(path) in capsys.readouterr().out
    written = path.read_text(encoding="utf-8")
    assert toml.loads(written) == tomllib.loads(written)
    assert "hf_" not in written and "wandb" not in written and "config_file" not in written
    again, before = read_command(["--config_file", str(path)]), parse(line)
    secret = ("config_file", "huggingface_token", "wandb_api_key", "training_comment")
    assert _without(again.changed(), secret) == _without(before.changed(), secret)


def _without(values, names):
    return {name: value for name, value in values.items() if name not in names}


def test_output_config_never_overwrites_a_file(tmp_path):
    (tmp_path / "out.toml").write_text("seed = 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        read_command(["--output_config", "--config_file", str(tmp_path / "out.toml")])
    assert (tmp_path / "out.toml").read_text(encoding="utf-8") == "seed = 1\n"


def test_gui_presets_become_the_flags_that_the_gui_writes(tmp_path):
    preset = {
        "LoRA_type": "LyCORIS/LoKr",
        "LyCORIS_preset": "full",
        "conv_dim": 4,
        "conv_alpha": 1,
        "factor": 8,
        "unit": 1,
        "optimizer": "Prodigy",
        "optimizer_args": "weight_decay=0.01 decouple=True",
        "max_resolution": "1024,1024",
        "sdxl": True,
        "sdxl_no_half_vae": True,
        "clip_skip": "1",
        "max_token_length": "75",
        "seed": "",
        "vae_batch_size": 0,
        "text_encoder_lr": 0,
        "unet_lr": 1.0,
        "lr_warmup": 10,
        "lr_scheduler": "cosine",
        "epoch": 160,
        "noise_offset": 0.1,
        "noise_offset_type": "Multires",
        "multires_noise_iterations": 6,
        "xformers": "xformers",
        "num_cpu_threads_per_process": 2,
        "use_wandb": False,
        "max_data_loader_n_workers": "0",
        "additional_parameters": "--gradient_accumulation_steps 2",
        "max_train_steps": 0,
        "flux1_cache_text_encoder_outputs": True,
    }
    flags = from_file(tmp_path, json.dumps(preset), script="sdxl_train_network.py", name="p.json")
    assert {k: v for k, v in flags.changed().items() if k != "config_file"} == {
        "network_module": "lycoris.kohya",
        "network_args": ["algo=lokr", "preset=full", "conv_dim=4", "conv_alpha=1", "factor=8"],
        "optimizer_type": "Prodigy",
        "optimizer_args": ["weight_decay=0.01", "decouple=True"],
        "resolution": "1024,1024",
        "no_half_vae": True,
        "clip_skip": 1,
        "unet_lr": 1.0,
        "network_train_unet_only": True,
        "lr_warmup_steps": 0.1,
        "lr_scheduler": "cosine",
        "max_train_epochs": 160,
        "multires_noise_iterations": 6,
        "xformers": True,
        "max_data_loader_n_workers": 0,
        "gradient_accumulation_steps": 2,
    }


def test_a_gui_preset_for_one_kind_of_model_ignores_the_ticks_of_another(tmp_path):
    preset = {
        "LoRA_type": "Standard",
        "sdxl": False,
        "sdxl_no_half_vae": True,
        "sdxl_cache_text_encoder_outputs": True,
        "text_encoder_lr": 1e-5,
        "unet_lr": 1e-4,
        "guidance_scale": 3.5,
        "lr_scheduler": "constant",
        "lr_warmup": 10,
        "conv_dim": 8,
    }
    flags = from_file(tmp_path, json.dumps(preset), name="p.json")
    assert {k: v for k, v in flags.changed().items() if k != "config_file"} == {
        "network_module": "networks.lora",
        "network_args": [],
        "text_encoder_lr": [1e-5, 1e-5],
        "unet_lr": 1e-4,
    }


def test_settings_by_name_are_read_as_python_reads_them():
    problems = []
    words = [
        "weight_decay=0.1",
        "betas=0.9,0.99",
        "b=[0.9,0.999]",
        "decouple=true",
        "x=None",
        "mode=max",
        'q="0.1"',
        "lr",
        "=",
        "0.5",
    ]
    found = as_values("optimizer_args", words, problems)
    assert found == {
        "weight_decay": 0.1,
        "betas": (0.9, 0.99),
        "b": [0.9, 0.999],
        "decouple": True,
        "x": None,
        "mode": "max",
        "q": 0.1,
        "lr": 0.5,
    }
    assert not problems
    assert as_values("optimizer_args", ["a=1 b=2"], problems) == {"a": 1, "b": 2}
    assert as_strings("network_args", ["conv_dim=4", "preset=full"], problems) == {"conv_dim": "4", "preset": "full"}


def test_settings_by_name_that_cannot_be_read_are_named():
    problems = []
    as_values("optimizer_args", ["weight_decay", "a=[1", "=3"], problems)
    assert len(problems) == 3 and all("optimizer_args" in one.where for one in problems)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "cp932"])
def test_a_settings_file_saved_by_notepad_is_read_and_its_encoding_named(tmp_path, encoding):
    file = tmp_path / "a.toml"
    file.write_bytes('network_dim = 16\noutput_name = "猫"\n'.encode(encoding))
    flags = read_command([f"--config_file={file}"], "train_network.py")
    assert flags["network_dim"] == 16 and flags["output_name"] == "猫"
    assert any("not UTF-8" in note.what for note in flags.notes) == (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    "line", ["output_name = “mine”", "learning_rate　=　1e-4", "learning_rate ＝ 1e-4", "output_name = 「猫」"]
)
def test_typographic_and_full_width_signs_in_a_settings_file_are_named(tmp_path, line):
    (tmp_path / "a.toml").write_text(f"seed = 1\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_command([f"--config_file={tmp_path / 'a.toml'}"], "train_network.py")
    (found,) = caught.value.problems
    assert found.where == "a.toml:2" and "full-width signs" in found.what


def test_an_ending_that_windows_hides_is_named(tmp_path):
    (tmp_path / "a.toml.txt").touch()
    with pytest.raises(UserError, match=r"Windows hides the ending \.txt"):
        read_command([f"--config_file={tmp_path / 'a.toml'}"], "train_network.py")


def test_the_rules_of_a_piecewise_schedule_are_a_word_with_commas():
    problems = []
    assert as_values("lr_scheduler_args", ["step_rules=1:100,0.1:200,0.01"], problems) == {
        "step_rules": "1:100,0.1:200,0.01"}
    assert problems == []
