"""Conversions, whole models, folders of pictures, caches: kohya's other commands do their work and refuse in words."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from library.families import registry
from library.lorafile import convert, file, mix
from library.train import only_cache
from library.util.tensorfile import read_metadata, read_tensors
from networks import keys, lora
from tests.lorafile import lora_files as made, models
from tests.lorafile.test_commands import ROOT, run


@pytest.fixture
def flux_file(tmp_path, monkeypatch):
    parts = models.tiny("flux1")
    targets = tuple(registry.get("flux1").adapter_targets(parts))
    monkeypatch.setattr(convert, "targets_of", lambda family: targets)
    network = models.adapted(lora, "flux1", parts)
    network.save_weights(tmp_path / "a.safetensors", None, {"ss_base_model_version": "flux1", "ss_tag_frequency": "{}"})
    return tmp_path / "a.safetensors", targets


def test_kohyas_conversion_goes_to_ai_toolkits_names_and_back(tmp_path, flux_file):
    source, targets = flux_file
    there, back = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    words = "networks/convert_flux_lora.py"
    assert run(words, "--src", "sd-scripts", "--dst", "ai-toolkit", "--src_path", source, "--dst_path", there) == 0
    assert {keys.format_of(k) for k in read_tensors(there)} - {"kohya"} == {"diffusers"}
    assert run(words, "--src_path", there, "--dst_path", back) == 0
    found, _ = keys.to_kohya(read_tensors(back), keys.Names.of(targets))
    want, _ = keys.to_kohya(read_tensors(source), keys.Names.of(targets))
    for name, parts in want.items():
        torch.testing.assert_close(made.product(keys.flatten({"x": found[name]}), "x"),
                                   made.product(keys.flatten({"x": parts}), "x"), rtol=1e-4, atol=1e-5)
    assert read_metadata(back)["ss_tag_frequency"] == "{}"
    assert read_metadata(back)["sshs_model_hash"] != read_metadata(there)["sshs_model_hash"]


def test_conversion_to_comfy_and_back_by_kohyas_other_commands(tmp_path, flux_file):
    source, _ = flux_file
    for script in ("networks/convert_anima_lora_to_comfy.py", "networks/convert_hunyuan_image_lora_to_comfy.py"):
        assert run(script, source, tmp_path / "b.safetensors") == 0
        assert any(k.startswith("diffusion_model.") for k in read_tensors(tmp_path / "b.safetensors"))
        assert run(script, tmp_path / "b.safetensors", tmp_path / "c.safetensors", "--reverse") == 0
        assert set(read_tensors(tmp_path / "c.safetensors")) == set(read_tensors(source))


def test_a_wrongly_named_source_format_is_said_so(tmp_path, flux_file, capsys):
    assert run("networks/convert_flux_lora.py", "--src_path", flux_file[0], "--dst_path", tmp_path / "b.safetensors") == 1
    assert "kohya's, not diffusers'" in " ".join(capsys.readouterr().err.split())
    assert run("networks/convert_flux_lora.py", "--src", "peft", "--src_path", flux_file[0], "--dst_path", tmp_path / "b.pt") == 1


def models_of(tmp_path, *more):
    g = torch.Generator().manual_seed(0)
    names = ["model.diffusion_model.a.weight", "first_stage_model.b.weight"]
    found = []
    for number, extra in enumerate(more):
        tensors = {name: torch.randn(3, 4, generator=g) for name in [*names, *extra]} | {"steps": torch.tensor([number])}
        save_file(tensors, tmp_path / f"{number}.safetensors", {"modelspec.title": "t"})
        found.append((tmp_path / f"{number}.safetensors", tensors))
    return found


def test_models_are_mixed_tensor_by_tensor(tmp_path, capsys):
    (one, a), (two, b) = models_of(tmp_path, ["only_here"], ["only_there"])
    target = tmp_path / "mix.safetensors"
    assert run("tools/merge_models.py", "--models", one, two, "--ratios", 0.7, 0.3, "--output", target, "--show_skipped") == 0
    mixed = load_file(target)
    for name in ("model.diffusion_model.a.weight", "first_stage_model.b.weight"):
        torch.testing.assert_close(mixed[name], 0.7 * a[name] + 0.3 * b[name])
    torch.testing.assert_close(mixed["only_here"], a["only_here"])
    assert torch.equal(mixed["steps"], a["steps"]) and "only_there" in capsys.readouterr().out
    assert read_metadata(target)["modelspec.merged_from"] == "0, 1"
    assert run("tools/merge_models.py", "--models", one, two, "--output", target, "--unet_only", "--saving_precision", "fp16") == 0
    half = load_file(target)
    assert torch.equal(half["first_stage_model.b.weight"], a["first_stage_model.b.weight"].half())
    torch.testing.assert_close(half["model.diffusion_model.a.weight"], ((a["model.diffusion_model.a.weight"]
                               + b["model.diffusion_model.a.weight"]) / 2).half())


@pytest.mark.parametrize(("argv", "words"), [
    (["--models", "0.safetensors", "1.safetensors", "--output", "0.safetensors"], "read, too"),
    (["--models", "0.safetensors", "--output", "m.safetensors"], "mixing needs two"),
    (["--models", "0.safetensors", "1.safetensors", "--ratios", "1", "--output", "m.safetensors"], "Give one for each"),
    (["--models", "0.safetensors", "other.safetensors", "--output", "m.safetensors"], "no tensor in common"),
    (["--models", "0.safetensors", "cut.safetensors", "--output", "m.safetensors"], "cut off"),
    (["--models", "0.safetensors", "wide.safetensors", "--output", "m.safetensors"], "3x4 in")])
def test_models_that_cannot_be_mixed_get_a_sentence(tmp_path, monkeypatch, capsys, argv, words):
    monkeypatch.chdir(tmp_path)
    models_of(tmp_path, [], [])
    save_file({"else": torch.zeros(2)}, "other.safetensors")
    save_file({"model.diffusion_model.a.weight": torch.zeros(2, 2)}, "wide.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "0.safetensors").read_bytes()[:-20])
    before = (tmp_path / "0.safetensors").read_bytes()
    assert run("tools/merge_models.py", *argv) == 1
    told = " ".join(capsys.readouterr().err.replace("┃", " ").split())
    assert words in told, told
    assert (tmp_path / "0.safetensors").read_bytes() == before and not (tmp_path / "m.safetensors").exists()
    assert mix.DENOISER


def test_pictures_are_written_at_every_size_with_their_files(tmp_path):
    source, target = tmp_path / "元の絵", tmp_path / "小さい絵"
    source.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)).save(source / "a.jpg")
    (source / "a.txt").write_text("a caption", encoding="utf-8")
    assert run("tools/resize_images_to_resolution.py", source, target, "--max_resolution", "80x80,64x64", "--divisible_by", 8,
               "--copy_associated_files", "--save_as_png") == 0
    sizes = {p.name: Image.open(p).size for p in target.glob("*.png")}
    assert sizes == {"a+80x80.png": (104, 56), "a+64x64.png": (80, 48)}
    assert (target / "a+64x64.txt").read_text(encoding="utf-8") == "a caption"


@pytest.mark.parametrize("argv", [["nowhere", "out"], [".", "."], [".", "out", "--max_resolution", "big"], [".", "out"]])
def test_folders_that_cannot_be_resized_get_a_sentence(tmp_path, monkeypatch, capsys, argv):
    monkeypatch.chdir(tmp_path)
    assert run("tools/resize_images_to_resolution.py", *argv) == 1
    assert "What to do" in capsys.readouterr().err


@pytest.mark.parametrize(("cache", "suffix"), [("cache_latents_to_disk", "_0064x0064_sd.npz"),
                                               ("cache_text_encoder_outputs_to_disk", "_te.npz")])
def test_a_cache_is_filled_beside_the_pictures_without_training(tmp_path, monkeypatch, cache, suffix):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "1_x"
    folder.mkdir(parents=True)
    for name in ("001.png", "001.txt"):
        (folder / name).write_bytes((ROOT / "examples" / "dataset" / "10_zobi" / name).read_bytes())
    argv = [f"--pretrained_model_name_or_path={ROOT / 'examples' / 'tiny-sd'}", f"--train_data_dir={tmp_path / 'data'}",
            "--resolution=64,64", "--caption_extension=.txt", "--console_log_level=WARNING"]
    assert only_cache.main(argv, cache, "") == 0
    written = folder / f"001{suffix}"
    first = written.read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.is_file()]
    assert only_cache.main([*argv, "--skip_existing"], cache, "") == 0
    assert written.read_bytes() == first
    assert only_cache.main(["--train_data_dir=nowhere"], cache, "") == 1


def test_json_of_a_file_is_kept_whole_by_every_command(tmp_path):
    tags = json.dumps({"x": {"青い 髪": 3}}, ensure_ascii=False)
    source = made.saved(tmp_path / "a.safetensors", made.lora(), {"ss_tag_frequency": tags})
    assert run("networks/resize_lora.py", "--model", source, "--save_to", tmp_path / "b.safetensors", "--new_rank", 2) == 0
    assert read_metadata(tmp_path / "b.safetensors")["ss_tag_frequency"] == tags
    assert file.read(tmp_path / "b.safetensors").identity.ranks == {2: 4}
