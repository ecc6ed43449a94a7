"""A recipe from Windows, one line of PowerShell: as it was typed, and run on the shipped model."""

import shlex
from pathlib import Path

import pytest
from PIL import Image

from library.config.resolve import Detected, resolve
from library.config.toml_file import read_command
from library.save.names import FileNames
from library.train.run import main
from tests.train.conftest import ROOT, Run

LINE = (
    'accelerate launch train_network.py --pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5" '
    '--train_data_dir="dataset/lineart" --output_dir="lora_out" --resolution=512,512 --network_alpha=4 --network_dim=4 '
    '--network_module=networks.lora --output_name="lineart_lora" --train_batch_size=1 --max_train_steps=1000 '
    '--learning_rate=1e-4 --lr_scheduler="constant" --text_encoder_lr=5e-5 --mixed_precision="fp16" --save_every_n_steps=100 '
    '--save_model_as=safetensors --caption_extension=".txt" --enable_bucke --save_state')


def words(line=LINE):
    """The words that PowerShell hands to the script: quotes inside a word go, as in other shells; commas after ``=`` stay."""
    launcher, verb, script, *given = shlex.split(line)
    assert (launcher, verb, script) == ("accelerate", "launch", "train_network.py")
    return given


def test_the_line_as_it_was_typed_means_what_it_says():
    flags = read_command(words(), "train_network.py")
    config = resolve(flags, lambda source, flags: Detected("sd1"))
    assert flags["enable_bucket"] is True and config.data.parts[0].enable_bucket
    assert config.data.parts[0].resolution == (512, 512) and config.data.train_data_dir == Path("dataset/lineart")
    assert (config.network.dim, config.network.alpha, config.optimizer.lr, config.optimizer.text_encoder_lr) == (4, 4, 1e-4,
                                                                                                                 (5e-5,))


def test_its_files_have_the_names_that_its_user_knows():
    save = resolve(read_command(words(), "train_network.py"), lambda source, flags: Detected("sd1")).save
    names = FileNames.of(save)
    assert save.output_dir / names.last() == Path("lora_out/lineart_lora.safetensors")
    steps = [step for step in range(1, 1001) if step % save.every_n_steps == 0]
    assert [names.step(step) for step in steps][::9] == ["lineart_lora-step00000100.safetensors",
                                                         "lineart_lora-step00001000.safetensors"]
    assert names.step_state(100) == "lineart_lora-step00000100-state" and names.last_state() == "lineart_lora-state"
    assert save.state


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The recipe in a folder of its own, shortened to four steps on the shipped model; with what the console showed."""
    place = tmp_path_factory.mktemp("recipe")
    folder = place / "dataset" / "lineart" / "1"
    folder.mkdir(parents=True)
    for number in range(1, 9):
        Image.new("RGB", (64, 64), (30 * number, 80, 250 - 30 * number)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text("lineart, red circle", encoding="utf-8")
    line = LINE.replace("runwayml/stable-diffusion-v1-5", (ROOT / "examples" / "tiny-sd").as_posix())
    line = line.replace("--max_train_steps=1000", "--max_train_steps=4").replace("--save_every_n_steps=100",
                                                                                 "--save_every_n_steps=2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return Run(place / "lora_out", "lineart_lora", main([*words(line), "--seed=1"]))


def test_the_recipe_runs_and_leaves_files_and_states(ran):
    assert ran.code == 0 and len(ran.losses) == 4
    assert ran.files >= {"lineart_lora.safetensors", "lineart_lora-step00000002.safetensors",
                         "lineart_lora-step00000004.safetensors",
                         "lineart_lora-state", "lineart_lora-step00000002-state", "lineart_lora-step00000004-state"}
    assert not any(name.endswith(".ckpt") for name in ran.files)
    assert not any(path.suffix in (".tmp", ".partial") for path in ran.folder.rglob("*"))


def test_a_folder_named_1_is_one_repeat_with_an_empty_class_and_goes_into_buckets(ran):
    metadata = ran.metadata()
    assert metadata["ss_dataset_dirs"] == '{"1": {"n_repeats": 1, "img_count": 8}}'
    assert metadata["ss_enable_bucket"] == "True" and '"resolution": [512, 512]' in metadata["ss_bucket_info"]
    assert (metadata["ss_network_dim"], metadata["ss_network_alpha"], metadata["ss_learning_rate"]) == ("4", "4.0", "0.0001")


@pytest.mark.skipif("__import__('torch').accelerator.is_available()", reason="with a GPU there is nothing to warn of")
def test_fp16_without_a_gpu_trains_in_fp32_after_one_warning_with_the_time(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "dataset" / "lineart" / "1"
    folder.mkdir(parents=True)
    for number in range(1, 9):
        Image.new("RGB", (64, 64), (30 * number, 80, 90)).save(folder / f"{number:03d}.png")
        (folder / f"{number:03d}.txt").write_text("lineart", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    line = LINE.replace("runwayml/stable-diffusion-v1-5", (ROOT / "examples" / "tiny-sd").as_posix())
    line = line.replace("512,512", "64,64").replace("steps=1000", "steps=1").replace("steps=100 ", "steps=1 ")
    assert main(words(line)) == 0
    shown = capsys.readouterr()
    console = shown.err + shown.out
    assert console.count("WARNING  GPU") == 1 and console.count("fp16") >= 1
    frame = " ".join(console.split("WARNING  GPU")[1].split("┠")[0].split())
    assert "fp32" in frame and any(unit in frame for unit in ("second", " s", "minute", "hour")), frame
    with_weights = Run(tmp_path / "lora_out", "lineart_lora", 0)
    assert all(str(tensor.dtype) == "torch.float32" for tensor in with_weights.tensors().values())
