"""Prompt files."""

import json
import logging
from pathlib import Path

import pytest

from library.sample.prompts import PromptLine, parse_line, read_prompts, with_defaults
from library.util.records import UserError


def write(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_every_option_of_a_line_is_read():
    line = parse_line("a cat, sitting --n blurry, low quality --w 768 --h 512 --d 42 --s 28 --l 7.5 --g 3.5 "
                      "--ss euler_a --cn pose.png --ctr 0.25 --rcfg 1.0 --fs 3.0 --am -0.5")
    assert line == PromptLine("a cat, sitting", "blurry, low quality", 768, 512, 42, 28, 7.5, 3.5, "euler_a",
                              Path("pose.png"), 0.25, 1.0, 3.0, -0.5)


def test_what_a_line_leaves_open_stays_open():
    assert parse_line("a cat") == PromptLine("a cat")


def test_options_are_read_in_any_case_and_a_prompt_may_hold_dashes():
    prompt = "a well-lit cat -- really"
    assert parse_line(f"{prompt} --W 64 --D 7") == PromptLine(prompt, width=64, seed=7)


def test_a_line_may_begin_with_an_option():
    assert parse_line("--n blurry --d 3") == PromptLine("", "blurry", seed=3)


@pytest.mark.parametrize(("typed", "steps"), [("0", 1), ("5000", 1000), ("20", 20)])
def test_steps_are_kept_between_1_and_1000(typed, steps):
    assert parse_line(f"a --s {typed}").steps == steps


def test_an_unknown_option_is_left_out_with_a_line_in_the_log(caplog):
    with caplog.at_level(logging.WARNING):
        assert parse_line("a cat --ar 16:9 --d 3", "p.txt:4") == PromptLine("a cat", seed=3)
    assert "p.txt:4" in caplog.text and "--ar" in caplog.text


def test_comments_and_empty_lines_are_passed_over_and_the_rest_is_numbered(tmp_path):
    path = write(tmp_path, "p.txt", "# first\n\na cat --d 1\r\n  \n  # more\na dog --d 2\n")
    assert [(line.prompt, line.seed, line.index) for line in read_prompts(path)] == [("a cat", 1, 0), ("a dog", 2, 1)]


def test_a_byte_order_mark_and_japanese_are_read(tmp_path):
    path = write(tmp_path, "プロンプト.TXT", "\ufeff猫、座る --d 1\n")
    assert read_prompts(path)[0].prompt == "猫、座る"


def test_all_that_is_wrong_in_a_file_is_said_with_its_line(tmp_path):
    path = write(tmp_path, "p.txt", "a cat --w wide\na dog\na cow --d x --l y\n")
    with pytest.raises(UserError) as caught:
        read_prompts(path)
    assert [(p.where, p.what.split()[0]) for p in caught.value.problems] == [
        ("p.txt:1", "--w"), ("p.txt:3", "--d"), ("p.txt:3", "--l")]
    assert "--w 512" in caught.value.problems[0].remedy


def test_toml_subsets_take_the_defaults_of_the_prompt_table(tmp_path):
    path = write(tmp_path, "p.toml", '[prompt]\nwidth = 64\nsample_steps = 9\n'
                                     '[[prompt.subset]]\nprompt = "a cat"\nseed = 1\n'
                                     '[[prompt.subset]]\nprompt = "a dog"\nwidth = 128\nsample_sampler = "euler"\n')
    assert read_prompts(path) == (PromptLine("a cat", width=64, steps=9, seed=1),
                                  PromptLine("a dog", width=128, steps=9, sampler="euler", index=1))


def test_a_toml_table_without_subsets_is_one_prompt(tmp_path):
    path = write(tmp_path, "p.toml", '[prompt]\nprompt = "a cat"\nscale = 5\n')
    assert read_prompts(path) == (PromptLine("a cat", scale=5.0),)


def test_json_lists_hold_lines_and_tables(tmp_path):
    path = write(tmp_path, "p.json", json.dumps(["a cat --d 1", {"prompt": "a dog", "height": "96", "enum": 7}]))
    assert read_prompts(path) == (PromptLine("a cat", seed=1), PromptLine("a dog", height=96, index=1))


def test_json_of_slider_guides_gives_names_and_strengths(tmp_path):
    path = write(tmp_path, "p.json", json.dumps({
        "plain": "a face", "old": {"prompt": "a face", "adapter_strength": 1.2},
        "none": {"prompt": "a face", "adapter_strength": 0}}))
    assert [(line.name, line.prompt, line.adapter_strength) for line in read_prompts(path)] == [
        ("plain", "a face", None), ("old", "a face", 1.2), ("none", "a face", 0.0)]


def test_a_misspelt_key_is_refused_with_the_near_one(tmp_path):
    with pytest.raises(UserError) as caught:
        read_prompts(write(tmp_path, "p.json", '[{"prompt": "a", "negative_promt": "b"}]'))
    assert "negative_prompt" in caught.value.problems[0].remedy


@pytest.mark.parametrize(("name", "data"), [
    ("p.txt", b""), ("p.txt", "猫".encode("cp932")), ("p.json", b"[1]"), ("p.json", b"{"), ("p.toml", b"[prompt"),
    ("p.yaml", b"a: b")])
def test_a_file_that_cannot_be_used_is_refused_by_name(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_prompts(tmp_path / name)
    assert "p." in str(caught.value)


def test_a_missing_file_is_refused():
    with pytest.raises(UserError, match="Cannot read"):
        read_prompts(Path("no/such/prompts.txt"))


def test_defaults_fill_only_what_is_open():
    line = with_defaults(PromptLine("a", steps=5), {"steps": 30, "scale": 7.5, "unknown": 1})
    assert (line.steps, line.scale) == (5, 7.5)
