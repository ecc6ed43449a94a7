"""The entry scripts and the names that front ends and notebooks import."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

import train_network
from library.flags import SCRIPTS
from library.flags.scripts import SAME_FLAGS
from library.train_util import BucketManager, NetworkTrainer, flags_of_namespace, read_config_from_file
from library.util.records import UserError

ROOT = Path(__file__).resolve().parents[1]
NOT_YET = [script for script in SCRIPTS if script.split("_train")[0] in ("lumina", "hunyuan_image", "anima")]


@pytest.mark.parametrize("script", (*SCRIPTS, *SAME_FLAGS))
def test_every_script_of_kohya_is_there_and_helps(script):
    done = subprocess.run([sys.executable, str(ROOT / script), "--help"], capture_output=True, text=True, encoding="utf-8",
                          cwd=ROOT / "tests")
    assert done.returncode == 0, done.stderr
    assert script in done.stdout and "--network_dim N" in done.stdout
    assert ("\n  --disable_mmap_load_safetensors" in done.stdout) == (SAME_FLAGS.get(script, script) != "train_network.py")


@pytest.mark.parametrize("script", NOT_YET)
def test_a_script_without_its_architecture_stops_in_a_sentence(script, capsys):
    from library.families import registry
    from library.train.run import main

    if registry.by_script(script) is not None:
        pytest.skip("this architecture is supported")
    assert main(["--network_dim=4"], script) == 1
    assert "not supported yet" in capsys.readouterr().err


def test_the_scripts_parser_is_importable():
    assert isinstance(train_network.setup_parser(), argparse.ArgumentParser)
    import sdxl_train_network

    space = sdxl_train_network.setup_parser().parse_args(["--cache_text_encoder_outputs"])
    assert space.cache_text_encoder_outputs and sdxl_train_network.SdxlNetworkTrainer.script == "sdxl_train_network.py"


def test_bucket_manager_chooses_kohyas_buckets():
    manager = BucketManager(False, (512, 512), 256, 1024, 64)
    manager.make_buckets()
    assert manager.predefined_resos[0] == (256, 832)
    reso, resized, error = manager.select_bucket(1000, 500)
    assert reso in manager.predefined_resos and resized[0] >= reso[0] and resized[1] >= reso[1]
    assert error == pytest.approx(reso[0] / reso[1] - 2.0)
    manager.add_image(reso, "a.png")
    manager.select_bucket(300, 700)
    manager.sort()
    assert manager.resos == sorted(manager.resos) and manager.buckets[manager.reso_to_id[reso]] == ["a.png"]


def test_settings_file_fills_a_namespace_and_typed_values_win(tmp_path):
    (tmp_path / "a.toml").write_text("network_dim = 8\nnetwork_alpha = 2\nepoch = 3\n", encoding="utf-8")
    parser = train_network.setup_parser()
    args = read_config_from_file(parser.parse_args([f"--config_file={tmp_path / 'a.toml'}", "--network_dim=16"]), parser)
    assert (args.network_dim, args.network_alpha, args.learning_rate) == (16, 2, 2e-6)
    assert read_config_from_file(parser.parse_args([]), parser).config_file is None


def test_a_misspelt_key_in_that_file_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text("network_dimm = 8\n", encoding="utf-8")
    parser = train_network.setup_parser()
    with pytest.raises(UserError, match="network_dim"):
        read_config_from_file(parser.parse_args([f"--config_file={tmp_path / 'a.toml'}"]), parser)


def test_trainer_runs_what_a_namespace_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = train_network.setup_parser().parse_args([
        f"--pretrained_model_name_or_path={ROOT / 'examples' / 'tiny-sd'}", f"--train_data_dir={ROOT / 'examples' / 'dataset'}",
        "--output_dir=out", "--resolution=64", "--caption_extension=.txt", "--max_train_steps=1", "--network_dim=2"])
    NetworkTrainer().train(args)
    assert (tmp_path / "out" / "last.safetensors").is_file()
    assert "network_dim" in flags_of_namespace(args).origins


def test_trainer_raises_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match=r"output_dir|base model"):
        NetworkTrainer().train(train_network.setup_parser().parse_args([]))


def test_bitsandbytes_does_not_speak_of_the_cpu_in_any_program():
    code = "import library, logging; print(logging.getLogger('bitsandbytes').isEnabledFor(logging.WARNING))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False"]
