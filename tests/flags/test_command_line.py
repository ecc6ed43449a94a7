"""Command lines: what kohya accepts means the same here, and what it rejects gets an answer."""

from __future__ import annotations

import random
import shlex

import pytest

from library.flags import SCRIPTS, collect, flags_of, parse
from library.flags.parser import CollectingParser
from library.flags.table import KOHYA, OURS
from library.util import frame
from library.util.records import UserError
from tests.flags.reference import COMMANDS, kohya_parser, recorded

RECIPE = (
    "--pretrained_model_name_or_path=runwayml/stable-diffusion-v1-5 --train_data_dir=dataset/lineart "
    "--output_dir=lora_out "
    "--resolution=512,512 --network_alpha=4 --network_dim=4 --network_module=networks.lora --output_name=lineart_lora "
    "--train_batch_size=1 --max_train_steps=1000 --learning_rate=1e-4 --lr_scheduler=constant --text_encoder_lr=5e-5 "
    "--mixed_precision=fp16 --save_every_n_steps=100 --save_model_as=safetensors --caption_extension=.txt "
    "--enable_bucke --save_state"
)


def problems(line: str | list[str], script: str = "train_network.py"):
    with pytest.raises(UserError) as caught:
        parse(line.split() if isinstance(line, str) else line, script)
    return caught.value.problems


def texts(found) -> str:
    return "\n".join(f"{one.where}: {one.what} {one.remedy}" for one in found)


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_abbreviation_means_what_it_means_to_kohya(script):
    reference, ours = kohya_parser(script), CollectingParser(script)
    for prefix in sorted({name[:length] for name in flags_of(script) for length in range(1, len(name) + 1)}):
        option = f"--{prefix}"
        exact = option in reference._option_string_actions
        theirs = [option[2:]] if exact else [entry[0].dest for entry in reference._get_option_tuples(option)]
        ours.unclear.clear()
        given, rest = ours.read([option])
        if len(theirs) == 1:
            assert list(given) == theirs and not rest, prefix
        elif theirs:
            assert sorted(ours.unclear[option]) == sorted(theirs), prefix
        else:
            own = {flag.name for flag in flags_of(script).values() if flag.ours}
            assert set(given) | set(ours.unclear.get(option, [])) <= own, prefix


def test_no_flag_of_ours_is_the_beginning_of_one_of_kohyas():
    assert not [(one.name, two.name) for one in OURS for two in KOHYA if two.name.startswith(one.name)]


@pytest.mark.parametrize("name", [flag.name for flag in flags_of("train_network.py").values() if flag.ours])
def test_our_own_flags_can_be_typed_in_full(name):
    flag = flags_of("train_network.py")[name]
    value = "3" if flag.type in (int, float) else (flag.choices or ("a",))[-1]
    argv = [f"--{name}"] if flag.is_switch or flag.const else [f"--{name}", value]
    assert parse(argv).given(name)


def test_random_command_lines_parse_like_argparse():
    draw = random.Random(5)
    for _ in range(60):
        script = draw.choice(SCRIPTS)
        argv = _random_line(script, draw)
        expected = kohya_parser(script).parse_args(argv)
        flags = parse(argv, script)
        assert {name: flags[name] for name in vars(expected)} == vars(expected), argv


def _random_line(script: str, draw: random.Random) -> list[str]:
    entries = recorded(script)
    words = {
        "int": lambda: str(draw.randint(-3, 3000)),
        "float": lambda: draw.choice(["1e-4", "0.5", "-1", "3"]),
        "int_or_float": lambda: draw.choice(["5%", "100", "0.05", "0"]),
        "Path": lambda: "a/b c.toml",
    }
    argv: list[str] = []
    for name in draw.sample(sorted(entries), draw.randint(1, 12)):
        entry = entries[name]
        option = f"--{name}"
        for cut in range(len(name), 2, -1):
            if draw.random() < 0.3 and [one for one in entries if one.startswith(name[:cut])] == [name]:
                option = f"--{name[:cut]}"
        if entry["action"] == "_StoreTrueAction":
            argv.append(option)
            continue
        choices = [str(choice) for choice in entry["choices"] or [] if choice is not None]
        value = (
            (lambda choices=choices: draw.choice(choices))
            if choices
            else words.get(entry["type"], lambda: draw.choice(["x", "a b", "k=v,w", ".txt"]))
        )
        if entry["nargs"] == "*":
            argv += [option, *(value() for _ in range(draw.randint(0, 3)))]
        else:
            argv += [f"{option}={value()}"] if draw.random() < 0.5 else [option, value()]
    return argv


