"""SimpleTuner's data set file, converted by the command and read by our own reader."""

import json

from tests.config.helpers import resolved
from tools.convert_simpletuner import main

BACKENDS = [
    {"id": "big", "type": "local", "instance_data_dir": "C:\\data\\eyes big", "resolution": 1024, "resolution_type": "pixel",
     "caption_strategy": "textfile", "repeats": 9, "slider_strength": 0.5, "probability": 2, "crop": True,
     "crop_style": "random"},
    {"id": "small", "type": "local", "instance_data_dir": "eyes/small", "resolution": 1.0, "caption_strategy": "instanceprompt",
     "instance_prompt": 'a "small" eye', "slider_strength": -0.5},
    {"id": "plain", "instance_data_dir": "eyes", "caption_strategy": "filename"},
    {"id": "text", "dataset_type": "text_embeds", "type": "local", "cache_dir": "cache"},
    {"id": "far", "type": "aws"},
]


def test_the_converted_file_says_the_same_and_the_rest_is_named(tmp_path, capsys):
    source, target = tmp_path / "multidatabackend.json", tmp_path / "data.toml"
    source.write_text(json.dumps(BACKENDS), encoding="utf-8")
    assert main([str(source), str(target)]) == 0
    told = capsys.readouterr().out
    assert "big: crop, crop_style have no counterpart" in told and "plain: captions by filename" in told
    assert "far: aws" in told and "text:" not in told
    config = resolved(["--pretrained_model_name_or_path=m.safetensors", "--output_dir=out", f"--dataset_config={target}"],
                      needed=False)
    big, small, plain = config.data.parts
    assert big.resolution == small.resolution == (1024, 1024)
    assert (big.subsets[0].image_dir.as_posix(), big.subsets[0].num_repeats) == ("C:/data/eyes big", 10)
    assert (big.subsets[0].slider_strength, big.subsets[0].probability, big.subsets[0].caption_extension) == (0.5, 2.0, ".txt")
    assert (small.subsets[0].slider_strength, small.subsets[0].class_tokens) == (-0.5, 'a "small" eye')
    assert (plain.subsets[0].slider_strength, plain.subsets[0].caption_extension) == (0.0, ".txt")


def test_a_file_that_is_there_is_not_overwritten_and_a_wrong_one_is_refused(tmp_path, capsys):
    source, target = tmp_path / "a.json", tmp_path / "b.toml"
    source.write_text("[]", encoding="utf-8")
    target.write_text("mine", encoding="utf-8")
    assert main([str(source), str(target)]) == 1 and target.read_text(encoding="utf-8") == "mine"
    source.write_text("{}", encoding="utf-8")
    assert main([str(source), str(tmp_path / "c.toml")]) == 1 and "no list" in capsys.readouterr().err
