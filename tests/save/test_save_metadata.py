"""Metadata of a saved LoRA against what kohya wrote for the same runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from library.config import run_config as rc
from library.save import metadata
from library.save.record import DatasetFacts, ModelFacts, Moment, RunFacts, SubsetFacts

DATA = Path(__file__).parents[1] / "data"
MAIN = json.loads((DATA / "lora_main.json").read_text(encoding="utf-8"))["metadata"]
BY_CONFIG = json.loads((DATA / "metadata_dataset_config.json").read_text(encoding="utf-8"))
COMMIT = MAIN["ss_sd_scripts_commit_hash"]


def _config(name: str, part: rc.DatasetPart, max_steps: int, **network) -> rc.RunConfig:
    return rc.RunConfig(
        script="train_network.py", model=rc.ModelConfig("sd15", "sd1"),
        network=rc.NetworkConfig("networks.lora", 4, 4.0, **network),
        optimizer=rc.OptimizerConfig("AdamW", 1e-4, None, (5e-5,)), schedule=rc.ScheduleConfig("constant"),
        loss=rc.LossConfig(), noise=rc.NoiseConfig(), data=rc.DatasetConfig((part,)), cache=rc.CacheConfig(),
        loop=rc.LoopConfig(max_steps, None, 1, 42), machine=rc.MachineConfig(),
        save=rc.SaveConfig(Path("out"), name), sample=rc.SampleConfig(), validation=rc.ValidationConfig(),
        log=rc.LogConfig())


MODEL = ModelFacts("sd_v1", "stable-diffusion-v1", "epsilon", 512, "sd15", "IsADirectory", "IsADirectory")


def _main_run() -> tuple[rc.RunConfig, RunFacts, Moment]:
    part = rc.DatasetPart((), 1, (128, 128), True, 64, 256)
    subset = rc.SubsetConfig(Path("train/10_riho girl"), num_repeats=10, shuffle_caption=True, keep_tokens=1)
    second = replace(subset, image_dir=Path("train/3_izumi riho"), num_repeats=3)
    data = DatasetFacts(part, (SubsetFacts(subset, 5), SubsetFacts(second, 3)), 59, 0,
                        json.loads(MAIN["ss_tag_frequency"]), (((64, 192), 3), ((128, 128), 56)), 0.27648809523809526)
    facts = RunFacts(3415684534, 1795226415.1215174, MODEL, (data,), "torch.optim.adamw.AdamW", 59, 1, 8, 4,
                     version=COMMIT)
    return _config("main", part, 8), facts, Moment(1, 8, 1795226668.71622)


def _compare(got: dict[str, str], want: dict[str, str]) -> None:
    want = {k: v for k, v in want.items() if not k.startswith("sshs_")}
    assert sorted(got) == sorted(want)
    # The date is local time, which the recording machine's clock zone decides.
    differing = {k: (got[k], want[k]) for k in want if got[k] != want[k] and k != "modelspec.date"}
    assert not differing
    assert len(got["modelspec.date"]) == len(want["modelspec.date"])


def test_folder_mode_writes_every_key_and_value_as_kohya():
    _compare(metadata.build(*_main_run()), MAIN)


def test_dataset_config_mode_writes_every_key_and_value_as_kohya():
    first = rc.DatasetPart((), 2, (64, 64), True, 64, 256)
    second = rc.DatasetPart((), 1, (128, 128), True, 64, 256)
    riho = rc.SubsetConfig(Path("train/10_riho girl"), num_repeats=2, class_tokens="riho girl", shuffle_caption=True,
                           keep_tokens=1, caption_prefix="masterpiece,")
    girl = rc.SubsetConfig(Path("reg/1_girl"), class_tokens="girl", is_reg=True, shuffle_caption=True, keep_tokens=1)
    izumi = rc.SubsetConfig(Path("train/3_izumi riho"), shuffle_caption=True, keep_tokens=2, flip_aug=True)
    recorded = json.loads(BY_CONFIG["ss_datasets"])
    data = (
        DatasetFacts(first, (SubsetFacts(riho, 5), SubsetFacts(girl, 4)), 10, 4, recorded[0]["tag_frequency"],
                     (((64, 64), 20),), 0.21798941798941798),
        DatasetFacts(second, (SubsetFacts(izumi, 3),), 3, 0, recorded[1]["tag_frequency"],
                     (((64, 192), 1), ((128, 128), 2)), 0.27777777777777773))
    run = _config("ds_toml", first, 2, args={"rank_dropout": "0.1"})
    run = replace(run, data=replace(run.data, folder_mode=False))
    facts = RunFacts(3669902030, 1795228703.9709716, MODEL, data, "torch.optim.adamw.AdamW", 13, 1, 2, 4,
                     version=COMMIT)
    _compare(metadata.build(run, facts, Moment(1, 2, 1795228761.9058878)), BY_CONFIG)


def test_a_folder_that_several_subsets_train_on_is_listed_once_for_each():
    run, facts, moment = _main_run()
    data = facts.datasets[0]
    girl = data.subsets[0]
    again = SubsetFacts(replace(girl.config, num_repeats=2), 4)
    facts = replace(facts, datasets=(replace(data, subsets=(girl, again)), replace(data, subsets=(again,))))
    got = metadata.build(replace(run, data=replace(run.data, folder_mode=False)), facts, moment)
    assert json.loads(got["ss_dataset_dirs"]) == {
        "10_riho girl": {"n_repeats": 10, "img_count": 5}, "10_riho girl (2)": {"n_repeats": 2, "img_count": 4},
        "10_riho girl (3)": {"n_repeats": 2, "img_count": 4}}


def test_pictures_of_a_metadata_file_are_listed_under_its_name():
    run, facts, moment = _main_run()
    data = facts.datasets[0]
    subset = SubsetFacts(replace(data.subsets[0].config, metadata_file=Path("lists/meta.json")), 5)
    got = metadata.build(run, replace(facts, datasets=(replace(data, subsets=(subset,)),)), moment)
    assert json.loads(got["ss_dataset_dirs"]) == {"meta.json": {"n_repeats": 10, "img_count": 5}}


def test_the_total_batch_counts_accumulated_batches_and_processes():
    run, facts, moment = _main_run()
    got = metadata.build(run, replace(facts, batches_per_step=6), moment)
    assert (got["ss_batch_size_per_device"], got["ss_total_batch_size"]) == ("1", "6")


def test_no_metadata_keeps_what_readers_need():
    run, facts, moment = _main_run()
    run = replace(run, save=replace(run.save, no_metadata=True), network=replace(run.network, args={"conv_dim": "4"}))
    kept = {k for k in metadata.build(run, facts, moment) if k.startswith("ss_")}
    assert kept == {"ss_v2", "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha",
                    "ss_network_args"}


def test_optional_modelspec_fields_follow_what_was_typed():
    run, facts, moment = _main_run()
    spec = {"title": "My style", "author": "me", "trigger_phrase": "riho", "tags": "a,b"}
    run = replace(run, save=replace(run.save, modelspec=spec), model=replace(run.model, clip_skip=2),
                  noise=replace(run.noise, min_timestep=100))
    got = metadata.build(run, facts, moment)
    assert {k.removeprefix("modelspec."): got[k] for k in got if k.removeprefix("modelspec.") in spec} == spec
    assert got["modelspec.encoder_layer"] == "2" and got["modelspec.timestep_range"] == "100,1000"


def test_token_in_a_comment_does_not_reach_the_metadata():
    run, facts, moment = _main_run()
    secret = "hf_" + "AbCdEf0123456789" * 2
    run = replace(run, save=replace(run.save, training_comment=f"made with {secret}"))
    got = metadata.build(run, facts, moment)
    assert got["ss_training_comment"] == "made with hf_***"
    assert not any(secret in value for value in got.values())


@pytest.mark.parametrize(("rates", "text"), [(None, "None"), ((), "None"), ((5e-5,), "5e-05"),
                                             ((1e-5, 2e-5), "[1e-05, 2e-05]")])
def test_text_encoder_rates_are_written_as_kohya_writes_them(rates, text):
    run, facts, moment = _main_run()
    run = replace(run, optimizer=replace(run.optimizer, text_encoder_lr=rates))
    assert metadata.build(run, facts, moment)["ss_text_encoder_lr"] == text
