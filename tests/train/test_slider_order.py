"""Which batches a slider run trains on, from the data set's file to the step, resumed and in two processes."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from library.data.order import sign
from library.train import stages
from library.train.run import main
from tests.train.conftest import ROOT, Run
from tests.train.recording_batches import recorder

STRENGTHS = {"large": 1.0, "larger": 0.5, "small": -1.0, "smaller": -0.5, "middle": 0.0}
COUNTS = {"large": 6, "larger": 3, "small": 3, "smaller": 1, "middle": 3}
"""Pictures: of the positive side more than of the negative one."""
DATA = """
[general]
caption_extension = ".txt"
resolution = 64
[[datasets]]
batch_size = 2
slider_strength = 1.0
[[datasets.subsets]]
image_dir = "large"
probability = 3
[[datasets.subsets]]
image_dir = "small"
network_multiplier = -1.0
[[datasets]]
[[datasets.subsets]]
image_dir = "larger"
slider_strength = 0.5
[[datasets.subsets]]
image_dir = "smaller"
slider_strength = -0.5
num_repeats = 2
[[datasets.subsets]]
image_dir = "middle"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    for name, count in COUNTS.items():
        (folder / name).mkdir()
        source = ROOT / "examples" / "slider" / ("small" if name.startswith("small") else "large")
        for number in range(count):
            for ending in (".png", ".txt"):
                shutil.copy(source / f"{number:02d}{ending}", folder / name)
    (folder / "data.toml").write_text(DATA, encoding="utf-8")
    return folder


def arguments(place, name, **flags):
    settings = {"pretrained_model_name_or_path": ROOT / "examples" / "tiny-sd", "dataset_config": place / "data.toml",
                "output_dir": place / "out", "output_name": name, "slider_lora_target": "selfattn", "network_dim": 2,
                "network_alpha": 2, "learning_rate": 1e-3, "max_train_steps": 10, "seed": 1, "slider_calibrate": "false",
                "console_log_level": "ERROR"} | flags
    return [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in settings.items()]


@pytest.fixture(scope="module")
def trained(place):
    """Run once for each set of flags, in the folder of the pictures: (what it left, the batches it saw)."""
    done = {}

    def run(name, **flags):
        argv = arguments(place, name, **flags)
        if str(argv) not in done:
            with pytest.MonkeyPatch.context() as patched:
                seen = []
                patched.setattr(stages, "choose_objective", recorder(seen))
                patched.chdir(place)
                assert main(argv) == 0
            done[str(argv)] = Run(place / "out", name, 0), seen
        return done[str(argv)]

    return run


@pytest.fixture
def whole(trained):
    return trained("whole", save_state=True, save_every_n_steps=4)


def same(one, other):
    mine, theirs = one.tensors(), other.tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_batches_of_several_data_sets_come_in_turn_each_of_one_strength(whole):
    """An epoch has 3 + 3 batches of the positive, 2 + 2 of the negative and 3 of the neutral side."""
    _, seen = whole
    assert [sign(strength) for _, _, strength, _, _ in seen] == ["positive", "negative", "neutral"] * 3 + ["positive"]
    assert all(STRENGTHS[folder] == strength for _, _, strength, folders, _ in seen for folder in folders)
    assert all(kind == ("pictures" if strength else "neutral") for _, kind, strength, _, _ in seen)
    assert {tuple(folders) for _, _, _, folders, _ in seen} > {("small",), ("smaller",), ("middle",)}


def test_the_file_tells_its_strengths(whole):
    told = whole[0].metadata()
    keys = ("ss_slider_strengths", "ss_slider_target", "ss_slider_neutral", "ss_slider_pairs")
    assert [told[key] for key in keys] == ["1,0.5,-0.5,-1", "selfattn", "anchor", "0"]


def test_an_epoch_ends_without_a_one_sided_rest_only_where_sides_are_balanced(trained):
    def signs(**flags):
        _, seen = trained("epoch", max_train_epochs=1, max_train_steps=1600, **flags)
        return [sign(strength) for _, _, strength, _, _ in seen]

    turns, turn = ["positive", "negative", "neutral"] * 3, ["positive", "negative"]
    assert signs() == [*turns, *turn, *turn, *turn]
    assert signs(slider_balance="false") == [*turns, *turn, "positive", "positive"]


@pytest.fixture
def accumulated(trained):
    return trained("accumulated", gradient_accumulation_steps=2, max_train_steps=3)


def test_accumulated_batches_are_the_same_ones_several_to_a_step(whole, accumulated):
    _, seen = accumulated
    assert [batch[1:] for batch in seen] == [batch[1:] for batch in whole[1][:6]]
    assert [batch[0] for batch in seen] == [0, 0, 1, 1, 2, 2]


def test_a_run_resumed_in_mid_cycle_equals_the_unbroken_one(whole, trained, place):
    run, seen = whole
    resumed, rest = trained("resumed", resume=place / "out" / "whole-step00000004-state")
    assert rest == seen[4:] and sign(rest[0][2]) == "negative"
    assert same(resumed, run)


def test_sets_that_are_left_out_leave_the_cycle(trained):
    _, seen = trained("skipped", slider_neutral="skip", max_train_steps=4)
    assert [sign(strength) for _, _, strength, _, _ in seen] == ["positive", "negative"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="PyTorch's launcher needs libuv, which its Windows builds lack")
def test_two_processes_take_turns_in_the_cycle_and_learn_as_one_that_accumulates(accumulated, place):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
               "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0",
               str(ROOT / "tests" / "train" / "recording_batches.py")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "BATCHES": str(place)}
    done = subprocess.run([*command, *arguments(place, "two", max_train_steps=3)], env=environment, capture_output=True, text=True,
                          encoding="utf-8", cwd=place, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((place / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    alone, seen = accumulated
    assert [batch for pair in zip(first, second, strict=True) for batch in pair] == seen
    mine, theirs = alone.tensors(), Run(place / "out", "two", 0).tensors()
    assert max(float((mine[key] - theirs[key]).abs().max()) for key in mine) < 1e-5


def test_without_a_strength_the_flags_of_sliders_change_no_bit(train):
    plain = train("plain", max_train_steps=2)
    other = train("other", max_train_steps=2, slider_balance="false", slider_neutral="plain", slider_calibrate="false")
    assert same(plain, other) and plain.losses == other.losses
