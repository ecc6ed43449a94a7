"""Two processes on a CPU (gloo), started by accelerate, beside one process that accumulates twice as much."""

import os
import shutil
import subprocess
import sys

import pytest
import torch

from library.train.run import main
from tests.train.conftest import ROOT, Run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="PyTorch's launcher needs libuv, which its Windows builds lack")

SETTINGS = ["--resolution=64,64", "--network_module=networks.lora", "--network_dim=4", "--network_dropout=0.1",
            "--learning_rate=1e-3", "--lr_scheduler=cosine", "--lr_warmup_steps=1", "--noise_offset=0.05",
            "--caption_extension=.txt",
            "--shuffle_caption", "--seed=3", "--train_batch_size=6", "--max_train_steps=4", "--cache_latents_to_disk",
            f"--pretrained_model_name_or_path={ROOT / 'examples' / 'tiny-sd'}"]
"""16 pictures are 3 batches: in each epoch's second step one of two processes has none."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    shutil.copytree(ROOT / "examples" / "dataset" / "10_zobi", folder / "pictures" / "1_zobi")
    return folder


def arguments(place, name, *more):
    return [*SETTINGS, f"--train_data_dir={place / 'pictures'}", f"--output_dir={place / 'out'}", f"--output_name={name}",
            *more]


def launched(place, name, *more, script=ROOT / "train_network.py"):
    """The run and what its console showed."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
               "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0", str(script)]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "GRADIENTS": str(place)}
    done = subprocess.run([*command, *arguments(place, name, *more)], env=environment, capture_output=True, text=True,
                          encoding="utf-8", cwd=place, timeout=300)
    assert done.returncode == 0, done.stderr
    return Run(place / "out", name, 0), done.stdout + done.stderr


@pytest.fixture(scope="module")
def two(place):
    return launched(place, "two", "--save_every_n_steps=2", "--save_state")


@pytest.fixture(scope="module")
def resumed(place, two):
    return launched(place, "resumed", f"--resume={place / 'out' / 'two-step00000002-state'}",
                    script=ROOT / "tests" / "train" / "recording_gradients.py")


@pytest.fixture(scope="module")
def one(place, two):
    assert main(arguments(place, "one", "--gradient_accumulation_steps=2", "--save_every_n_steps=2", "--save_state")) == 0
    return Run(place / "out", "one", 0)


def distance(run, other):
    mine, theirs = run.tensors(), other.tensors()
    assert mine.keys() == theirs.keys()
    return max(float((mine[key] - theirs[key]).abs().max()) for key in mine)


def test_two_processes_equal_one_with_twice_the_accumulation(one, two):
    assert two[0].losses == pytest.approx(one.losses, abs=1e-5)
    assert distance(one, two[0]) < 1e-5


def test_only_one_process_speaks_and_saves(two):
    run, console = two
    for text in ("num train images * repeats: 16", "epoch 1/2", "caching latents", "total optimization steps: 4",
                 "two: 4 steps in",
                 "Good to know before", "saving checkpoint: " + str(run.folder / "two-step00000002.safetensors")):
        assert console.count(text) == 1, text
    assert len(run.losses) == 4
    assert {name for name in run.files if name.startswith("two")} == {
        "two.safetensors", "two-step00000002.safetensors", "two-step00000004.safetensors", "two-state",
        "two-step00000002-state",
        "two-step00000004-state", "two-report"}


def test_each_picture_is_cached_once_by_one_of_them(two, place):
    cached = {path.name.split("_")[0] for path in (place / "pictures" / "1_zobi").glob("*.npz")}
    assert cached == {f"{number:03d}" for number in range(1, 17)}


def test_two_processes_go_on_from_their_state_as_if_unbroken(two, resumed):
    assert resumed[0].losses == two[0].losses[2:]
    assert distance(resumed[0], two[0]) == 0


def test_every_process_steps_with_the_same_gradients(resumed, place):
    first, second = (torch.load(place / f"{rank}.pt") for rank in range(2))
    assert len(first) == 2 and first.abs().max() > 0
    assert torch.equal(first, second)


def test_a_state_of_two_processes_is_resumed_by_one(place, two, one):
    assert main(arguments(place, "fewer", "--gradient_accumulation_steps=2",
                          f"--resume={place / 'out' / 'two-step00000002-state'}")) == 0
    fewer = Run(place / "out", "fewer", 0)
    assert fewer.losses == pytest.approx(one.losses[2:], abs=1e-5)
    assert distance(fewer, one) < 1e-5
