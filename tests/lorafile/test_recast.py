"""A whole SD model as a folder, as a checkpoint and as a folder again is the same model."""

import json

import pytest
import torch
from safetensors.torch import load_file

from library.families import registry, source, tiny as tiny_models
from library.families.interface import LoadRequest
from library.util.tensorfile import read_metadata
from tests.families import family_helpers as helpers
from tests.lorafile import models
from tests.lorafile.test_commands import run

SCRIPT = "tools/convert_diffusers20_original_sd.py"
FRONTS = {"sd1": "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
          "sd2": "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight",
          "sdxl": "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"}


def tiny(kind, monkeypatch):
    """A tiny model of SD 1, SD 2 or SDXL; single files are taken to have its sizes."""
    models.with_tiny_sizes(monkeypatch)
    if kind != "sd2":
        return models.tiny(kind)
    parts = models.tiny("sd1")
    small, table = source.asset, source.asset("tiny/sd1.json")["components"]
    table["unet"]["config"] |= {"cross_attention_dim": 1024, "use_linear_projection": True}
    table["text_encoder"]["config"] |= {"hidden_size": 1024, "num_hidden_layers": 2, "hidden_act": "gelu"}
    torch.manual_seed(0)
    parts.denoiser, parts.text_encoders = tiny_models.build(table["unet"]), [tiny_models.build(table["text_encoder"])]
    configs = {part: entry["config"] for part, entry in table.items() if "config" in entry}
    monkeypatch.setattr(source, "asset", lambda name: configs if name == "sd2.json" else small(name))
    return parts


def tensors(family, path):
    parts = family.load(LoadRequest(str(path), family.Options()))
    return {(i, name): t for i, m in enumerate([parts.denoiser, parts.vae, *parts.text_encoders])
            for name, t in m.state_dict().items()}


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_a_folder_becomes_a_checkpoint_and_the_same_folder_again(tmp_path, monkeypatch, kind):
    parts, family = tiny(kind, monkeypatch), registry.get("sdxl" if kind == "sdxl" else "sd1")
    name = "StableDiffusionXLPipeline" if kind == "sdxl" else "StableDiffusionPipeline"
    folder = helpers.save_folder(parts, tmp_path / "元のモデル", name)
    file, back = tmp_path / "m.safetensors", tmp_path / "もう一度"
    assert run(SCRIPT, folder, file, "--epoch", 3, "--metadata", '{"modelspec.title": "mine"}') == 0
    assert run(SCRIPT, file, back) == 0
    want = tensors(family, folder)
    for path in (file, back):
        found = tensors(family, path)
        assert want.keys() == found.keys()
        assert all(torch.equal(t, found[key]) for key, t in want.items())
    assert FRONTS[kind] in load_file(file)
    assert read_metadata(file).items() >= {"ss_epoch": "3", "modelspec.title": "mine"}.items()
    index = json.loads((back / "model_index.json").read_text(encoding="utf-8"))
    assert index["_class_name"] == name and (back / "tokenizer").is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in (folder, file, back))


def test_a_checkpoint_is_spelled_as_original_checkpoints_are(tmp_path, monkeypatch):
    parts = tiny("sd1", monkeypatch)
    run(SCRIPT, helpers.save_folder(parts, tmp_path / "a"), tmp_path / "m.safetensors", "--fp16")
    found, want = load_file(tmp_path / "m.safetensors"), helpers.ldm_tensors(parts)
    assert found.keys() == want.keys()
    assert {t.dtype for t in found.values()} == {torch.float16}
    assert found["first_stage_model.encoder.mid.attn_1.q.weight"].dim() == 4


def test_what_a_model_predicts_is_kept(tmp_path, monkeypatch):
    parts = tiny("sdxl", monkeypatch)
    parts.scheduler_config |= {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    folder = helpers.save_folder(parts, tmp_path / "a", "StableDiffusionXLPipeline")
    assert run(SCRIPT, folder, tmp_path / "m.safetensors") == 0
    assert {"v_pred", "ztsnr"} <= load_file(tmp_path / "m.safetensors").keys()
    assert run(SCRIPT, tmp_path / "m.safetensors", tmp_path / "b") == 0
    told = json.loads((tmp_path / "b" / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    assert told["prediction_type"] == "v_prediction" and told["rescale_betas_zero_snr"] is True
    (folder / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "EulerDiscreteScheduler"}', encoding="utf-8")
    assert run(SCRIPT, tmp_path / "m.safetensors", tmp_path / "c", "--reference_model", folder) == 0
    assert "Euler" in (tmp_path / "c" / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(("argv", "words"), [
    (["a", "b.ckpt"], "written as .safetensors"), (["a", "a"], "read, too"), (["a", "b", "--v2"], "is SD 1"),
    (["a", "b", "--fp16", "--bf16"], "Only one precision"), (["a", "b.safetensors", "--metadata", "[1"], "not a JSON object"),
    (["a", "full"], "Something is there"), (["full", "b"], "Give")])
def test_what_cannot_be_converted_gets_a_sentence(tmp_path, monkeypatch, capsys, argv, words):
    helpers.save_folder(tiny("sd1", monkeypatch), tmp_path / "a")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert run(SCRIPT, *argv) == 1
    told = " ".join(capsys.readouterr().err.replace("┃", " ").split())
    assert words in told, told
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "full"]