def test_the_proven_recipe_is_read_as_it_was_meant():
    flags = parse(shlex.split(RECIPE))
    expected = next(one for one in COMMANDS if ["enable_bucke", True] in one["flags"])["means"]
    changed = flags.changed()
    assert changed == {**expected, "network_alpha": 4.0}
    assert flags.origin("network_dim") == "command line" and flags.origin("seed") == "default"
    assert [(one.where, "--enable_bucket" in one.what) for one in flags.notes] == [("--enable_bucke", True)]


def test_all_problems_of_a_line_are_reported_together():
    found = texts(
        problems(
            "--network_dimm 4 --network_dim four --mixed_precision fp17 --cache_latent --split_attn --num_processes 1"
        )
    )
    for words in (
        "Did you mean --network_dim",
        '"four" is not a whole number',
        "Possible: no, fp16, bf16",
        "--cache_latents, --cache_latents_to_disk",
        "hunyuan_image_train_network.py, anima_train_network.py",
        "It belongs to accelerate",
    ):
        assert words in found


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--resolution", "512", "512"], "512,512"),
        (["--resolution", "768,", "768"], "768,768"),
        (["--resolution=512,", "768"], "512,768"),
        (["--resol", "512", "768"], "512,768"),
        (["--resolution=512", ",768"], "512,768"),
    ],
)
def test_a_size_that_a_shell_split_is_joined_with_a_note(typed, meant):
    flags = parse([*typed, "--v2"])
    assert flags["resolution"] == meant and flags["v2"]
    assert any(one.where == "--resolution" and one.severity == "warn" for one in flags.notes)


def test_a_path_that_swallowed_the_next_flags_is_recognised():
    found = problems(["--output_dir", 'C:\\out" --network_dim 4', "--v2"])
    assert "swallowed" in found[0].what and "C:\\out" in found[0].remedy


def test_a_quote_left_at_the_end_of_a_path_is_dropped_with_a_note():
    flags = parse(["--output_dir", 'C:\\out"'])
    assert flags["output_dir"] == "C:\\out" and flags.notes


def test_typographic_dashes_and_quotes_are_understood_or_named():
    flags = parse(["—network_dim", "4", "\u2013enable_bucket", "--output_dir", "“my lora”"])
    assert (flags["network_dim"], flags["enable_bucket"], flags["output_dir"]) == (4, True, "my lora")
    assert "plain quotes" in texts(problems(["--output_name=“my", "lora”"]))


@pytest.mark.parametrize("mark", ["^", "\\", "`", " "])
def test_a_continuation_mark_of_another_shell_is_named(mark):
    found = texts(problems(["--network_dim", "4", mark]))
    assert "PowerShell" in found and "one line" in found


def test_a_value_after_an_equals_sign_and_a_space_is_taken():
    flags = parse(["--config_file=", "a.toml", "--caption_prefix=", "--v2"])
    assert flags["config_file"] == "a.toml" and flags["caption_prefix"] == "" and flags["v2"]


@pytest.mark.parametrize("sign", ["=", " "])
def test_an_unquoted_path_with_blanks_is_answered_by_the_line_that_works(sign):
    typed = f"--train_data_dir{sign}C:/My Data/x y --v2 --output_n{sign}a b --wandb_api_key=secret --resolution 512,512"
    found = problems(typed)
    assert [one.where for one in found] == ["--train_data_dir", "--output_n"]
    assert found[0].remedy == 'Write --train_data_dir="C:/My Data/x y".'
    line = found[-1].command
    assert f"\n{line}" in frame.render(found, 60)
    assert line == ('accelerate launch train_network.py --train_data_dir="C:/My Data/x y" --v2 --output_n="a b" '
                    "--wandb_api_key=(hidden) --resolution 512,512")
    flags = parse(shlex.split(line)[3:])
    assert (flags["train_data_dir"], flags["output_name"]) == ("C:/My Data/x y", "a b")


@pytest.mark.parametrize("line", ["--train_data_dir train ^", "--train_data_dir train # mine",
                                  "--network_module networks.lora a=1"])
def test_words_that_are_no_part_of_a_path_are_not_joined_to_it(line):
    assert "without quotes" not in texts(problems(line))


def test_a_switch_understands_true_and_false():
    flags = parse(["--enable_bucket", "true", "--save_state=false"])
    assert flags["enable_bucket"] is True and flags["save_state"] is False and len(flags.notes) == 2


def test_the_last_of_two_equal_flags_holds_with_a_warning():
    flags = parse(["--network_args", "a=1", "--network_args", "b=2"])
    assert flags["network_args"] == ["b=2"] and flags.notes[0].severity == "warn"


def test_a_value_with_a_leading_hyphen_is_asked_for_with_an_equals_sign():
    assert "needs the =" in texts(problems("--caption_suffix -foo"))
    assert parse(["--caption_suffix=-foo", "--noise_offset", "-0.1"])["caption_suffix"] == "-foo"


