"""Texts of a slider, in every form that people have them in."""

import json

import pytest

from library.config.prompt_pairs import read_pairs
from tests.config.helpers import resolved

LECO = """
- target: "van gogh"
  positive: "van gogh"
  unconditional: ""
  neutral: ""
  action: "erase"
  guidance_scale: 2.0
  resolution: 512
"""
TARGETS = """
guidance_scale = 1.0
neutrals = ["", "studio photo"]
[[targets]]
target_class = "person"
positive = "smiling person"
negative = "sad person"
resolution = [768, 512]
"""
JOB = {"config": {"process": [{"type": "slider", "slider": {
    "resolutions": [[512, 768]], "targets": [{"target_class": "cat", "positive": "big cat",
                                                                         "negative": "small cat"}]}}]}}


def read(tmp_path, name, text, attributes=()):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return read_pairs(file, attributes)


def stops(reading):
    return [problem for problem in reading.problems if problem.severity == "stop"]


def test_lecos_list_leads_away_from_what_it_erases_and_ends_at_the_neutral_text(tmp_path):
    pair, = read(tmp_path, "a.yaml", LECO).pairs
    assert (pair.target, pair.positive, pair.negative, pair.start, pair.amount) == ("van gogh", "", "van gogh", "", 2.0)
    other, = read(tmp_path, "b.yaml", LECO.replace("erase", "enhance")).pairs
    assert (other.positive, other.negative) == ("van gogh", "")


def test_kohyas_toml_has_the_same_words_and_defaults_above(tmp_path):
    pair, = read(tmp_path, "a.toml", 'guidance_scale = 3\n[[prompts]]\ntarget = "cat"\npositive = "old cat"\n'
                                     'unconditional = "young cat"\nneutral = "cat"\naction = "enhance"').pairs
    assert (pair.positive, pair.negative, pair.start, pair.amount) == ("old cat", "young cat", "cat", 3.0)


def test_a_target_slides_half_the_difference_to_either_side_and_keeps_its_neutrals(tmp_path):
    reading = read(tmp_path, "a.toml", TARGETS)
    pair, = reading.pairs
    assert (pair.target, pair.start, pair.amount, pair.size) == ("person", "person", 0.5, (512, 768))
    assert reading.kept == ["", "studio photo"]


def test_a_negative_multiplier_turns_the_slider_round(tmp_path):
    pair, = read(tmp_path, "a.toml", TARGETS + "multiplier = -2").pairs
    assert (pair.amount, pair.strength) == (-0.5, 2.0)


def test_targets_of_an_ai_toolkit_job_are_found(tmp_path):
    pair, = read(tmp_path, "a.json", json.dumps(JOB)).pairs
    assert (pair.target, pair.positive, pair.negative, pair.size) == ("cat", "big cat", "small cat", (512, 768))


def test_prompts_and_targets_of_one_file_are_all_read(tmp_path):
    prompts = '[[prompts]]\ntarget = "dog"\npositive = "old dog"\nunconditional = "young dog"\naction = "enhance"\n'
    assert [pair.target for pair in read(tmp_path, "a.toml", TARGETS + prompts).pairs] == ["dog", "person"]


def test_sizes_are_turned_as_each_program_writes_them(tmp_path):
    job = {"resolutions": [[512, 768], [512, 512]], "targets": [{"positive": "a", "negative": "b"}]}
    assert [pair.size for pair in read(tmp_path, "a.json", json.dumps(job)).pairs] == [(512, 768), (512, 512)]
    kohyas = TARGETS.replace("resolution = [768, 512]", "resolutions = [[768, 512]]")
    assert [pair.size for pair in read(tmp_path, "a.toml", kohyas).pairs] == [(512, 768)]


def test_a_whole_job_file_of_ai_toolkit_is_read_and_what_is_not_used_is_told(tmp_path):
    text = """
job: train
config:
  name: detail_slider_v1
  process:
    - type: slider
      network: {type: lierla, linear: 8, linear_alpha: 4}
      slider:
        resolutions:
          - [ 512, 512 ]
        batch_full_slide: true
        prompt_file: null
        targets:
          - target_class: ""
            positive: "high detail, 8k"
            negative: "blurry, low detail"
            weight: 1.0
            multiplier: 1.0
            shuffle: true
meta: {name: "[name]"}
"""
    reading = read(tmp_path, "a.yaml", text)
    assert stops(reading) == [] and [pair.positive for pair in reading.pairs] == ["high detail, 8k"]
    told = {note.where.removeprefix("a.yaml, ") for note in reading.problems}
    assert told == {"targets 1, batch_full_slide", "targets 1, shuffle"}


def test_attributes_stand_before_every_prompt_or_where_the_braces_are(tmp_path):
    pairs = read(tmp_path, "a.yaml", LECO, ["male", "oil, {}, framed"]).pairs
    assert [pair.target for pair in pairs] == ["male van gogh", "oil, van gogh, framed"]
    assert pairs[0].positive == "male"
    inside = read(tmp_path, "b.toml", TARGETS + 'attributes = ["male", "female"]').pairs
    assert [pair.positive for pair in inside] == ["male smiling person", "female smiling person"]


@pytest.mark.parametrize(("text", "told"), [
    ("", "holds no prompts"), ("[[targets]]\ntarget_class = 'a'", "neither positive nor negative"),
    ("[[targets]]\npositive = 'a'\nnegative = 'a'", "both"), ("[[targets]]\npositiv = 'a'", "no such setting"),
    ("[[prompts]]\ntarget = 'a'\naction = 'paint'", "neither erase nor enhance"),
    ("[[targets]]\npositive = 'a'\nweight = 'much'", "no number"), ("[[targets]]\npositive = 'a'\nresolution = 'x'", "no size"),
    ("[[targets]]\npositive = 'a'\nneutral_prompt_file = 'gone.txt'", "no file"), ("a = ", "")])
def test_what_is_wrong_with_a_prompts_file_is_said(tmp_path, text, told):
    found = stops(read(tmp_path, "a.toml", text))
    assert found and told in "\n".join(problem.what for problem in found)


def test_a_file_that_is_not_there_names_its_neighbours(tmp_path):
    (tmp_path / "slider.toml").write_text("", encoding="utf-8")
    assert "slider.toml" in stops(read_pairs(tmp_path / "sliders.toml"))[0].remedy


def test_a_text_slider_needs_no_pictures_and_leaves_text_encoders_alone(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text(TARGETS, encoding="utf-8")
    config = resolved(["--pretrained_model_name_or_path=m.safetensors", "--output_dir=out", f"--prompts_file={file}",
                       "--train_batch_size=4"], needed=False)
    assert config.data.parts == () and config.network.targets == "auto" and not config.network.train_text_encoder
    assert config.text.batch_size == 4 and len(config.text.pairs) == 1
