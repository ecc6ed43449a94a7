"""Finished files examined: with what lies beside them, with a model that is named, and with nothing."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from library.study import evidence, trial
from library.study.checkup import Checked, Checkup, in_a_row
from library.study.diagnosis import Verdict
from library.train.run import main
from tools import diagnose

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def few():
    """Fewer pictures than people want judged by."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "TRIED", 4)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run of two steps, with a file of each."""
    folder = tmp_path_factory.mktemp("run ぞび")
    assert main([f"--pretrained_model_name_or_path={ROOT / 'examples' / 'tiny-sd'}", f"--output_dir={folder}", "--output_name=zobi",
                 f"--train_data_dir={ROOT / 'examples' / 'dataset'}", "--caption_extension=.txt", "--resolution=64,64", "--seed=1",
                 "--network_module=networks.lora", "--network_dim=4", "--max_train_steps=2", "--save_every_n_steps=1",
                 "--learning_rate=1e-3", "--console_log_level=WARNING"]) == 0
    return folder


@pytest.fixture(scope="module")
def examined(run):
    return Checkup(pictures=False).of(run / "zobi.safetensors")


def test_a_file_is_tried_on_the_model_and_pictures_of_its_run(examined):
    assert examined.verdict.kind == "undertrained"
    assert {"gain", "best strength", "loss on others"} <= set(examined.verdict.figures)
    assert examined.growth and all(factor > 1 for factor in examined.growth.values()), "two steps are larger than one"
    assert any('"solo"' in words for words in examined.remarks)


def test_the_run_is_known_from_any_of_its_files(run):
    for name in ("zobi.safetensors", "zobi-step00000001.safetensors"):
        left = evidence.beside(run / name)
        assert left.run["network"]["dim"] == 4 and len(left.losses) == 2
        assert len([item for item in evidence.known(evidence.command_of(left.run)).plan.items if not item.is_reg]) == 16


def test_alone_a_file_is_judged_by_its_layers(run, tmp_path, capsys):
    alone = tmp_path / "alone.safetensors"
    shutil.copy(run / "zobi.safetensors", alone)
    assert Checkup().of(alone).verdict.kind == "not judged"
    tensors = load_file(alone)
    next(value for name, value in tensors.items() if "lora_up" in name)[0] = torch.nan
    save_file(tensors, tmp_path / "broken.safetensors")
    assert diagnose.main([str(tmp_path / "broken.safetensors"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "damaged"


def test_a_damaged_file_names_the_last_sound_one_of_its_run(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "copy" / "zobi-report" / "run.json").unlink()
    tensors = load_file(tmp_path / "copy" / "zobi.safetensors")
    next(value for name, value in tensors.items() if "lora_up" in name)[0] = torch.nan
    save_file(tensors, tmp_path / "copy" / "zobi.safetensors", {"ss_steps": "2"})
    assert "zobi-step" in Checkup().of(tmp_path / "copy" / "zobi.safetensors").better


def test_several_files_are_compared_and_mistakes_are_told_in_words(run, capsys):
    names = [str(run / "zobi-step00000001.safetensors"), str(run / "zobi.safetensors")]
    assert diagnose.main([*names, "--no_pictures"]) == 0
    assert "best at" in capsys.readouterr().out
    assert diagnose.main([names[0], "--pretrained_model_name_or_path=nowhere", "--train_data_dir=nothing"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_where_no_file_is_good_the_one_to_try_first_is_named():
    def file(name, kind, gain, composition, others):
        figures = {"gain": gain, "loss in composition": composition, "loss on others": others, "best strength": 1.1}
        return Checked(Path(name), Verdict(kind, (), figures), {}, {})

    early, middle, by_heart = (file("early", "over-fitted", 0.60, 0.40, 1.14), file("middle", "over-fitted", 0.83, 0.18, 1.10),
                               file("late", "over-fitted", 0.91, 0.09, 0.87))
    damaged = Checked(Path("last"), Verdict("damaged", (), {}), {}, {})
    assert in_a_row([early, middle, by_heart, damaged])[-1] == "none is good; first to try: middle"
    good = file("good", "good", 0.5, 0.5, 1.0)
    assert in_a_row([early, good, by_heart])[-1].startswith("to take: good,")
    assert len(in_a_row([damaged, damaged])) == 3


def test_at_no_strength_the_model_is_the_base_and_a_trial_repeats_itself(run):
    checkup = Checkup(pictures=False)
    bench = checkup.bench(evidence.beside(run / "zobi.safetensors"))
    found = evidence.tried(bench, run / "zobi.safetensors")
    assert found.trained.loss[0] == found.others.loss[0] == 1.0 and found.trained.change[0] == 0.0
    assert found.trained.loss == evidence.tried(bench, run / "zobi.safetensors").trained.loss


def test_different_pictures_are_tried_no_more_at_once_than_the_run_or_the_memory_takes(run):
    plan = evidence.known(evidence.command_of(evidence.beside(run / "zobi.safetensors").run)).plan
    assert [len(group) for group in trial.chosen(plan, False, 5)] == [1, 1, 1, 1, 1], "the run's batch size"
    assert [len(group) for group in trial.chosen(plan, False, 5, 3 * 64 * 64)] == [3, 2]
    indices = [index for group in trial.chosen(plan, False, 100) for index in group]
    assert len({plan.items[index].path for index in indices}) == 16
