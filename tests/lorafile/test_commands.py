"""The commands: kohya's flags are there with kohya's defaults, they do their work, and mistakes get a frame."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from library.lorafile import command
from library.util.tensorfile import read_metadata, read_tensors
from tests.lorafile import lora_files as made

ROOT = Path(__file__).resolve().parents[2]
FLAGS = json.loads((ROOT / "tests" / "data" / "tool_flags.json").read_text(encoding="utf-8"))
SCRIPTS = ["networks/resize_lora.py", "networks/merge_lora.py", "networks/sdxl_merge_lora.py", "networks/svd_merge_lora.py",
           "networks/extract_lora_from_models.py", "networks/flux_extract_lora.py", "networks/extract_lora_from_dylora.py",
           "networks/check_lora_weights.py", "tools/show_metadata.py", "networks/merge_lora_old.py", "networks/flux_merge_lora.py",
           "networks/convert_flux_lora.py", "networks/convert_anima_lora_to_comfy.py",
           "networks/convert_hunyuan_image_lora_to_comfy.py", "tools/merge_models.py", "tools/resize_images_to_resolution.py",
           "tools/convert_diffusers20_original_sd.py", "networks/lora_interrogator.py"]


def tool(script):
    """The command's module, as running the file makes it."""
    spec = importlib.util.spec_from_file_location(Path(script).stem + "_command", ROOT / script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script, *argv):
    module = tool(script)
    return command.run(module.setup_parser(), module.work, list(map(str, argv)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_flag_of_kohyas_command_is_there_with_its_default(script):
    ours = {option: action for action in tool(script).setup_parser()._actions for option in action.option_strings}
    for option, theirs in FLAGS.get(script, {}).items():
        assert option in ours, option
        default = ours[option].default
        assert default == theirs or (default, theirs) in (([], None), (False, None)), option


@pytest.fixture
def two(tmp_path):
    return [made.saved(tmp_path / f"{name}.safetensors", made.lora(rank, seed=seed))
            for name, rank, seed in (("a", 8, 1), ("b", 8, 2))]


def test_resize_command_writes_a_smaller_file(tmp_path, two, capsys):
    assert run("networks/resize_lora.py", "--model", two[0], "--save_to", tmp_path / "o.safetensors", "--new_rank", 2,
               "--save_precision", "fp16", "--verbose") == 0
    tensors = read_tensors(tmp_path / "o.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.float16}
    assert all(t.shape[0] == 2 for k, t in tensors.items() if "lora_down" in k)
    assert "norm kept" in capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--concat"], ["--concat", "--shuffle"], ["--no_overlap"]])
def test_merge_command_writes_one_file(tmp_path, two, more):
    assert run("networks/merge_lora.py", "--models", *two, "--ratios", 0.5, 0.5, "--save_to", tmp_path / "o.safetensors",
               *more) == 0
    assert read_metadata(tmp_path / "o.safetensors")["modelspec.merged_from"] == "a, b"


def test_svd_merge_command_has_the_rank_asked_for(tmp_path, two):
    assert run("networks/svd_merge_lora.py", "--models", *two, "--ratios", 1, 1, "--new_rank", 5, "--save_to",
               tmp_path / "o.safetensors", "--lbws", str([1] * 17), str([1] * 17)) == 0
    assert read_metadata(tmp_path / "o.safetensors")["ss_network_dim"] == "5"


@pytest.mark.parametrize(("script", "argv"), [
    ("networks/merge_lora.py", ["--models", "nowhere.safetensors", "--ratios", "1", "--save_to", "o.safetensors"]),
    ("networks/merge_lora.py", ["--save_to", "o.safetensors"]),
    ("networks/resize_lora.py", ["--model", "a.safetensors"]),
    ("networks/svd_merge_lora.py", ["--models", "a.safetensors", "--ratios", "1", "--save_to", "a.safetensors"]),
    ("tools/show_metadata.py", ["--model", "nowhere.safetensors"])])
def test_mistakes_get_a_frame_and_exit_code_1(tmp_path, monkeypatch, capsys, script, argv):
    monkeypatch.chdir(tmp_path)
    made.saved(tmp_path / "a.safetensors", made.lora())
    assert run(script, *argv) == 1
    assert "What to do" in capsys.readouterr().err
    assert not (tmp_path / "o.safetensors").exists()


def test_looking_at_files_says_what_they_are(tmp_path, two, capsys):
    assert run("tools/show_metadata.py", "--model", two[0]) == 0
    assert json.loads(capsys.readouterr().out)["ss_base_model_version"] == "sd_v1"
    assert run("networks/check_lora_weights.py", two[0]) == 0
    assert "4 modules" in capsys.readouterr().out
    assert run("tools/lora_info.py", two[0], "--json", "--picture", tmp_path / "p.png") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "lora"
    assert run("tools/lora_info.py", two[0], "--compare", two[1]) == 0
    assert "4 common modules" in capsys.readouterr().out


def documented():
    """Every command of the page's first block."""
    page = (ROOT / "docs" / "lora-tools.md").read_text(encoding="utf-8")
    return [line for line in page.split("```bash\n")[1].split("```")[0].splitlines() if line.startswith("python ")]


def test_the_documented_commands_do_their_work_one_after_the_other(tmp_path, monkeypatch, capsys):
    from networks import lora
    from tests.lorafile import models

    models.with_tiny_sizes(monkeypatch)
    monkeypatch.chdir(tmp_path)
    parts = models.tiny("sd1")
    models.written("sd1 folder", parts, tmp_path)
    network = models.adapted(lora, "sd1", parts, conv_dim="2")
    for name in ("name", "character", "style", "size", "light"):
        network.save_weights(tmp_path / f"{name}.safetensors", None, {"ss_base_model_version": "sd_v1"})
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    lines = documented()
    assert len(lines) == 7
    for line in lines:
        script, *argv = line.removeprefix("python ").split()
        assert run(script, *argv) == 0, capsys.readouterr().err
        target = argv[argv.index("--save_to") + 1] if "--save_to" in argv else "name.safetensors"
        assert (tmp_path / target).exists()
    assert "acted on what earlier files act on" in capsys.readouterr().out