def test_flags_typed_with_one_hyphen_or_with_hyphens_inside_are_named():
    found = texts(problems("-network_dim 4 --network-alpha 1"))
    assert "Write --network_dim." in found and "Write --network_alpha." in found


def test_secrets_are_shown_nowhere():
    token = "hf_" + "abcdefghijklmnop1234"
    flags = parse([f"--huggingface_token={token}", "--wandb_api_key", "0" * 40])
    assert flags["huggingface_token"] == token
    assert token not in repr(flags) and "0" * 40 not in repr(flags)
    assert flags.shown("huggingface_token") == "(hidden)"
    assert token not in texts(problems([f"--hub_tokn={token}", "--network_dim", token, token]))
    for words in (
        ["--wandb_api", "key123", "key123"],
        ["--wandb_api_key", "\u201ckey123"],
        ['--wandb_api_key=key123" --v2'],
    ):
        assert "key123" not in texts(problems(words))


LORA_SCRIPTS = [one for one in COMMANDS if one["given_as"] == "command" and one["script"] in SCRIPTS]


def as_argv(record) -> list[str]:
    argv: list[str] = []
    for name, value in record["flags"]:
        values = value if isinstance(value, list) else [] if value is True else [value]
        argv += [f"--{name}", *(str(one) for one in values)]
    return argv


WRAPPED = [one for one in COMMANDS if one["script"] == "train_network_wrapper.py"]
"""A notebook's wrapper hands its words on to train_network.py."""


@pytest.mark.parametrize(
    "record", [one for one in LORA_SCRIPTS if one["accepted"]] + WRAPPED, ids=lambda one: one["script"]
)
def test_recorded_command_lines_mean_what_they_mean_to_kohya(record):
    changed = parse(as_argv(record), record["script"].replace("_wrapper", "")).changed()
    assert {name: str(value) if name == "dataset_config" else value for name, value in changed.items()} == record[
        "means"
    ]


HINTS = {
    "DIM_FOR_LINEAR": "placeholder",
    "train_inpainting": "inpainting",
    "text_encoder_lr1": "--text_encoder_lr 1e-5 1e-5",
    "validation_split": "placeholder",
}


@pytest.mark.parametrize("record", [one for one in LORA_SCRIPTS if not one["accepted"]], ids=lambda one: one["script"])
def test_command_lines_that_kohya_rejects_get_a_hint(record):
    argv = as_argv(record) + [word for word in record["unknown"] or [] if not word.startswith("--")]
    found = texts(problems(argv, record["script"]))
    hint = next(hint for word, hint in HINTS.items() if word in str(record["flags"]))
    assert hint in found


def test_problems_are_masked_and_name_flag_value_and_way_out():
    for one in problems("--network_dim x --mixed_precision y --foo --resume"):
        assert one.where.startswith("--") and one.what and one.remedy and one.severity == "stop"


@pytest.mark.parametrize(("typed", "meant"), [("1,5e-4", "1.5e-4"), ("1e-4.", "1e-4")])
def test_a_decimal_comma_and_a_full_stop_are_understood_as_what_was_meant(typed: str, meant: str) -> None:
    _, problems = collect([f"--learning_rate={typed}"])
    assert [p.remedy for p in problems] == [f"Did you mean {meant}? Numbers are written with a point, as in 1.5e-4."]


def test_blanks_around_the_equals_sign_are_named() -> None:
    _, problems = collect(["--output_dir", "=", "out", "--seed=1"])
    assert [(p.where, p.remedy) for p in problems] == [("--output_dir", "Write --output_dir=out without blanks.")]


@pytest.mark.parametrize(
    "word", ["--network_dim＝8", "－－network_dim=8", "ーーnetwork_dim=8", "--ｎetwork_dim=8", "--network_dim=８"]
)
def test_full_width_signs_of_a_japanese_keyboard_are_read_and_named(word):
    flags = parse(["--output_name=猫ＬｏＲＡ", word])
    assert flags["network_dim"] == 8 and flags["output_name"] == "猫ＬｏＲＡ"
    assert any(note.where == "--network_dim" and note.severity == "warn" for note in flags.notes)


def test_full_width_blanks_commas_and_minus_signs_are_read_and_named():
    flags = parse(["--network_dim=8　--seed=3", "--resolution=512，768", "--learning_rate=1eー4"])
    assert (flags["network_dim"], flags["seed"], flags["resolution"], flags["learning_rate"]) == (8, 3, "512,768", 1e-4)
    assert {note.where for note in flags.notes} == {"--seed", "--resolution", "--learning_rate"}
